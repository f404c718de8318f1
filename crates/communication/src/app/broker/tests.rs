//! The broker alone: streams are outboxes that are read by hand, time is what the test says.

mod imagined;
mod lost;
mod mail;
mod properties;
mod sharing;
mod suspects;
mod work;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use domain::{ManualClock, Namespace, Timestamp};

use super::{tasks::State, *};
use crate::{
    app::model::{Outcome, Task, ToOrchestrator, What},
    transport::{Direct, MailboxLimits},
};

/// A broker with one orchestrator.
pub(super) struct Bench {
    pub(super) broker: Broker,
    pub(super) clock: Arc<ManualClock>,
    pub(super) attachment: Attachment,
    pub(super) updates: Outbox<ToOrchestrator>,
    pub(super) outboxes: BTreeMap<SessionId, Outbox<ToAgent>>,
    sessions: u128,
    /// Of the next dispatch.
    epoch: i64,
}

pub(super) const AGENT: AgentId = AgentId::from_parts(1, 1);
const SPILL_AFTER: Duration = Duration::from_millis(100);

impl Bench {
    /// No session has more than its credit, and nothing waits beside a free one, but for what another is kept free for.
    pub(super) fn check_credit(&self) {
        for session in self.broker.sessions.values() {
            assert!(session.load() <= session.credits, "more than its credit");
            for key in &session.fits {
                let next = self.broker.next_for(key, session.id);
                assert!(!session.has_room() || next.is_none(), "{next:?} waits beside free credit");
            }
        }
        for (id, session) in &self.broker.awaited {
            let (task, session) = (&self.broker.tasks[id], &self.broker.sessions[session]);
            assert!(
                session.awaits.as_ref().is_some_and(|(awaited, _)| awaited == id) && session.fits.contains(&task.key),
                "{id} is awaited in vain"
            );
            assert!(matches!(task.state, State::Queued { .. }), "{id} is not in line");
        }
        let awaiting = self.broker.sessions.values().filter(|session| session.awaits.is_some());
        assert_eq!(awaiting.count(), self.broker.awaited.len());
    }

    pub(super) fn new(queue: usize, deliveries: u32) -> Self {
        Self::sharing(queue, deliveries, None)
    }

    /// One that shares work queues with others.
    pub(super) fn sharing(queue: usize, deliveries: u32, work: Option<Arc<dyn WorkQueues>>) -> Self {
        let spill_after = SPILL_AFTER;
        let limits = Limits { queue, deliveries, spill_after, output: 64, foreign_results: 16 };
        let transport = Arc::new(Direct::new(MailboxLimits { messages: 16, bytes: 1_024 }, None));
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let mut broker = Broker::new(limits, transport, work, Arc::new(Journal::new(1_024)), Arc::clone(&clock) as _);
        let updates = Outbox::new(100_000);
        let attachment = broker.attach("rep_1", updates.clone());
        Self { broker, clock, attachment, updates, outboxes: BTreeMap::new(), sessions: 0, epoch: 1 }
    }

    /// Longer than what waits has to for others to take it: once it is seen that it does, and once who the others are.
    pub(super) fn wait_long(&mut self) {
        for _ in 0..2 {
            self.broker.advance(Instant::now() + SPILL_AFTER * 2);
        }
    }

    pub(super) fn open(&mut self, agent: AgentId, credits: u32) -> SessionId {
        self.open_in("default", agent, credits)
    }

    fn open_in(&mut self, namespace: &str, agent: AgentId, credits: u32) -> SessionId {
        self.sessions += 1;
        let session = SessionId::from_parts(0, self.sessions);
        let outbox = Outbox::new(100_000);
        let mailbox = Mailbox::of_agent(namespace.parse().unwrap(), agent);
        let opening = Opening {
            session,
            mailbox,
            instance: None,
            agent_type: "clerk".to_owned(),
            capabilities: vec!["sort".to_owned()],
            credits,
            config: Bytes::new(),
        };
        self.broker.open(opening, outbox.clone());
        self.outboxes.insert(session, outbox);
        session
    }

    pub(super) fn dispatch(&mut self, id: &str, target: Target, priority: u8) {
        let task = Task {
            id: id.into(),
            namespace: Namespace::default(),
            execution_id: String::new(),
            step_id: String::new(),
            index: None,
            attempt: 1,
            target,
            action: "sort".to_owned(),
            input: Bytes::from_static(b"{}"),
            priority,
            timeout_ms: 0,
            heartbeat_timeout_ms: 0,
            traceparent: String::new(),
            epoch: self.epoch,
        };
        self.broker.dispatch(&self.attachment, task);
    }

