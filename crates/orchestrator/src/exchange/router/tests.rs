//! The router between a worker and replicas that are played: unit tests here, whatever may happen in [`properties`].

mod bench;
mod properties;

use std::time::Duration;

use self::bench::{At, Bench};

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn a_task_goes_to_the_replica_that_serves_it() {
    let mut bench = Bench::new(3);
    bench.serve(0, 0);
    bench.serve(1, 4);
    bench.serve(2, 0);
    for task in ["a", "b", "c"] {
        bench.dispatch(task);
    }
    bench.settle();
    assert_eq!(bench.tasks_at(1), ["a", "b", "c"]);
    assert!(bench.worker.waiting.is_empty());
}

#[test]
fn tasks_are_shared_by_the_capacity_of_those_that_serve_them() {
    let mut bench = Bench::new(3);
    bench.serve(0, 10);
    bench.serve(1, 30);
    bench.serve(2, 0);
    for task in 0..40 {
        bench.dispatch(&format!("t{task}"));
    }
    bench.settle();
    let counts = [0, 1, 2].map(|side| bench.tasks_at(side).len());
    assert_eq!(counts, [10, 30, 0]);
}

#[test]
fn equals_take_turns() {
    let mut bench = Bench::new(2);
    bench.serve(0, 10);
    bench.serve(1, 10);
    let mut seen = [0; 2];
    for task in 0..10 {
        let id = format!("t{task}");
        bench.dispatch(&id);
        bench.settle();
        let side = (0..2).find(|side| bench.tasks_at(*side) == [id.as_str()]).unwrap();
        seen[side] += 1;
        bench.hand_over(side, &id);
        bench.finish(side, &id);
        bench.settle();
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn a_replica_that_has_not_said_whom_it_serves_may_serve_anybody() {
    let mut bench = Bench::new(2);
    bench.serve(0, 0);
    bench.dispatch("a");
    bench.settle();
    assert_eq!((bench.tasks_at(1), bench.worker.waiting.len()), (vec!["a"], 0));
}

#[test]
fn what_nobody_serves_is_given_away_all_the_same_and_shows_as_waiting() {
    let mut bench = Bench::new(2);
    bench.serve(0, 0);
    bench.serve(1, 0);
    bench.dispatch("a");
    bench.settle();
    assert_eq!(bench.tasks_at(0).len() + bench.tasks_at(1).len(), 1);
    assert!(bench.worker.waiting.contains("a"));
}

#[test]
fn a_task_waits_for_an_agent_only_where_no_replica_has_one() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 1);
    bench.dispatch("a");
    bench.settle();
    let holder = usize::from(bench.tasks_at(1) == ["a"]);
    bench.serve(holder, 0);
    bench.wait(holder, "a");
    bench.settle();
    assert!(bench.worker.waiting.is_empty(), "the other serves it");
    bench.serve(1 - holder, 0);
    bench.settle();
    assert!(bench.worker.waiting.contains("a"));
}

#[test]
fn what_a_lost_replica_had_goes_to_others_and_what_they_had_stays() {
    let mut bench = Bench::new(2);
    bench.serve(0, 2);
    bench.serve(1, 2);
    for task in ["a", "b", "c", "d"] {
        bench.dispatch(task);
    }
    bench.settle();
    let [lost, kept] = [0, 1].map(|side| bench.tasks_at(side).into_iter().map(str::to_owned).collect::<Vec<_>>());
    assert_eq!((lost.len(), kept.len()), (2, 2));
    bench.crash(0);
    bench.settle();
    assert_eq!(bench.tasks_at(1).len(), 2, "whether it is soon back is not known yet");
    bench.refuse(0);
    bench.settle();
    assert_eq!(bench.tasks_at(1).len(), 4);
    assert!(kept.iter().all(|task| bench.dispatches(task) == 1));
    assert!(lost.iter().all(|task| bench.dispatches(task) == 2));
}

#[test]
fn a_stream_that_is_soon_back_repeats_nothing_that_is_held() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 0);
    bench.dispatch("a");
    bench.settle();
    bench.hand_over(0, "a");
    bench.settle();
    bench.lose_stream(0);
    bench.connect(0);
    bench.settle();
    assert_eq!((bench.at(0, "a"), bench.dispatches("a")), (Some(At::Held), 1));
    bench.finish(0, "a");
    bench.settle();
    assert!(bench.is_all_over());
}

