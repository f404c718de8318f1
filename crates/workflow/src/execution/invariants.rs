//! What must always hold, in words where it does not. The simulator asks after every transition, the shell when it verifies.
//!
//! - **I3** what is out is the present attempt of what it is for, and no task holds a slot that is not out;
//! - **I5** what is counted along the way is what counting anew gives;
//! - **I7** an execution that has not ended owes a wake-up;
//! - **I8** an execution that has ended owes nothing, and one that is ready is in a queue.

use std::collections::BTreeSet;

use super::{
    Counts, Execution,
    apply::join_outcome,
    state::{Phase, State, StepRun, Unit},
};
use crate::{Purpose, StepIndex, TaskKey, plan::OnSkip};

impl Execution {
    /// Every invariant that is broken; none, always. Takes time in the size of the state.
    pub fn breaches(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.state.head.is_some() {
            self.check_wakeups(&mut found);
            self.check_slots(&mut found);
            self.check_counts(&mut found);
            self.check_queues(&mut found);
            for step in 0..self.plan.steps.len() as StepIndex {
                self.check_step(step, &mut found);
            }
        }
        found
    }

    fn check_wakeups(&self, found: &mut Vec<String>) {
        let state = &self.state;
        if state.end.is_none() && self.wakeups() == 0 {
            found.push("I7: it has not ended, and nothing will wake it".to_owned());
        }
        let is_at_work = !(state.out.is_empty()
            && state.active.is_empty()
            && state.timers.is_empty()
            && state.retries.is_empty()
            && state.undo.is_none());
        if state.end.is_some() && is_at_work {
            found.push("I8: it has ended, and something is at work".to_owned());
        }
    }

    fn check_slots(&self, found: &mut Vec<String>) {
        let state = &self.state;
        if state.work_out() > self.plan.max_parallel as usize {
            found.push(format!("I3: {} tasks are out, more than max_parallel", state.work_out()));
        }
        let strays = state.out.iter().filter(|task| !is_out(state, **task));
        found.extend(strays.map(|task| format!("I3: {task:?} is out, and nothing waits for it")));
        let units = state.steps.iter().flat_map(|step| step.instances.iter().chain([&step.run]));
        let out = units.filter(|run| run.phase == Phase::Out).count();
        if out != state.work_out() {
            found.push(format!("I3: {out} units have a task out, and {} tasks are", state.work_out()));
        }
    }

    fn check_counts(&self, found: &mut Vec<String>) {
        let state = &self.state;
        let mut counts = Counts::default();
        state.steps.iter().for_each(|step| *counts.of(step.run.phase.state()) += 1);
        if counts != state.counts {
            found.push(format!("I5: counts are {:?}, the steps say {counts:?}", state.counts));
        }
        let open = state.steps.iter().filter(|step| is_open(step.run.phase)).count();
        if open != state.open as usize {
            found.push(format!("I5: {open} steps are open, counted were {}", state.open));
        }
        let numbered = state.steps.iter().enumerate();
        let active: BTreeSet<_> =
            numbered.filter(|(_, step)| step.run.phase.is_active()).map(|(step, _)| step as StepIndex).collect();
        if active != state.active {
            found.push(format!("I5: active are {active:?}, known are {:?}", state.active));
        }
        let numbered = state.steps.iter().enumerate();
        let timers: BTreeSet<_> =
            numbered.filter_map(|(step, run)| Some((run.run.phase.due()?, step as StepIndex))).collect();
        if timers != state.timers {
            found.push(format!("I5: the waits end at {timers:?}, the timers are {:?}", state.timers));
        }
    }

    /// Whatever is ready waits in exactly one queue, and nothing else does.
    fn check_queues(&self, found: &mut Vec<String>) {
        let state = &self.state;
        let queued: BTreeSet<_> = state.queue.iter().copied().collect();
        let due: BTreeSet<_> = state.due.iter().copied().collect();
        if queued.len() != state.queue.len() || due.len() != state.due.len() {
            found.push("I8: something is queued twice".to_owned());
        }
        let stale = queued.iter().filter(|unit| state.run(**unit).is_none_or(|run| run.phase != Phase::Pending));
        found.extend(stale.map(|unit| format!("I8: {unit:?} is queued, and has begun")));
        for (step, run) in state.steps.iter().enumerate() {
            let step = step as StepIndex;
            let is_ready = run.settled && run.run.phase == Phase::Pending;
            let places = usize::from(queued.contains(&Unit { step, index: None })) + usize::from(due.contains(&step));
            if places != usize::from(is_ready) {
                found.push(format!("I8: the step {step} is ready: {is_ready}; queued {places} times"));
            }
        }
    }

    /// A step's counters against what they count.
    fn check_step(&self, step: StepIndex, found: &mut Vec<String>) {
        let (plan, run) = (&self.plan.steps[step as usize], &self.state.steps[step as usize]);
        let dependencies = plan
            .depends_on
            .iter()
            .map(|dependency| (&self.plan.steps[*dependency as usize], &self.state.steps[*dependency as usize]));
        let (mut done, mut skipped) = (0, 0);
        for (plan, dependency) in dependencies {
            let counts_as_done = plan.on_skip == OnSkip::CountAsDone;
            match dependency.run.phase {
                Phase::Completed | Phase::Compensated => done += 1,
                Phase::Failed => done += u32::from(dependency.run.output.is_some()),
                Phase::Skipped if counts_as_done => done += 1,
                Phase::Skipped => skipped += 1,
                Phase::Pending
                | Phase::Out
                | Phase::Retrying(_)
                | Phase::Expanded
                | Phase::Deciding(_)
                | Phase::Awaiting(_)
                | Phase::Sleeping(_)
                | Phase::Cancelled => {}
            }
        }
        if (done, skipped) != (run.done, run.skipped) {
            let counted = (run.done, run.skipped);
            found.push(format!("I5: dependencies of {} are {done} done, {skipped} skipped, not {counted:?}", plan.id));
        }
        if run.settled != join_outcome(&self.plan, &self.state, step).is_some() {
            found.push(format!("I8: the join of {} has settled, and nobody saw it", plan.id));
        }
        if run.run.phase.is_active() && open_instances(run) != run.open as usize {
            found.push(format!(
                "I5: {} instances of {} are open, counted were {}",
                open_instances(run),
                plan.id,
                run.open
            ));
        }
    }
}

fn is_open(phase: Phase) -> bool {
    phase == Phase::Pending || phase.is_active()
}

fn open_instances(step: &StepRun) -> usize {
    step.instances.iter().filter(|run| is_open(run.phase)).count()
}

fn is_out(state: &State, task: TaskKey) -> bool {
    let run = match (&state.undo, task.purpose) {
        (Some(undo), Purpose::Undo) if undo.unit == Unit::of(task) => Some(&undo.run),
        (_, Purpose::Undo) => None,
        (_, Purpose::Work) => state.run(Unit::of(task)),
    };
    run.is_some_and(|run| run.phase == Phase::Out && run.attempt == task.attempt)
}