    /// The tasks that a session was given since it was asked last.
    pub(super) fn given(&self, session: SessionId) -> Vec<String> {
        let task = |event: ToAgent| match event {
            ToAgent::Task { task, .. } => Some(task.id.to_string()),
            _ => None,
        };
        self.outboxes[&session].drain().into_iter().filter_map(task).collect()
    }

    /// What the orchestrator was told since it was asked last.
    pub(super) fn told(&self) -> Vec<(String, What)> {
        told(&self.updates)
    }

    /// The orchestrator's stream ends, and a new one begins.
    fn attach_again(&mut self) {
        self.broker.detach(&self.attachment);
        self.updates = Outbox::new(100_000);
        self.attachment = self.broker.attach("rep_1", self.updates.clone());
    }

    pub(super) fn finish(&mut self, session: SessionId, id: &str) {
        self.broker.result(session, id, Outcome::Output(Bytes::from_static(b"1")));
    }
}

/// What an orchestrator was told since it was asked last.
fn told(updates: &Outbox<ToOrchestrator>) -> Vec<(String, What)> {
    let update = |said| match said {
        ToOrchestrator::Update(update) => Some((update.task.to_string(), update.what)),
        ToOrchestrator::Serving(_) => None,
    };
    updates.drain().into_iter().filter_map(update).collect()
}

pub(super) fn clerk() -> Target {
    Target::AgentType("clerk".into())
}

#[test]
fn the_most_urgent_of_all_queues_comes_first_then_the_earliest() {
    let mut bench = Bench::new(16, 5);
    bench.dispatch("a", clerk(), 0);
    bench.dispatch("b", Target::Capability("sort".into()), 5);
    bench.dispatch("c", Target::Agent(AGENT), 5);
    bench.dispatch("d", clerk(), 9);
    bench.dispatch("other", Target::Agent(AgentId::from_parts(2, 2)), 9);
    let session = bench.open(AGENT, 10);
    assert_eq!(bench.given(session), ["d", "b", "c", "a"]);
}

#[test]
fn the_least_loaded_session_is_next() {
    let mut bench = Bench::new(16, 5);
    let (first, second) = (bench.open(AGENT, 4), bench.open(AGENT, 4));
    for id in ["a", "b", "c", "d"] {
        bench.dispatch(id, clerk(), 0);
    }
    assert_eq!((bench.given(first).len(), bench.given(second).len()), (2, 2));
    bench.finish(first, "a");
    bench.finish(first, "c");
    bench.dispatch("e", clerk(), 0);
    bench.dispatch("f", clerk(), 0);
    assert_eq!((bench.given(first).len(), bench.given(second).len()), (2, 0));
}

#[test]
fn what_a_lost_session_held_goes_in_front_in_its_order() {
    let mut bench = Bench::new(16, 5);
    let lost = bench.open(AGENT, 3);
    for id in ["a", "b", "c", "later"] {
        bench.dispatch(id, clerk(), 0);
    }
    bench.broker.close(lost, "lost");
    let next = bench.open(AGENT, 10);
    assert_eq!(bench.given(next), ["a", "b", "c", "later"]);
}

/// An agent whose process ends as soon as it gets the task `poison`; it finishes everything else, where it lives for long
/// enough to do so.
fn live_and_die(bench: &mut Bench, credits: u32, finished: &mut Vec<String>) {
    let session = bench.open(AGENT, credits);
    loop {
        let given = bench.given(session);
        if given.iter().any(|id| id == "poison") {
            bench.broker.close(session, "its process is gone");
            return;
        }
        if given.is_empty() {
            return;
        }
        for id in given {
            bench.finish(session, &id);
            finished.push(id);
        }
    }
}

#[test]
fn what_ends_every_session_dies_alone() {
    const CREDITS: u32 = 8;
    let mut bench = Bench::new(100, 5);
    bench.dispatch("before", clerk(), 5);
    bench.dispatch("poison", clerk(), 5);
    let innocent: Vec<_> = (10..40).map(|number| format!("task-{number}")).collect();
    for id in &innocent {
        bench.dispatch(id, clerk(), 5);
    }
    let mut finished = Vec::new();
    for _ in 0..5 {
        live_and_die(&mut bench, CREDITS, &mut finished);
    }
    let dead = |entry: &crate::app::Entry| match entry {
        crate::app::Entry::DeadTask { task, letter } => Some((task.id.to_string(), letter.deliveries)),
        _ => None,
    };
    let entries = bench.broker.journal.take_now();
    assert_eq!(entries.iter().filter_map(dead).collect::<Vec<_>>(), [("poison".to_owned(), 5)]);
    live_and_die(&mut bench, CREDITS, &mut finished);
    finished.sort();
    assert_eq!(finished, [vec!["before".to_owned()], innocent].concat());
}