#[test]
fn an_enqueued_task_survives_the_loss_of_its_enqueuer() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 0);
    bench.dispatch("a");
    bench.settle();
    bench.publish(0, "a");
    bench.settle();
    bench.crash(0);
    bench.refuse(0);
    bench.settle();
    assert_eq!(bench.dispatches("a"), 1);
    bench.consume(1);
    bench.hand_over(1, "a");
    bench.finish(1, "a");
    bench.settle();
    assert!(bench.is_all_over());
}

#[test]
fn what_came_from_the_broker_goes_back_there_with_its_holder() {
    let mut bench = Bench::new(3);
    bench.serve(0, 1);
    bench.serve(1, 0);
    bench.serve(2, 0);
    bench.dispatch("a");
    bench.settle();
    bench.publish(0, "a");
    bench.consume(1);
    bench.hand_over(1, "a");
    bench.settle();
    for side in [0, 1] {
        bench.crash(side);
        bench.refuse(side);
    }
    bench.settle();
    assert_eq!(bench.dispatches("a"), 1);
    bench.consume(2);
    bench.hand_over(2, "a");
    bench.finish(2, "a");
    bench.settle();
    assert!(bench.is_all_over());
}

#[test]
fn the_copy_that_the_second_holder_used_up_is_not_counted_on() {
    let mut bench = Bench::new(3);
    bench.serve(0, 1);
    bench.serve(1, 0);
    bench.serve(2, 0);
    bench.dispatch("a");
    bench.settle();
    bench.publish(0, "a");
    bench.consume(1);
    bench.hand_over(1, "a");
    bench.settle();
    bench.lose_broker(1);
    bench.consume(2);
    bench.hand_over(2, "a");
    bench.settle();
    assert_eq!((bench.at(1, "a"), bench.at(2, "a"), bench.broker.len()), (Some(At::Held), None, 0));
    bench.crash(1);
    bench.refuse(1);
    bench.settle();
    assert_eq!(bench.dispatches("a"), 2);
}

#[test]
fn who_enqueued_a_task_hears_of_its_end_over_another() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 0);
    bench.dispatch("a");
    bench.settle();
    bench.publish(0, "a");
    bench.consume(1);
    bench.hand_over(1, "a");
    bench.finish(1, "a");
    bench.settle();
    assert_eq!((bench.at(0, "a"), bench.at(1, "a")), (None, None));
    assert!(bench.is_all_over());
}

#[test]
fn the_second_of_two_that_hold_a_task_lets_go() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 1);
    bench.dispatch("a");
    bench.settle();
    let first = usize::from(bench.tasks_at(1) == ["a"]);
    bench.hand_over(first, "a");
    bench.settle();
    bench.plant(1 - first, "a");
    bench.hand_over(1 - first, "a");
    bench.settle();
    assert_eq!((bench.at(first, "a"), bench.at(1 - first, "a")), (Some(At::Held), None));
    bench.crash(first);
    bench.refuse(first);
    bench.settle();
    assert_eq!(bench.at(1 - first, "a"), Some(At::Queued), "it is dispatched again, since its holder is gone");
}

#[test]
fn a_hand_over_that_overtakes_the_return_before_it_is_no_second() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 0);
    bench.dispatch("a");
    bench.settle();
    bench.hand_over(0, "a");
    bench.settle();
    bench.give_back(0, "a");
    bench.publish(0, "a");
    bench.consume(1);
    bench.hand_over(1, "a");
    bench.hear(1);
    bench.settle();
    assert_eq!((bench.at(1, "a"), bench.dispatches("a")), (Some(At::Held), 1));
    assert_eq!(bench.worker.held.get("a").map(String::as_str), Some("s1"), "its worker knows");
    bench.finish(1, "a");
    bench.settle();
    assert!(bench.is_all_over());
    assert_eq!(bench.at(0, "a"), None);
}

#[test]
fn after_a_takeover_a_task_is_looked_for_before_it_is_dispatched() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 1);
    bench.dispatch("a");
    bench.dispatch("b");
    bench.settle();
    let holder = usize::from(bench.tasks_at(1) == ["a"]);
    bench.hand_over(holder, "a");
    bench.settle();
    bench.take_over();
    bench.settle();
    assert_eq!(bench.dispatches("a") + bench.dispatches("b"), 2, "nothing before everybody could be asked");
    bench.connect(holder);
    bench.refuse(1 - holder);
    bench.settle();
    assert_eq!((bench.dispatches("a"), bench.dispatches("b")), (1, 2), "one is held, one was forgotten");
}

