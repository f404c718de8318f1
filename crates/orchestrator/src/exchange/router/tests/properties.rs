//! Whatever happens in whatever order: no task is lost, none is held twice for long, and nothing is remembered of what is over.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::bench::{At, Bench};

const SIDES: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Dispatch(usize),
    Cancel(usize),
    Listen(usize),
    Hear(usize),
    Work,
    HandOver { side: usize, task: usize },
    GiveBack { side: usize, task: usize },
    Finish { side: usize, task: usize },
    Publish { side: usize, task: usize },
    Consume(usize),
    Serve { side: usize, capacity: u32 },
    LoseStream(usize),
    Crash(usize),
    Connect(usize),
    Refuse(usize),
    TakeOver,
    Pass(u64),
}

impl Step {
    /// Can it make a second copy of a task?
    const fn is_loss(self) -> bool {
        matches!(self, Self::LoseStream(_) | Self::Crash(_) | Self::Refuse(_) | Self::TakeOver | Self::Pass(_))
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let side = 0..SIDES;
    let both = || (0..SIDES, 0..6_usize);
    let step = prop_oneof![
        6 => (0..6_usize).prop_map(Step::Dispatch),
        1 => (0..6_usize).prop_map(Step::Cancel),
        6 => side.clone().prop_map(Step::Listen),
        6 => side.clone().prop_map(Step::Hear),
        4 => Just(Step::Work),
        6 => both().prop_map(|(side, task)| Step::HandOver { side, task }),
        3 => both().prop_map(|(side, task)| Step::GiveBack { side, task }),
        3 => both().prop_map(|(side, task)| Step::Finish { side, task }),
        6 => both().prop_map(|(side, task)| Step::Publish { side, task }),
        4 => side.clone().prop_map(Step::Consume),
        1 => (side.clone(), 0..3_u32).prop_map(|(side, capacity)| Step::Serve { side, capacity }),
        2 => side.clone().prop_map(Step::LoseStream),
        1 => side.clone().prop_map(Step::Crash),
        4 => side.clone().prop_map(Step::Connect),
        1 => side.prop_map(Step::Refuse),
        1 => Just(Step::TakeOver),
        1 => (1..12_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..120)
}

fn take(bench: &mut Bench, step: Step, over: &mut BTreeSet<usize>) {
    let name = |task: usize| format!("t{task}");
    match step {
        // An id is dispatched once.
        Step::Dispatch(task) => {
            if over.insert(task) {
                bench.dispatch(&name(task));
            }
        }
        Step::Cancel(task) => bench.cancel(&name(task)),
        Step::Listen(side) => drop(bench.listen(side)),
        Step::Hear(side) => drop(bench.hear(side)),
        Step::Work => bench.work(),
        Step::HandOver { side, task } => bench.hand_over(side, &name(task)),
        Step::GiveBack { side, task } => bench.give_back(side, &name(task)),
        Step::Finish { side, task } => bench.finish(side, &name(task)),
        Step::Publish { side, task } => bench.publish(side, &name(task)),
        Step::Consume(side) => bench.consume(side),
        Step::Serve { side, capacity } => bench.serve(side, capacity),
        Step::LoseStream(side) => bench.lose_stream(side),
        Step::Crash(side) => bench.crash(side),
        Step::Connect(side) => bench.connect(side),
        Step::Refuse(side) => bench.refuse(side),
        Step::TakeOver => bench.take_over(),
        Step::Pass(seconds) => bench.pass(Duration::from_secs(seconds)),
    }
}

/// Everybody is reached, everything arrives, and whatever is asked for is answered.
fn come_to_rest(bench: &mut Bench) {
    (0..SIDES).for_each(|side| bench.connect(side));
    bench.settle();
    bench.pass(Duration::from_secs(12));
    bench.settle();
}

fn holders(bench: &Bench, task: &str) -> usize {
    (0..SIDES).filter(|side| bench.at(*side, task) == Some(At::Held)).count()
}

fn is_somewhere(bench: &Bench, task: &str) -> bool {
    let is_there = |side: usize| matches!(bench.at(side, task), Some(At::Queued | At::Held | At::Over));
    (0..SIDES).any(is_there) || bench.broker.iter().any(|copy| copy.task == task)
}

proptest! {
    #[test]
    fn no_task_is_lost_and_none_is_held_twice(steps in steps()) {
        let mut bench = Bench::new(SIDES);
        let mut begun = BTreeSet::new();
        for step in steps {
            take(&mut bench, step, &mut begun);
        }
        come_to_rest(&mut bench);
        for task in begun.iter().map(|task| format!("t{task}")) {
            let is_wanted = bench.worker.wanted.contains(&task);
            prop_assert!(!is_wanted || is_somewhere(&bench, &task), "{task} is lost");
            prop_assert!(holders(&bench, &task) <= usize::from(is_wanted), "{task} is held too often");
        }
        // Everything is done, also what is done in vain.
        for _ in 0..4 {
            for side in 0..SIDES {
                while bench.broker.iter().any(|copy| copy.taken_by.is_none()) {
                    bench.consume(side);
                }
                for task in begun.iter().map(|task| format!("t{task}")) {
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
        let mut begun = BTreeSet::new();
        for step in steps.into_iter().filter(|step| !step.is_loss()) {
            take(&mut bench, step, &mut begun);
        }
        bench.settle();
        for task in begun.iter().map(|task| format!("t{task}")) {
            prop_assert!(bench.dispatches(&task) <= 1, "{task}");
            prop_assert!(holders(&bench, &task) <= 1, "{task}");
        }
    }
}
