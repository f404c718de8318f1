//! The [invariants](crate::invariant) of a state.
//!
//! - **I3** what is out is the present attempt of what it is for, and no task holds a slot that is not out;
//! - **I5** what is counted along the way is what counting anew gives;
//! - **I7** an execution that has not ended owes a wake-up, and whatever waits is known to;
//! - **I8** an execution that has ended owes nothing, and one that is ready is in a queue.

use std::collections::BTreeSet;

use super::{
    Counts, Execution,
    apply::join_outcome,
    frame::Frame,
    state::{Phase, Run, State},
};
use crate::{
    FrameId, Purpose, TaskKey, Unit,
    invariant::{Breach, Invariant, owes_a_wakeup},
    plan::OnSkip,
};

impl Execution {
    /// Every invariant that is broken; none, always. Takes time in the size of the state.
    pub fn breaches(&self) -> Vec<Breach> {
        let mut found = Vec::new();
        if self.state.head.is_some() {
            found.extend([owes_a_wakeup(self), self.rests()].into_iter().filter_map(Result::err));
            self.check_slots(&mut found);
            self.check_sets(&mut found);
            self.check_queues(&mut found);
            self.check_locks(&mut found);
            for (id, frame) in self.state.frames.iter() {
                self.check_frame(id, frame, &mut found);
            }
        }
        found
    }

    /// I8: what has ended has nothing at work any more. Takes no time.
    pub fn rests(&self) -> Result<(), Breach> {
        let state = &self.state;
        let is_at_rest = state.out.is_empty()
            && state.errands.is_empty()
            && state.active.is_empty()
            && state.waiting.is_empty()
            && state.timers.is_empty()
            && state.retries.is_empty()
            && state.reentries.is_empty()
            && state.undo_retries.is_empty()
            && state.closing.is_empty()
            && state.mutexes.is_empty();
        if state.end.is_none() || is_at_rest {
            return Ok(());
        }
        Err(Invariant::I8.breach("it has ended, and something is at work"))
    }

    /// Every unit there is, in a frame that has not been dropped.
    fn units(&self) -> impl Iterator<Item = (Unit, &Run)> {
        self.state.frames.iter().flat_map(|(frame, runs)| {
            let steps = (runs.first..).zip(&runs.steps).filter(|_| runs.scope.is_some());
            let whole = steps.map(move |(step, run)| (Unit { frame, step, index: None }, &run.run));
            let instances = (runs.first..).zip(&runs.steps).flat_map(move |(step, run)| {
                let unit = Unit { frame, step, index: None };
                run.instances().iter().enumerate().map(move |(index, run)| (unit.instance(index as u32), run))
            });
            whole.chain(instances)
        })
    }

    fn check_slots(&self, found: &mut Vec<Breach>) {
        let state = &self.state;
        if state.work_out > self.plan.max_parallel {
            found.push(Invariant::I3.breach(format!("{} tasks are out, more than max_parallel", state.work_out)));
        }
        let work = state.out.iter().filter(|task| task.purpose == Purpose::Work).count();
        if work != state.work_out as usize {
            found.push(Invariant::I5.breach(format!("{work} tasks of work are out, counted were {}", state.work_out)));
        }
        let strays = state.out.iter().chain(state.errands.keys()).filter(|task| !is_out(state, **task));
        found.extend(strays.map(|task| Invariant::I3.breach(format!("{task:?} is out, and nothing waits for it"))));
        let out = self.units().filter(|(_, run)| matches!(run.phase, Phase::Out | Phase::Child(_))).count();
        if out != work + state.errands.len() {
            found.push(
                Invariant::I3
                    .breach(format!("{out} units have a task out, and {} tasks are", work + state.errands.len())),
            );
        }
        let undoing = self.units().filter(|(_, run)| run.undo.is_some()).count();
        let known: usize = state.frames.iter().map(|(_, frame)| frame.undoing.len()).sum();
        if undoing != known {
            found.push(Invariant::I5.breach(format!("{undoing} undos are at work, {known} are known")));
        }
    }