#[test]
fn a_replica_that_cannot_be_reached_for_long_holds_no_search_up() {
    let mut bench = Bench::new(2);
    bench.dispatch("a");
    bench.take_over();
    bench.connect(0);
    bench.settle();
    assert_eq!(bench.tasks_at(0), [""; 0]);
    bench.pass(Duration::from_secs(4));
    bench.settle();
    assert_eq!(bench.tasks_at(0), ["a"]);
}

#[test]
fn a_task_that_was_lost_with_the_broker_is_dispatched_again() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 1);
    bench.dispatch("a");
    bench.settle();
    let side = usize::from(bench.tasks_at(1) == ["a"]);
    bench.publish(side, "a");
    bench.settle();
    bench.crash(side);
    bench.broker.clear();
    bench.connect(side);
    bench.pass(MINUTE);
    bench.settle();
    assert_eq!(bench.dispatches("a"), 1, "a backlog is no loss");
    for _ in 0..6 {
        bench.pass(MINUTE);
        bench.settle();
    }
    assert_eq!(bench.dispatches("a"), 2);
}

/// A task that one replica has put into the broker; the other has no agents.
fn enqueued() -> Bench {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 0);
    bench.dispatch("a");
    bench.settle();
    bench.publish(0, "a");
    bench.settle();
    bench
}

#[test]
fn what_is_missing_where_it_was_put_is_dispatched_again() {
    let mut bench = enqueued();
    bench.look(0);
    bench.settle();
    assert_eq!(bench.dispatches("a"), 1, "it is there");
    bench.broker.clear();
    bench.look(0);
    bench.settle();
    assert_eq!(bench.dispatches("a"), 2);
}

#[test]
fn what_is_missing_where_it_was_put_is_left_to_whoever_has_taken_it() {
    let mut bench = enqueued();
    bench.consume(1);
    bench.hand_over(1, "a");
    bench.look(0);
    bench.settle();
    assert_eq!((bench.at(1, "a"), bench.dispatches("a")), (Some(At::Held), 1));
    bench.finish(1, "a");
    bench.settle();
    assert!(bench.is_all_over());
}

#[test]
fn what_another_writes_now_is_forgotten() {
    let mut bench = Bench::new(1);
    bench.dispatch("a");
    bench.settle();
    assert_eq!(bench.router.tasks.len(), 1);
    bench.is_ours = false;
    bench.pass(MINUTE);
    assert!(bench.router.tasks.is_empty());
}

#[test]
fn whoever_tells_of_what_another_writes_hears_so() {
    let mut bench = Bench::new(1);
    bench.dispatch("a");
    bench.settle();
    bench.is_ours = false;
    bench.hand_over(0, "a");
    bench.settle();
    assert_eq!(bench.disowned, [(0, "a".to_owned())]);
    assert!(bench.worker.held.is_empty());
}

#[test]
fn a_sign_of_life_of_what_is_thought_to_wait_is_asked_about() {
    let mut bench = Bench::new(2);
    bench.serve(0, 1);
    bench.serve(1, 0);
    bench.dispatch("a");
    bench.settle();
    bench.publish(0, "a");
    bench.consume(1);
    bench.settle();
    // That it was handed over was told to another.
    bench.is_ours = false;
    bench.hand_over(1, "a");
    bench.settle();
    bench.is_ours = true;
    assert!(bench.worker.held.is_empty());
    bench.show_life(1, "a");
    bench.settle();
    assert_eq!(bench.worker.held.get("a").map(String::as_str), Some("s1"));
}

#[test]
fn without_any_replica_tasks_wait_for_one() {
    let mut bench = Bench::new(1);
    bench.crash(0);
    bench.refuse(0);
    bench.dispatch("a");
    bench.pass(MINUTE);
    bench.settle();
    assert_eq!(bench.dispatches("a"), 0);
    bench.connect(0);
    bench.settle();
    assert_eq!((bench.tasks_at(0), bench.dispatches("a")), (vec!["a"], 1));
}
