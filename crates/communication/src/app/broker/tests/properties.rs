//! Whatever happens in whatever order: no task is lost, nobody holds more than its credit, nothing waits beside free
//! credit, and a task ends once towards the orchestrator.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Open { agent: u128, credits: u32 },
    Close(usize),
    Drain(usize),
    Dispatch { task: usize, target: usize, priority: u8 },
    Finish { session: usize, task: usize },
    Nack { session: usize, task: usize },
    Reject { session: usize, task: usize },
    Cancel(usize),
    Acknowledge(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = 0..6_usize;
    let task = 0..12_usize;
    let step = prop_oneof![
        2 => (1..4_u128, 1..4_u32).prop_map(|(agent, credits)| Step::Open { agent, credits }),
        1 => session.clone().prop_map(Step::Close),
        1 => session.clone().prop_map(Step::Drain),
        6 => (task.clone(), 0..4_usize, 0..3_u8)
            .prop_map(|(task, target, priority)| Step::Dispatch { task, target, priority }),
        4 => (session.clone(), task.clone()).prop_map(|(session, task)| Step::Finish { session, task }),
        2 => (session.clone(), task.clone()).prop_map(|(session, task)| Step::Nack { session, task }),
        1 => (session, task.clone()).prop_map(|(session, task)| Step::Reject { session, task }),
        1 => task.clone().prop_map(Step::Cancel),
        1 => task.prop_map(Step::Acknowledge),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What the orchestrator believes.
#[derive(Default)]
struct Believed {
    wanted: BTreeSet<String>,
    ended: BTreeSet<String>,
}

fn name(task: usize) -> String {
    format!("t{task}")
}

fn take(bench: &mut Bench, believed: &mut Believed, step: Step) {
    let sessions: Vec<_> = bench.broker.sessions.keys().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let pick = |index: usize| sessions.get(index % sessions.len().max(1)).copied();
    match step {
        Step::Open { agent, credits } => {
            bench.open(AgentId::from_parts(1, agent), credits);
        }
        Step::Close(session) => {
            if let Some(session) = pick(session) {
                bench.broker.close(session, "lost");
            }
        }
        Step::Drain(session) => {
            if let Some(session) = pick(session) {
                bench.broker.drain(session);
            }
        }
        Step::Dispatch { task, target, priority } => dispatch(bench, believed, name(task), target, priority),
        Step::Finish { session, task } => {
            if let Some(session) = pick(session).filter(|session| holds(bench, *session, task)) {
                bench.finish(session, &name(task));
            }
        }
        Step::Nack { session, task } => {
            if let Some(session) = pick(session) {
                bench.broker.nack(session, &name(task), "busy", None);
            }
        }
        Step::Reject { session, task } => {
            if let Some(session) = pick(session) {
                bench.broker.reject(session, &name(task), "never");
            }
        }
        Step::Cancel(task) => {
            bench.broker.cancel(&name(task), "not wanted");
            if !bench.broker.tasks.contains_key(name(task).as_str()) {
                believed.wanted.remove(&name(task));
            }
        }
        Step::Acknowledge(task) => bench.broker.acknowledge(&name(task)),
    }
}

fn dispatch(bench: &mut Bench, believed: &mut Believed, id: String, target: usize, priority: u8) {
    if !believed.wanted.contains(&id) && !believed.ended.contains(&id) {
        let capability = Target::Capability("sort".into());
        let targets = [clerk(), capability, Target::Agent(AGENT), Target::AgentType("nobody".into())];
        bench.dispatch(&id, targets[target].clone(), priority);
        believed.wanted.insert(id);
    }
}

fn holds(bench: &Bench, session: SessionId, task: usize) -> bool {
    bench.broker.sessions.get(&session).is_some_and(|session| session.tasks.contains(name(task).as_str()))
}

/// What the writer does: dead letters are recorded.
fn bury(bench: &mut Bench) {
    for entry in bench.broker.journal.take_now() {
        if let crate::app::Entry::DeadTask { task, .. } = entry {
            bench.broker.buried(&task.id);
        }
    }
}

fn check(bench: &Bench, believed: &mut Believed) {
    for (id, what) in bench.told() {
        match what {
            What::Ended(_) | What::DeadLettered { .. } => {
                assert!(believed.ended.insert(id.clone()), "{id} ended twice");
                believed.wanted.remove(&id);
            }
            What::Refused(_) => {
                believed.wanted.remove(&id);
            }
            What::Waiting
            | What::Enqueued
            | What::HandedOver { .. }
            | What::Begun
            | What::Alive
            | What::Shown(_)
            | What::Requeued(_)
            | What::Unknown => {}
        }
    }
    bench.check_credit();
    for id in &believed.wanted {
        let entry = bench.broker.tasks.get(id.as_str()).unwrap_or_else(|| panic!("{id} is lost"));
        match &entry.state {
            State::Held { session, .. } => {
                let holder = &bench.broker.sessions[session];
                assert!(holder.tasks.contains(id.as_str()), "{id} is held by nobody");
            }
            State::Queued { .. } => assert!(bench.broker.queues.tasks(&entry.key).iter().any(|one| **one == **id)),
            State::Delayed { .. } | State::Leaving | State::Ended { .. } | State::Dying { .. } => {}
        }
    }
    let held: usize = bench.broker.sessions.values().map(|session| session.tasks.len()).sum();
    let known = bench.broker.tasks.values().filter(|entry| matches!(entry.state, State::Held { .. })).count();
    assert_eq!(held, known, "held twice, or by nobody");
}

proptest! {
    #[test]
    fn no_task_is_lost_and_none_ends_twice(steps in steps()) {
        let mut bench = Bench::new(6, 3);
        let mut believed = Believed::default();
        for step in steps {
            take(&mut bench, &mut believed, step);
            bury(&mut bench);
            check(&bench, &mut believed);
        }
    }
}
