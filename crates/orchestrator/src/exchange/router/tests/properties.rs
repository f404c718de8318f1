//! Whatever happens in whatever order: no task is lost, none is held twice for long, and nothing is remembered of what is over.

use std::time::Duration;

use proptest::prelude::*;

use super::bench::{At, Bench};

const SIDES: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Dispatch,
    Cancel(usize),
    Listen(usize),
    Hear(usize),
    Work,
    /// Of the tasks of the replica that can, one is handed over, given back, and so on.
    HandOver(usize, usize),
    GiveBack(usize, usize),
    Finish(usize, usize),
    Publish(usize, usize),
    Consume(usize),
    Look(usize),
    Serve(usize, u32),
    LoseStream(usize),
    LoseBroker(usize),
    Crash(usize),
    Connect(usize),
    Refuse(usize),
    TakeOver,
    Pass(u64),
}

impl Step {
    /// Can it make a second copy of a task?
    const fn is_loss(self) -> bool {
        matches!(
            self,
            Self::LoseStream(_)
                | Self::LoseBroker(_)
                | Self::Crash(_)
                | Self::Refuse(_)
                | Self::TakeOver
                | Self::Pass(_)
        )
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let side = || 0..SIDES;
    let step = prop_oneof![
        4 => Just(Step::Dispatch),
        1 => (0..6_usize).prop_map(Step::Cancel),
        8 => side().prop_map(Step::Listen),
        8 => side().prop_map(Step::Hear),
        4 => Just(Step::Work),
        8 => (side(), 0..6_usize).prop_map(|(side, pick)| Step::HandOver(side, pick)),
        4 => (side(), 0..6_usize).prop_map(|(side, pick)| Step::GiveBack(side, pick)),
        3 => (side(), 0..6_usize).prop_map(|(side, pick)| Step::Finish(side, pick)),
        6 => (side(), 0..6_usize).prop_map(|(side, pick)| Step::Publish(side, pick)),
        6 => side().prop_map(Step::Consume),
        2 => side().prop_map(Step::Look),
        1 => (side(), 0..3_u32).prop_map(|(side, capacity)| Step::Serve(side, capacity)),
        2 => side().prop_map(Step::LoseStream),
        1 => side().prop_map(Step::LoseBroker),
        1 => side().prop_map(Step::Crash),
        4 => side().prop_map(Step::Connect),
        1 => side().prop_map(Step::Refuse),
        1 => Just(Step::TakeOver),
        1 => (1..12_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..120)
}

fn name(task: usize) -> String {
    format!("t{task}")
}

/// `begun`: how many tasks there were.
fn take(bench: &mut Bench, step: Step, begun: &mut usize) {
    /// Few, so that much happens to each.
    const TASKS: usize = 6;
    match step {
        Step::Dispatch if *begun < TASKS => {
            bench.dispatch(&name(*begun));
            *begun += 1;
        }
        Step::Dispatch => {}
        Step::Cancel(task) => bench.cancel(&name(task)),
        Step::Listen(side) => drop(bench.listen(side)),
        Step::Hear(side) => drop(bench.hear(side)),
        Step::Work => bench.work(),
        Step::HandOver(side, pick) => with(bench, side, At::Queued, pick, Bench::hand_over),
        Step::GiveBack(side, pick) => with(bench, side, At::Held, pick, Bench::give_back),
        Step::Finish(side, pick) => with(bench, side, At::Held, pick, Bench::finish),
        Step::Publish(side, pick) => with(bench, side, At::Queued, pick, Bench::publish),
        Step::Consume(side) => bench.consume(side),
        Step::Look(side) => bench.look(side),
        Step::Serve(side, capacity) => bench.serve(side, capacity),
        Step::LoseStream(side) => bench.lose_stream(side),
        Step::LoseBroker(side) => bench.lose_broker(side),
        Step::Crash(side) => bench.crash(side),
        Step::Connect(side) => bench.connect(side),
        Step::Refuse(side) => bench.refuse(side),
        Step::TakeOver => bench.take_over(),
        Step::Pass(seconds) => bench.pass(Duration::from_secs(seconds)),
    }
}

fn with(bench: &mut Bench, side: usize, at: At, pick: usize, act: impl FnOnce(&mut Bench, usize, &str)) {
    if let Some(task) = bench.pick(side, at, pick) {
        act(bench, side, &task);
    }
}

/// Everybody is reached, everything arrives, and whatever is asked for is answered.
fn come_to_rest(bench: &mut Bench) {
    (0..SIDES).for_each(|side| bench.connect(side));
    bench.settle();
    bench.pass(Duration::from_secs(12));
    bench.settle();
}

/// The sessions that hold a task.
fn holders(bench: &Bench, task: &str) -> Vec<String> {
    let is_holder = |side: &usize| bench.at(*side, task) == Some(At::Held);
    (0..SIDES).filter(is_holder).map(|side| format!("s{side}")).collect()
}

fn is_somewhere(bench: &Bench, task: &str) -> bool {
    let is_there = |side: usize| matches!(bench.at(side, task), Some(At::Queued | At::Held | At::Over));
    (0..SIDES).any(is_there) || bench.broker.iter().any(|copy| copy.task == task)
}

proptest! {
    #[test]
    fn no_task_is_lost_and_none_is_held_twice(steps in steps()) {
        let mut bench = Bench::new(SIDES);
        let mut begun = 0;
        for step in steps {
            take(&mut bench, step, &mut begun);
        }
        come_to_rest(&mut bench);
        for task in (0..begun).map(name) {
            let is_wanted = bench.worker.wanted.contains(&task);
            prop_assert!(!is_wanted || is_somewhere(&bench, &task), "{task} is lost");
            let holders = holders(&bench, &task);
            prop_assert!(holders.len() <= usize::from(is_wanted), "{task} is held by {holders:?}");
            prop_assert_eq!(bench.worker.held.get(&task), holders.first(), "what is known of {}", task);
        }
        // Everything is done, also what is done in vain.
        for _ in 0..4 {
            for side in 0..SIDES {
                while bench.broker.iter().any(|copy| copy.taken_by.is_none()) {
                    bench.consume(side);
                }
                for task in (0..begun).map(name) {
                    bench.hand_over(side, &task);
                    bench.settle();
                    bench.finish(side, &task);
                    bench.settle();
                }
            }
        }
        prop_assert!(bench.is_all_over(), "{:?} {:?}", bench.worker.wanted, bench.router);
        prop_assert!(bench.broker.is_empty(), "{:?}", bench.broker);
    }

    #[test]
    fn while_nothing_is_lost_nothing_is_dispatched_twice(steps in steps()) {
        let mut bench = Bench::new(SIDES);
        let mut begun = 0;
        for step in steps.into_iter().filter(|step| !step.is_loss()) {
            take(&mut bench, step, &mut begun);
        }
        bench.settle();
        for task in (0..begun).map(name) {
            prop_assert!(bench.dispatches(&task) <= 1, "{task}");
            prop_assert!(holders(&bench, &task).len() <= 1, "{task}");
        }
    }
}