    fn check_sets(&self, found: &mut Vec<Breach>) {
        let state = &self.state;
        let mut counts = Counts::default();
        state.frames.root().steps.iter().for_each(|step| *counts.of(step.run.phase.state()) += 1);
        if counts != state.counts {
            found.push(Invariant::I5.breach(format!("counts are {:?}, the steps say {counts:?}", state.counts)));
        }
        let active: BTreeSet<_> = self.units().filter(|(_, run)| run.phase.is_active()).map(|(unit, _)| unit).collect();
        if active != state.active {
            found.push(Invariant::I5.breach(format!("active are {active:?}, known are {:?}", state.active)));
        }
        let timers: BTreeSet<_> = self.units().filter_map(|(unit, run)| Some((run.phase.due()?, unit))).collect();
        if timers != state.timers {
            found.push(Invariant::I5.breach(format!("the waits end at {timers:?}, the timers are {:?}", state.timers)));
        }
        let retrying = |(unit, run): (Unit, &Run)| match run.phase {
            Phase::Retrying(at) => Some((at, unit)),
            _ => None,
        };
        let retries: BTreeSet<_> = self.units().filter_map(retrying).collect();
        let known: BTreeSet<_> = state.retries.union(&state.reentries).copied().collect();
        if retries != known {
            found.push(Invariant::I5.breach(format!("retries are due at {retries:?}, known are {known:?}")));
        }
        let is_waiting = |(unit, run): &(Unit, &Run)| match run.phase {
            Phase::Awaiting(_) | Phase::Sleeping(_) => true,
            Phase::Deciding(_) => state.wants_voters(*unit),
            Phase::Locking => run.mutex.as_ref().is_some_and(|held| held.is_outside()),
            _ => false,
        };
        let waiting: BTreeSet<_> = self.units().filter(is_waiting).map(|(unit, _)| unit).collect();
        if waiting != state.waiting {
            found.push(Invariant::I7.breach(format!("these wait: {waiting:?}; known are {:?}", state.waiting)));
        }
        let awaiting = self.units().filter(|(_, run)| matches!(run.phase, Phase::Awaiting(_))).count();
        let known: usize = state.mailboxes.values().map(|mailbox| mailbox.waiting.len()).sum();
        if awaiting != known {
            found.push(Invariant::I7.breach(format!("{awaiting} units wait for a signal, {known} are known")));
        }
    }

    /// Whatever is ready waits in exactly one queue, and nothing else does.
    fn check_queues(&self, found: &mut Vec<Breach>) {
        let state = &self.state;
        let queued: BTreeSet<_> = state.queue.iter().chain(&state.due).copied().collect();
        if queued.len() != state.queue.len() + state.due.len() {
            found.push(Invariant::I8.breach("something is queued twice"));
        }
        for unit in &queued {
            let is_open = state.frames.get(unit.frame).is_some_and(|frame| frame.closing.is_none());
            if state.phase(*unit) != Phase::Pending || !is_open {
                found.push(Invariant::I8.breach(format!("{unit:?} is queued, and has begun, or never will")));
            }
        }
        if state.end.is_some() {
            return;
        }
        for (unit, run) in self.units().filter(|(_, run)| run.phase == Phase::Pending) {
            let Some(frame) = state.frames.get(unit.frame).filter(|frame| frame.closing.is_none()) else { continue };
            let step = frame.step(unit.step);
            let is_ready = match unit.index {
                None => step.is_some_and(|step| step.settled),
                Some(index) => step.and_then(|step| step.many.as_ref()).is_some_and(|many| index < many.queued),
            };
            if is_ready != queued.contains(&unit) {
                found.push(
                    Invariant::I8
                        .breach(format!("{unit:?} ({:?}) is ready: {is_ready}, and queued: {}", run.phase, !is_ready)),
                );
            }
        }
    }