#[test]
fn what_waits_to_be_alone_holds_nobody_up_when_it_is_withdrawn() {
    let mut bench = Bench::new(16, 5);
    bench.dispatch("suspect", clerk(), 5);
    for _ in 0..2 {
        let session = bench.open(AGENT, 4);
        assert_eq!(bench.given(session), ["suspect"]);
        bench.broker.close(session, "its process is gone");
    }
    bench.dispatch("long", clerk(), 9);
    let session = bench.open(AGENT, 4);
    assert_eq!(bench.given(session), ["long"]);
    bench.dispatch("next", clerk(), 5);
    assert_eq!(bench.given(session), Vec::<String>::new(), "the other has its turn first, and not beside `long`");
    bench.broker.cancel("suspect", "not wanted");
    assert_eq!(bench.given(session), ["next"]);
}

#[test]
fn a_dispatch_that_is_repeated_hands_nothing_over_twice() {
    let mut bench = Bench::new(16, 5);
    let session = bench.open(AGENT, 10);
    bench.dispatch("a", clerk(), 0);
    bench.dispatch("a", clerk(), 0);
    assert_eq!(bench.given(session), ["a"]);
    bench.finish(session, "a");
    bench.told();
    bench.dispatch("a", clerk(), 0);
    assert!(matches!(&bench.told()[..], [(id, What::Ended(_))] if id == "a"), "the result is offered instead");
}

#[test]
fn the_first_result_wins_and_both_agents_are_acknowledged() {
    let mut bench = Bench::new(16, 5);
    let lost = bench.open(AGENT, 1);
    bench.dispatch("a", clerk(), 0);
    bench.broker.close(lost, "lost");
    let other = bench.open(AgentId::from_parts(2, 2), 1);
    assert_eq!(bench.given(other), ["a"]);
    let back = bench.open(AGENT, 1);
    bench.finish(back, "a");
    assert!(matches!(&bench.outboxes[&other].drain()[..], [ToAgent::Cancel { .. }]));
    bench.finish(other, "a");
    assert_eq!(bench.told().iter().filter(|(_, what)| matches!(what, What::Ended(_))).count(), 1);
    bench.broker.acknowledge("a");
    for session in [back, other] {
        assert!(bench.outboxes[&session].drain().iter().any(|event| matches!(event, ToAgent::ResultAck(_))));
    }
}

#[test]
fn a_new_stream_hears_what_is_held_so_that_it_can_withdraw_what_it_gave_up() {
    let mut bench = Bench::new(16, 5);
    bench.open(AGENT, 2);
    bench.dispatch("a", clerk(), 0);
    bench.told();
    bench.attach_again();
    assert!(matches!(&bench.told()[..], [(id, What::HandedOver { delivery: 1, .. })] if id == "a"));
}

#[test]
fn a_result_of_another_namespaces_agent_is_no_answer_to_a_dispatch() {
    let mut bench = Bench::new(16, 5);
    let stranger = bench.open_in("elsewhere", AgentId::from_parts(9, 9), 1);
    bench.finish(stranger, "a");
    bench.told();
    let session = bench.open(AGENT, 1);
    bench.dispatch("a", clerk(), 0);
    assert_eq!(bench.given(session), ["a"]);
}

#[test]
fn a_session_whose_results_nobody_commits_is_given_no_more() {
    let mut bench = Bench::new(10_000, 5);
    let session = bench.open(AGENT, 1);
    let ids: Vec<_> = (0..2_000).map(|number| format!("t{number}")).collect();
    for id in &ids {
        bench.dispatch(id, clerk(), 0);
    }
    let mut done = Vec::new();
    loop {
        let given = bench.given(session);
        if given.is_empty() {
            break;
        }
        for id in &given {
            bench.finish(session, id);
        }
        done.extend(given);
    }
    assert_eq!(done.len(), 1_024);
    bench.broker.acknowledge(&done[0]);
    assert_eq!(bench.given(session), [ids[1_024].as_str()]);
}

