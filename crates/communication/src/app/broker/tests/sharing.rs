//! Whatever happens to two replicas and the message broker between them: no task is lost, and when things are quiet each one
//! ends.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{imagined::Server, *};

const REPLICAS: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Step {
    Open { replica: usize, credits: u32 },
    Close { replica: usize, session: usize },
    Dispatch { replica: usize, task: usize, is_clerks: bool },
    Finish { replica: usize, session: usize },
    Nack { replica: usize, session: usize },
    Cancel { task: usize },
    Confirm { replica: usize, is_heard: bool },
    Refuse { replica: usize },
    Deliver { replica: usize },
    Disconnect { replica: usize },
    Kill { replica: usize, is_there: bool },
    Away(bool),
    Reorder,
    Later { replica: usize },
    Look { replica: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let replica = 0..REPLICAS;
    let (session, task) = (0..4_usize, 0..8_usize);
    let step = prop_oneof![
        3 => (replica.clone(), 1..3_u32).prop_map(|(replica, credits)| Step::Open { replica, credits }),
        2 => (replica.clone(), session.clone()).prop_map(|(replica, session)| Step::Close { replica, session }),
        8 => (replica.clone(), task.clone(), any::<bool>())
            .prop_map(|(replica, task, is_clerks)| Step::Dispatch { replica, task, is_clerks }),
        3 => (replica.clone(), session.clone()).prop_map(|(replica, session)| Step::Finish { replica, session }),
        2 => (replica.clone(), session).prop_map(|(replica, session)| Step::Nack { replica, session }),
        1 => task.prop_map(|task| Step::Cancel { task }),
        5 => (replica.clone(), any::<bool>()).prop_map(|(replica, is_heard)| Step::Confirm { replica, is_heard }),
        1 => replica.clone().prop_map(|replica| Step::Refuse { replica }),
        6 => replica.clone().prop_map(|replica| Step::Deliver { replica }),
        1 => replica.clone().prop_map(|replica| Step::Disconnect { replica }),
        1 => (replica.clone(), any::<bool>()).prop_map(|(replica, is_there)| Step::Kill { replica, is_there }),
        1 => any::<bool>().prop_map(Step::Away),
        1 => Just(Step::Reorder),
        3 => replica.clone().prop_map(|replica| Step::Later { replica }),
        2 => replica.prop_map(|replica| Step::Look { replica }),
    ];
    proptest::collection::vec(step, 1..80)
}

struct World {
    server: Arc<Server>,
    benches: Vec<Bench>,
    wanted: BTreeSet<String>,
    /// Ended or not wanted: what is still said of them does not matter.
    over: BTreeSet<String>,
}

impl World {
    fn new() -> Self {
        let server = Arc::new(Server::default());
        let benches = (0..REPLICAS).map(|replica| server.bench(replica, 32, 1_000)).collect();
        Self { server, benches, wanted: BTreeSet::new(), over: BTreeSet::new() }
    }

    fn session(&self, replica: usize, index: usize) -> Option<SessionId> {
        let open: BTreeSet<_> = self.benches[replica].broker.sessions.keys().copied().collect();
        open.iter().nth(index % open.len().max(1)).copied()
    }

    fn holding(&self, replica: usize, index: usize) -> Option<(SessionId, String)> {
        let session = self.session(replica, index)?;
        let held = &self.benches[replica].broker.sessions[&session].tasks;
        held.iter().min().map(|task| (session, task.to_string()))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Open { replica, credits } => {
                self.benches[replica].open(AgentId::from_parts(1, replica as u128 + 1), credits);
            }
            Step::Close { replica, session } => {
                if let Some(session) = self.session(replica, session) {
                    self.benches[replica].broker.close(session, "lost");
                }
            }
            Step::Dispatch { replica, task, is_clerks } => {
                let id = format!("t{task}");
                if !self.over.contains(&id) && self.wanted.insert(id.clone()) {
                    let target = if is_clerks { clerk() } else { Target::Capability("sort".into()) };
                    self.benches[replica].dispatch(&id, target, 0);
                }
            }
            Step::Finish { replica, session } => {
                if let Some((session, task)) = self.holding(replica, session) {
                    self.benches[replica].finish(session, &task);
                }
            }
            Step::Nack { replica, session } => {
                if let Some((session, task)) = self.holding(replica, session) {
                    self.benches[replica].broker.nack(session, &task, "busy", None);
                }
            }
            Step::Cancel { task } => {
                let id = format!("t{task}");
                if self.wanted.remove(&id) {
                    self.end(id);
                }
            }
            Step::Confirm { replica, is_heard } => {
                self.server.confirm(replica, &mut self.benches[replica].broker, is_heard);
            }
            Step::Refuse { replica } => self.server.refuse(replica, &mut self.benches[replica].broker),
            Step::Deliver { replica } => {
                self.server.deliver(replica, &mut self.benches[replica].broker);
            }
            Step::Disconnect { replica } => {
                self.server.disconnect(replica);
                self.benches[replica].broker.disconnected();
            }
            Step::Kill { replica, is_there } => {
                self.server.end(replica, is_there);
                self.benches[replica] = self.server.bench(replica, 32, 1_000);
                self.dispatch_what_is_lost();
            }
            Step::Away(is_away) => self.server.set_away(is_away),
            Step::Reorder => self.server.reorder(),
            Step::Later { replica } => {
                self.benches[replica].broker.advance(Instant::now() + Duration::from_hours(1));
            }
            Step::Look { replica } => {
                let broker = &mut self.benches[replica].broker;
                let empty = broker.remembered().into_iter().filter(|key| !self.server.has_any(key));
                empty.for_each(|key| broker.emptied(&key, Instant::now()));
            }
        }
    }

    /// As the orchestrator does when a stream has ended.
    fn dispatch_what_is_lost(&mut self) {
        let lost: Vec<_> = self.wanted.iter().filter(|id| !self.is_somewhere(id)).cloned().collect();
        for id in lost {
            self.benches[0].dispatch(&id, clerk(), 0);
        }
    }

    fn is_somewhere(&self, id: &str) -> bool {
        self.server.knows(id) || self.benches.iter().any(|bench| bench.broker.tasks.contains_key(id))
    }

    /// The orchestrator has committed the end, and says so to all.
    fn end(&mut self, id: String) {
        for bench in &mut self.benches {
            bench.broker.acknowledge(&id);
            bench.broker.cancel(&id, "not wanted");
        }
        self.over.insert(id);
    }

    fn hear(&mut self) {
        for replica in 0..REPLICAS {
            for (id, what) in self.benches[replica].told() {
                match what {
                    What::Ended(_) => {
                        self.wanted.remove(&id);
                        self.end(id);
                    }
                    // What nobody wants is withdrawn when it turns up.
                    What::HandedOver { .. } if self.over.contains(&id) => {
                        self.benches[replica].broker.cancel(&id, "not wanted");
                    }
                    _ => {}
                }
            }
        }
    }

    fn check(&self) {
        for id in &self.wanted {
            assert!(self.is_somewhere(id), "{id} is lost");
        }
        for bench in &self.benches {
            bench.check_credit();
        }
    }

    /// Nothing bad happens any more, and there are agents.
    fn settle_down(&mut self) {
        self.server.set_away(false);
        for replica in 0..REPLICAS {
            self.take(Step::Open { replica, credits: 2 });
        }
        for _ in 0..100 {
            for replica in 0..REPLICAS {
                self.take(Step::Confirm { replica, is_heard: true });
                self.take(Step::Deliver { replica });
                self.take(Step::Later { replica });
                for session in 0..self.benches[replica].broker.sessions.len() {
                    self.take(Step::Finish { replica, session });
                    self.hear();
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_task_is_lost_between_replicas_and_each_ends(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.hear();
            world.check();
        }
        world.settle_down();
        prop_assert!(world.wanted.is_empty(), "{:?} have not ended", world.wanted);
        prop_assert!(world.server.waiting().is_empty(), "nothing is left in the queues");
        prop_assert_eq!(world.server.unsettled(), 0, "nothing is left unsettled");
    }
}