    /// A mutex has one holder, which is at work, and whoever waits for it knows that.
    fn check_locks(&self, found: &mut Vec<Breach>) {
        let state = &self.state;
        for (key, mutex) in &state.mutexes {
            let wants = |unit: &Unit, taken: bool| {
                let held = state.run(*unit).and_then(|run| run.mutex.as_ref());
                held.is_some_and(|held| held.key == *key && held.taken == taken)
            };
            let holders = &mutex.holders;
            if !holders.iter().all(|unit| wants(unit, true)) || !mutex.waiting.iter().all(|unit| wants(unit, false)) {
                found.push(Invariant::I8.breach(format!("the mutex {key:?} is not what its units think: {mutex:?}")));
            }
            if !holders.is_sorted_by(|outer, inner| state.is_around(*outer, *inner)) {
                found.push(Invariant::I8.breach(format!("the mutex {key:?} has several holders: {holders:?}")));
            }
            let is_idle = holders.is_empty() && mutex.waiting.is_empty();
            if is_idle || (key.global != mutex.kept_for.is_some()) {
                found.push(Invariant::I8.breach(format!("the mutex {key:?} is kept for {:?}", mutex.kept_for)));
            }
            let is_free = mutex.waiting.iter().any(|unit| state.may_take(mutex, *unit));
            if is_free != state.free_mutexes.contains(key) {
                found.push(Invariant::I8.breach(format!("the mutex {key:?} is free: {is_free}, and nobody sees it")));
            }
        }
        let held =
            self.units().filter_map(|(_, run)| run.mutex.as_ref()).filter(|held| held.taken || !held.is_outside());
        let known: usize = state.mutexes.values().map(|mutex| mutex.waiting.len() + mutex.holders.len()).sum();
        let held = held.count();
        if held != known {
            found.push(Invariant::I5.breach(format!("{held} units have or want a mutex, {known} are known")));
        }
    }

    fn check_frame(&self, id: FrameId, frame: &Frame, found: &mut Vec<Breach>) {
        let open = frame.steps.iter().filter(|step| step.run.phase.is_open()).count();
        let is_vote = frame.scope.is_none();
        if open != frame.open as usize && !is_vote {
            found.push(
                Invariant::I5.breach(format!("{open} steps of frame {id} are open, counted were {}", frame.open)),
            );
        }
        let homed = self.state.frames.iter().filter(|(inner, _)| self.state.home(*inner) == id);
        let steps = homed.flat_map(|(_, frame)| &frame.steps);
        let loose = steps.filter(|step| step.is_loose()).count();
        if loose != frame.loose as usize {
            found.push(
                Invariant::I5.breach(format!("{loose} steps of frame {id} are loose, counted were {}", frame.loose)),
            );
        }
        // A frame whose unit is at work elsewhere is over.
        let is_live = self.state.is_live(id) && self.state.end.is_none();
        if self.state.ripe.contains(&id) != (is_live && frame.is_ripe()) {
            found.push(Invariant::I8.breach(format!(
                "frame {id} is ripe: {}, and seen: {}",
                frame.is_ripe(),
                !frame.is_ripe()
            )));
        }
        if is_live && self.state.closing.contains(&id) != frame.closing.is_some() {
            found.push(Invariant::I8.breach(format!("frame {id} is lost, and nobody sees it")));
        }
        if !is_vote {
            (frame.first..).take(frame.steps.len()).for_each(|step| {
                self.check_step(Unit { frame: id, step, index: None }, found);
            });
        }
    }

