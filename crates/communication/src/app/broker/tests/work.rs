//! Tasks that go through work queues.

use super::{imagined::Server, *};
use crate::app::model::Served;

const ONE: usize = 1;
const OTHER: usize = 2;

fn two() -> (Arc<Server>, Bench, Bench) {
    let server = Arc::new(Server::default());
    let (one, other) = (server.bench(ONE, 8, 3), server.bench(OTHER, 8, 3));
    (server, one, other)
}

fn queue() -> QueueKey {
    QueueKey { namespace: Namespace::default(), target: clerk() }
}

fn is_enqueued(told: &[(String, What)], id: &str) -> bool {
    told.iter().any(|(task, what)| task == id && matches!(what, What::Enqueued))
}

#[test]
fn what_no_session_here_fits_is_done_by_one_elsewhere() {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    assert!(is_enqueued(&one.told(), "a"));
    one.dispatch("a", clerk(), 0);
    assert!(is_enqueued(&one.told(), "a"), "said again, it is found");
    let session = other.open(AGENT, 1);
    assert_eq!(server.deliver(OTHER, &mut other.broker), 1);
    assert_eq!(other.given(session), ["a"]);
    other.finish(session, "a");
    assert_eq!(server.unsettled(), 1, "until its result is committed, it may come again");
    other.broker.acknowledge("a");
    one.broker.acknowledge("a");
    assert_eq!(server.unsettled(), 0);
    one.broker.locate(&one.attachment, "a", 1);
    assert!(matches!(&one.told()[..], [(_, What::Unknown)]));
}

#[test]
fn a_short_wait_never_leaves_and_a_long_one_is_shared() {
    let (server, mut one, mut other) = two();
    let busy = one.open(AGENT, 1);
    for id in ["held", "short", "long"] {
        one.dispatch(id, clerk(), 0);
    }
    let now = Instant::now();
    one.wait_long();
    assert!(!server.knows("short"), "nobody else takes such tasks");
    let idle = other.open(AgentId::from_parts(2, 2), 5);
    one.broker.advance(now);
    assert!(!server.knows("short"), "it has not waited for long");
    one.finish(busy, "held");
    one.wait_long();
    server.confirm(ONE, &mut one.broker, true);
    server.deliver(OTHER, &mut other.broker);
    assert_eq!(
        (one.given(busy), other.given(idle)),
        (vec!["held".to_owned(), "short".to_owned()], vec!["long".into()])
    );
}

#[test]
fn while_the_message_broker_is_away_tasks_wait_here_up_to_the_limit() {
    let (server, mut one, mut other) = two();
    server.set_away(true);
    for task in 0..9 {
        one.dispatch(&format!("t{task}"), clerk(), 0);
    }
    assert_eq!(one.broker.queued(), 8);
    assert!(one.told().iter().any(|(id, what)| id == "t8" && matches!(what, What::Refused(_))));
    server.set_away(false);
    one.broker.advance(Instant::now());
    server.confirm(ONE, &mut one.broker, true);
    let session = other.open(AGENT, 10);
    server.deliver(OTHER, &mut other.broker);
    assert_eq!(other.given(session).len(), 8);
}

#[test]
fn what_did_not_get_there_is_done_here() {
    let (server, mut one, _) = two();
    one.dispatch("a", clerk(), 0);
    let session = one.open(AGENT, 1);
    assert!(one.given(session).is_empty(), "it is on its way");
    server.refuse(ONE, &mut one.broker);
    assert_eq!(one.given(session), ["a"]);
}

#[test]
fn what_a_replica_had_comes_to_another_when_it_ends_with_its_count() {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    let session = other.open(AGENT, 1);
    server.deliver(OTHER, &mut other.broker);
    assert_eq!(other.given(session), ["a"]);
    server.end(OTHER, false);
    let session = one.open(AGENT, 1);
    server.deliver(ONE, &mut one.broker);
    let delivery = one.outboxes[&session].drain().into_iter().find_map(|event| match event {
        ToAgent::Task { delivery, .. } => Some(delivery),
        _ => None,
    });
    assert_eq!(delivery, Some(2));
}