#[test]
fn a_result_that_is_too_large_fails_its_attempt() {
    let mut bench = Bench::new(16, 5);
    let session = bench.open(AGENT, 1);
    bench.dispatch("a", clerk(), 0);
    bench.told();
    bench.broker.result(session, "a", Outcome::Output(Bytes::from(vec![b'1'; 65])));
    let told = bench.told();
    assert!(
        matches!(&told[..], [(_, What::Ended(Outcome::Failure { code, .. }))] if code == "output_too_large"),
        "{told:?}"
    );
}

#[test]
fn a_delayed_task_comes_back_when_its_time_has_come() {
    let mut bench = Bench::new(16, 5);
    let session = bench.open(AGENT, 1);
    bench.dispatch("a", clerk(), 0);
    bench.given(session);
    let now = Instant::now();
    let due = now + Duration::from_hours(1);
    bench.broker.nack(session, "a", "not now", Some(due));
    bench.broker.advance(now);
    assert!(bench.given(session).is_empty());
    bench.broker.advance(due);
    assert_eq!(bench.given(session), ["a"]);
}

#[test]
fn an_orchestrator_that_leaves_takes_its_unheld_tasks_along() {
    let mut bench = Bench::new(16, 5);
    let session = bench.open(AGENT, 1);
    bench.dispatch("held", clerk(), 0);
    bench.dispatch("queued", clerk(), 0);
    bench.broker.detach(&bench.attachment.clone());
    assert_eq!((bench.broker.queued(), bench.given(session)), (0, vec!["held".to_owned()]));
    bench.finish(session, "held");
    bench.updates = Outbox::new(16);
    bench.attachment = bench.broker.attach("rep_2", bench.updates.clone());
    assert!(matches!(&bench.told()[..], [(id, What::Ended(_))] if id == "held"));
}

#[test]
fn an_agent_that_learns_something_gets_the_work_for_it() {
    let mut bench = Bench::new(16, 5);
    let session = bench.open(AGENT, 1);
    bench.dispatch("a", Target::Capability("bind".into()), 0);
    assert!(matches!(&bench.told()[..], [(_, What::Waiting)]));
    let mailbox = Mailbox::of_agent(Namespace::default(), AGENT);
    bench.broker.refit(&mailbox, "clerk", &["sort".to_owned(), "bind".to_owned()]);
    assert_eq!(bench.given(session), ["a"]);
}

#[test]
fn whoever_has_lost_an_execution_is_not_heard() {
    let mut bench = Bench::new(8, 3);
    let session = bench.open(AGENT, 1);
    let (old, old_updates) = (bench.attachment.clone(), bench.updates.clone());
    bench.dispatch("a", clerk(), 0);
    assert_eq!(bench.given(session), ["a"]);
    // Another has taken it over.
    bench.updates = Outbox::new(100);
    bench.attachment = bench.broker.attach("rep_2", bench.updates.clone());
    bench.epoch = 2;
    bench.dispatch("a", clerk(), 0);
    old_updates.drain();
    // What the first still says comes too late.
    let new = std::mem::replace(&mut bench.attachment, old);
    bench.epoch = 1;
    bench.dispatch("a", clerk(), 0);
    assert!(bench.broker.is_outdated("a", 1) && !bench.broker.is_outdated("a", 2));
    bench.attachment = new;
    bench.finish(session, "a");
    assert!(matches!(bench.told().last(), Some((_, What::Ended(_)))));
    assert_eq!(old_updates.drain().len(), 0);
}

#[test]
fn a_result_that_nobody_acknowledges_is_offered_to_all() {
    let mut bench = Bench::new(8, 3);
    let session = bench.open(AGENT, 1);
    bench.dispatch("a", clerk(), 0);
    bench.finish(session, "a");
    let other = Outbox::new(100);
    bench.broker.attach("rep_2", other.clone());
    bench.told();
    other.drain();
    bench.broker.offer_again(Instant::now());
    assert_eq!((bench.told().len(), other.drain().len()), (0, 0), "it may be under way");
    bench.broker.offer_again(Instant::now() + Duration::from_secs(6));
    assert_eq!((bench.told().len(), other.drain().len()), (1, 1));
    bench.broker.acknowledge("a");
    bench.broker.offer_again(Instant::now() + Duration::from_secs(6));
    assert_eq!((bench.told().len(), other.drain().len()), (0, 0));
}