    /// A step's counters against what they count.
    fn check_step(&self, unit: Unit, found: &mut Vec<Breach>) {
        let (plan, Some(run)) = (&self.plan.steps[unit.step as usize], self.state.step(unit)) else { return };
        let (mut done, mut skipped) = (0, 0);
        for &dependency in &plan.depends_on {
            let counts_as_done = self.plan.steps[dependency as usize].on_skip == OnSkip::CountAsDone;
            let dependency = Unit { step: dependency, ..unit };
            match self.state.phase(dependency) {
                Phase::Completed | Phase::Compensated => done += 1,
                Phase::Failed => {
                    done += u32::from(self.state.run(dependency).is_some_and(|run| run.output.is_some()));
                }
                Phase::Skipped | Phase::Withdrawn if counts_as_done => done += 1,
                Phase::Skipped | Phase::Withdrawn => skipped += 1,
                _ => {}
            }
        }
        if (done, skipped) != (run.done, run.skipped) {
            let counted = (run.done, run.skipped);
            found.push(
                Invariant::I5
                    .breach(format!("dependencies of {} are {done} done, {skipped} skipped, not {counted:?}", plan.id)),
            );
        }
        let has_settled = join_outcome(&self.plan, &self.state, unit).is_some();
        if run.run.phase == Phase::Pending && run.settled != has_settled {
            found.push(Invariant::I8.breach(format!("the join of {} has settled, and nobody saw it", plan.id)));
        }
        let Some(many) = &run.many else { return };
        let open = many.instances.iter().filter(|run| run.phase.is_open()).count();
        if (run.run.phase.is_active() || many.loose) && open != many.open as usize {
            found.push(
                Invariant::I5.breach(format!("{open} instances of {} are open, counted were {}", plan.id, many.open)),
            );
        }
    }
}

fn is_out(state: &State, task: TaskKey) -> bool {
    let run = match task.purpose {
        Purpose::Undo => state.run(task.unit).and_then(|run| run.undo.as_deref()),
        Purpose::Work => state.run(task.unit),
    };
    run.is_some_and(|run| matches!(run.phase, Phase::Out | Phase::Child(_)) && run.attempt == task.attempt)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{Command, Definition, Limits, execution::tests::start};

    /// A task is out, and a step waits for a signal.
    fn execution() -> Execution {
        let definition = json!({ "name": "w", "steps": [
            { "id": "a", "agent_type": "x" },
            { "id": "b", "signal": { "name": "go", "timeout": "1h" } },
            { "id": "c", "agent_type": "x", "depends_on": ["a", "b"] },
        ] });
        let plan = Definition::parse(definition.to_string().as_bytes(), Limits::default()).unwrap().plan;
        let mut execution = Execution::new(Arc::new(plan));
        execution.transition(Command::Start(start()), Timestamp::from_millis(1)).unwrap();
        execution
    }

    #[test]
    fn a_state_that_is_broken_is_found_by_the_invariant_that_it_breaks() {
        type Break = fn(&mut State);
        let breaks: [(Invariant, Break); 8] = [
            (Invariant::I3, |state| state.out = state.out.iter().map(|task| TaskKey { attempt: 2, ..*task }).collect()),
            (Invariant::I5, |state| state.work_out += 1),
            (Invariant::I5, |state| state.counts.pending += 1),
            (Invariant::I5, |state| state.timers.clear()),
            (Invariant::I7, |state| state.waiting.clear()),
            (Invariant::I7, |state| state.mailboxes.clear()),
            (Invariant::I8, |state| state.queue.push_back(Unit { frame: 0, step: 2, index: None })),
            (Invariant::I8, |state| state.end = Some((super::super::state::End::Failed, Timestamp::EPOCH))),
        ];
        for (number, (invariant, wreck)) in breaks.into_iter().enumerate() {
            let mut execution = execution();
            assert_eq!(execution.breaches(), []);
            wreck(&mut execution.state);
            let found = execution.breaches();
            assert!(found.iter().any(|breach| breach.invariant == invariant), "{number}: {found:?}");
        }
    }

    #[test]
    fn what_nothing_will_wake_or_does_not_rest_is_found_at_a_glance() {
        let mut execution = execution();
        owes_a_wakeup(&execution).unwrap();
        execution.state.out.clear();
        execution.state.waiting.clear();
        assert_eq!(owes_a_wakeup(&execution).unwrap_err().invariant, Invariant::I7);
        execution.rests().unwrap();
        execution.state.end = Some((super::super::state::End::Failed, Timestamp::EPOCH));
        assert_eq!(execution.rests().unwrap_err().invariant, Invariant::I8);
    }
}