#[test]
fn a_task_that_ends_every_replica_dies_in_the_end_and_alone() {
    let (server, mut one, _) = two();
    one.dispatch("poison", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    for replica in 2..32 {
        let mut victim = server.bench(replica, 8, 3);
        let session = victim.open(AGENT, 5);
        victim.dispatch("other", clerk(), 0);
        server.deliver(replica, &mut victim.broker);
        // Near its end it gets no company: what is held with it could die of it.
        let held: &[&str] = if replica < 22 { &["other", "poison"] } else { &["other"] };
        assert_eq!(victim.given(session), held);
        if replica >= 22 {
            victim.finish(session, "other");
            victim.broker.acknowledge("other");
            assert_eq!(victim.given(session), ["poison"]);
        }
        server.end(replica, false);
    }
    let session = one.open(AGENT, 1);
    server.deliver(ONE, &mut one.broker);
    assert!(one.given(session).is_empty());
    let entries = one.broker.journal.take_now();
    let [crate::app::Entry::DeadTask { task, letter }] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((letter.reason.as_str(), letter.deliveries), ("delivery_limit", 30));
    one.told();
    one.broker.buried(&task.id);
    assert!(matches!(&one.told()[..], [(_, What::DeadLettered { reason: "delivery_limit", .. })]));
    assert_eq!(server.unsettled(), 0);
}

#[test]
fn a_task_that_only_waits_where_connections_break_is_handed_over_as_often_as_any() {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    let busy = other.open(AGENT, 1);
    other.dispatch("own", clerk(), 0);
    for _ in 0..20 {
        assert_eq!(server.deliver(OTHER, &mut other.broker), 1);
        server.disconnect(OTHER);
        other.broker.disconnected();
    }
    server.deliver(OTHER, &mut other.broker);
    other.finish(busy, "own");
    other.broker.acknowledge("own");
    assert_eq!(other.given(busy), ["own", "a"]);
    other.broker.close(busy, "lost");
    server.confirm(OTHER, &mut other.broker, true);
    for _ in 1..3 {
        assert_eq!(other.broker.journal.take_now().len(), 0, "it has not been handed over often enough");
        let session = other.open(AGENT, 1);
        server.deliver(OTHER, &mut other.broker);
        assert_eq!(other.given(session), ["a"]);
        other.broker.close(session, "lost");
        server.confirm(OTHER, &mut other.broker, true);
    }
    assert!(matches!(&other.broker.journal.take_now()[..], [crate::app::Entry::DeadTask { .. }]));
}

#[test]
fn hand_overs_count_on_where_the_connection_breaks_meanwhile() {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    // Somebody else takes from the queue here, so the task stays.
    let busy = other.open(AgentId::from_parts(2, 2), 1);
    other.dispatch("own", clerk(), 0);
    assert_eq!(other.given(busy), ["own"]);
    for _ in 0..3 {
        let session = other.open(AGENT, 1);
        server.deliver(OTHER, &mut other.broker);
        assert_eq!(other.given(session), ["a"]);
        other.broker.close(session, "lost");
        server.disconnect(OTHER);
        other.broker.disconnected();
    }
    assert!(matches!(&other.broker.journal.take_now()[..], [crate::app::Entry::DeadTask { .. }]));
}

#[test]
fn what_waits_for_the_last_session_here_goes_on_with_its_count() {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    let session = other.open(AGENT, 1);
    server.deliver(OTHER, &mut other.broker);
    other.broker.close(session, "lost");
    assert_eq!(server.unsettled(), 1, "the old delivery stands until the new one is confirmed");
    server.confirm(OTHER, &mut other.broker, true);
    assert_eq!(server.unsettled(), 0);
    assert_eq!(server.waiting().iter().map(|parcel| parcel.deliveries).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_lost_connection_takes_what_nobody_has_begun_and_what_comes_again_is_the_same() {
    let (server, mut one, mut other) = two();
    for id in ["held", "waits"] {
        one.dispatch(id, clerk(), 0);
    }
    server.confirm(ONE, &mut one.broker, true);
    let session = other.open(AGENT, 2);
    other.dispatch("own", clerk(), 5);
    server.deliver(OTHER, &mut other.broker);
    assert_eq!(other.given(session), ["own", "held"]);
    server.disconnect(OTHER);
    other.broker.disconnected();
    assert_eq!(other.broker.queued(), 0);
    other.told();
    other.broker.locate(&other.attachment, "waits", 1);
    assert!(is_enqueued(&other.told(), "waits"), "it is with the message broker");
    server.deliver(OTHER, &mut other.broker);
    other.finish(session, "own");
    other.finish(session, "held");
    assert_eq!(other.given(session), ["waits"], "and not what it has had already");
    for id in ["held", "own"] {
        other.broker.acknowledge(id);
    }
    other.finish(session, "waits");
    other.broker.acknowledge("waits");
    assert_eq!((server.unsettled(), server.waiting().len()), (0, 0));
}

#[test]
fn a_task_that_was_withdrawn_is_dropped_when_it_comes() {
    let (server, mut one, _) = two();
    one.dispatch("a", clerk(), 0);
    one.broker.cancel("a", "not wanted");
    one.dispatch("b", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    one.broker.cancel("b", "not wanted");
    let session = one.open(AGENT, 2);
    assert_eq!(server.deliver(ONE, &mut one.broker), 2);
    assert_eq!((one.given(session).len(), server.unsettled()), (0, 0));
}

/// A task went through the broker from one replica to a session of the other, and was withdrawn at both a while ago.
fn withdrawn() -> (Arc<Server>, Bench, Bench, SessionId) {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    let session = other.open(AGENT, 1);
    server.deliver(OTHER, &mut other.broker);
    assert_eq!(other.given(session), ["a"]);
    for bench in [&mut one, &mut other] {
        bench.broker.cancel("a", "somebody else has it");
        bench.clock.advance(Duration::from_secs(1));
    }
    assert_eq!((server.unsettled(), server.waiting().len()), (0, 0));
    (server, one, other, session)
}

#[test]
fn a_task_that_is_dispatched_after_it_was_withdrawn_goes_to_the_broker_again() {
    let (server, mut one, mut other, session) = withdrawn();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    server.deliver(OTHER, &mut other.broker);
    assert_eq!(other.given(session), ["a"]);
}

#[test]
fn what_is_withdrawn_is_not_what_others_have_dispatched_since() {
    let (server, mut one, mut other, busy) = withdrawn();
    other.dispatch("own", clerk(), 0);
    other.dispatch("a", clerk(), 0);
    let idle = one.open(AGENT, 1);
    other.wait_long();
    server.confirm(OTHER, &mut other.broker, true);
    assert_eq!(other.given(busy), ["own"]);
    server.deliver(ONE, &mut one.broker);
    assert_eq!(one.given(idle), ["a"]);
}

#[test]
fn it_may_come_back_before_it_is_known_to_have_gone() {
    let (server, mut one, _) = two();
    one.dispatch("a", clerk(), 0);
    let session = one.open(AGENT, 1);
    server.confirm(OTHER, &mut one.broker, true);
    // Here the confirmation is late.
    let ids = ["a".into()];
    server.end(usize::MAX, true);
    let mut late = server.bench(9, 8, 3);
    server.confirm(ONE, &mut late.broker, true);
    server.deliver(ONE, &mut one.broker);
    assert_eq!(one.given(session), ["a"]);
    one.broker.enqueued(&ids);
    one.finish(session, "a");
    one.broker.acknowledge("a");
    assert_eq!(server.unsettled(), 0);
}

#[test]
fn sessions_that_are_busy_with_other_work_do_not_pull_in_circles() {
    let (server, mut one, mut other) = two();
    let busy = one.open(AGENT, 1);
    one.dispatch("own", clerk(), 0);
    other.dispatch("a", clerk(), 0);
    server.confirm(OTHER, &mut other.broker, true);
    server.deliver(ONE, &mut one.broker);
    assert_eq!(one.broker.queued(), 1);
    let idle = other.open(AGENT, 1);
    one.wait_long();
    server.confirm(ONE, &mut one.broker, true);
    assert_eq!(server.deliver(ONE, &mut one.broker), 0, "it has no credit, so it takes nothing");
    server.deliver(OTHER, &mut other.broker);
    assert_eq!(other.given(idle), ["a"]);
    one.finish(busy, "own");
    one.broker.acknowledge("own");
    other.dispatch("b", clerk(), 0);
    other.wait_long();
    server.confirm(OTHER, &mut other.broker, true);
    server.deliver(ONE, &mut one.broker);
    assert_eq!(one.given(busy), ["own", "b"], "and when it has, it takes again");
}

#[test]
fn what_is_with_the_message_broker_does_not_wait_for_what_came_later() {
    let (server, mut one, mut other) = two();
    let busy = one.open(AGENT, 1);
    one.dispatch("held", clerk(), 0);
    other.dispatch("early", clerk(), 0);
    server.confirm(OTHER, &mut other.broker, true);
    one.clock.advance(Duration::from_secs(1));
    for id in ["late", "later"] {
        one.dispatch(id, clerk(), 0);
    }
    one.wait_long();
    assert_eq!(server.deliver(ONE, &mut one.broker), 1, "nobody else has taken it");
    one.finish(busy, "held");
    assert_eq!(one.given(busy), ["held", "early"]);
}

#[test]
fn of_two_replicas_with_busy_agents_neither_gives_the_other_anything_until_one_has_time() {
    let (server, mut one, mut other) = two();
    let (first, second) = (one.open(AGENT, 1), other.open(AgentId::from_parts(2, 2), 1));
    for id in ["held", "waits"] {
        one.dispatch(id, clerk(), 0);
        other.dispatch(&format!("other {id}"), clerk(), 0);
    }
    for _ in 0..3 {
        for bench in [&mut one, &mut other] {
            bench.broker.advance(Instant::now() + SPILL_AFTER * 2);
        }
    }
    assert_eq!((one.broker.spare(&queue()), other.broker.spare(&queue())), (0, 0));
    assert!(!server.knows("waits") && !server.knows("other waits"));
    for id in ["other held", "other waits"] {
        other.finish(second, id);
    }
    // Nobody has told the time since.
    assert_eq!(other.broker.spare(&queue()), 1);
    one.wait_long();
    server.confirm(ONE, &mut one.broker, true);
    server.deliver(OTHER, &mut other.broker);
    assert_eq!(other.given(second), ["other held", "other waits", "waits"]);
    assert_eq!(one.given(first), ["held"]);
}

#[test]
fn whoever_attaches_hears_who_is_served_and_every_change() {
    let (_, mut one, _) = two();
    let serving = |bench: &Bench| -> Vec<Served> {
        let served = |said| match said {
            ToOrchestrator::Serving(served) => served,
            ToOrchestrator::Update(_) => Vec::new(),
        };
        bench.updates.drain().into_iter().flat_map(served).collect()
    };
    let of = |served: &[Served]| served.iter().filter(|one| one.target == clerk()).map(|one| one.capacity).collect();
    assert_eq!(one.updates.drain(), [ToOrchestrator::Serving(Vec::new())], "also where nobody is");
    let first = one.open(AGENT, 2);
    let second = one.open(AgentId::from_parts(2, 2), 3);
    let capacities: Vec<_> = of(&serving(&one));
    assert_eq!(capacities, [2, 5]);
    one.attach_again();
    let capacities: Vec<_> = of(&serving(&one));
    assert_eq!(capacities, [5]);
    one.broker.close(first, "lost");
    one.broker.drain(second);
    let capacities: Vec<_> = of(&serving(&one));
    assert_eq!(capacities, [3, 0]);
}

#[test]
fn every_task_that_is_here_is_found() {
    let (server, mut one, _) = two();
    server.set_away(true);
    one.dispatch("waiting", Target::AgentType("nobody".into()), 0);
    let session = one.open(AGENT, 1);
    one.dispatch("held", clerk(), 0);
    one.dispatch("queued", clerk(), 0);
    one.finish(session, "foreign");
    one.told();
    for id in ["waiting", "held", "queued", "foreign", "unknown"] {
        one.broker.locate(&one.attachment, id, 1);
    }
    let told = one.told();
    assert!(
        matches!(
            &told.iter().map(|(_, what)| what).collect::<Vec<_>>()[..],
            [What::Waiting, What::HandedOver { .. }, What::Requeued(_), What::Ended(_), What::Unknown]
        ),
        "{told:?}"
    );
}

/// A second orchestrator at a replica, and what it is told.
fn second_orchestrator(bench: &mut Bench) -> (Attachment, impl Fn() -> Vec<(String, What)> + use<>) {
    let updates = Outbox::new(16);
    let attachment = bench.broker.attach("rep_2", updates.clone());
    updates.drain();
    (attachment, move || super::told(&updates))
}

#[test]
fn of_two_copies_the_later_says_who_hears_of_the_task() {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    // That replica ends, and whoever has the execution now finds the task nowhere.
    let mut third = server.bench(ONE, 8, 3);
    let (attachment, _) = second_orchestrator(&mut third);
    (third.attachment, third.epoch) = (attachment, 2);
    third.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut third.broker, true);
    let (_, told_second) = second_orchestrator(&mut other);
    other.open(AGENT, 2);
    assert_eq!(server.deliver(OTHER, &mut other.broker), 2);
    let told = told_second();
    assert!(matches!(&told[..], [(_, What::HandedOver { .. })]), "{told:?}");
}

#[test]
fn what_an_orchestrator_disowns_all_hear_of() {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    let (_, told_second) = second_orchestrator(&mut other);
    let session = other.open(AGENT, 1);
    server.deliver(OTHER, &mut other.broker);
    assert!(told_second().is_empty(), "the copy names the first");
    other.broker.disown(&other.attachment.clone(), "a");
    let late = Outbox::new(16);
    other.broker.attach("rep_3", late.clone());
    let held = super::told(&late);
    assert!(matches!(&held[..], [(_, What::HandedOver { .. })]), "{held:?}");
    other.finish(session, "a");
    let told = told_second();
    assert!(matches!(&told[..], [(_, What::HandedOver { .. }), (_, What::Ended(_))]), "{told:?}");
    let (_, told_second) = second_orchestrator(&mut one);
    one.broker.disown(&one.attachment.clone(), "a");
    let told = told_second();
    assert!(matches!(&told[..], [(_, What::Enqueued)]), "{told:?}");
}

#[test]
fn what_came_from_the_message_broker_outlives_its_orchestrators_stream() {
    let (server, mut one, mut other) = two();
    one.dispatch("a", clerk(), 0);
    server.confirm(ONE, &mut one.broker, true);
    let busy = other.open(AGENT, 1);
    other.dispatch("own", clerk(), 9);
    server.deliver(OTHER, &mut other.broker);
    other.attach_again();
    other.finish(busy, "own");
    assert_eq!(other.given(busy), ["own", "a"]);
}

#[test]
fn what_is_given_back_for_no_time_stays_away_for_longer_each_time() {
    let mut bench = Bench::new(8, 5);
    let session = bench.open(AGENT, 1);
    bench.dispatch("a", clerk(), 0);
    let mut waits = Vec::new();
    for _ in 0..3 {
        let before = Instant::now();
        bench.broker.nack(session, "a", "busy", None);
        let State::Delayed { due: (due, _) } = bench.broker.tasks["a"].state else { panic!("it is not away") };
        waits.push(due.duration_since(before).as_millis() / 100);
        bench.dispatch("b", clerk(), 0);
        bench.finish(session, "b");
        bench.broker.acknowledge("b");
        bench.broker.advance(due);
    }
    assert_eq!(waits, [1, 2, 4]);
}
