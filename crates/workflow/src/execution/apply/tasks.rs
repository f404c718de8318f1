//! Attempts: out, due again, and undone.

use domain::{AgentId, Payload, Timestamp};

use super::Applier;
use crate::{
    Failure, Purpose, TaskKey,
    execution::state::{Phase, Run, Undo, Unit},
};

impl Applier<'_> {
    pub(super) fn scheduled(&mut self, task: TaskKey, input: Option<&Payload>) {
        self.state.out.insert(task);
        let unit = Unit::of(task);
        if task.purpose == Purpose::Undo {
            return self.undo_scheduled(unit, task, input);
        }
        let at = self.at;
        self.leave_queues(unit);
        if unit.index.is_none() {
            self.enter(unit.step, Phase::Out);
        }
        let Some(run) = self.run(unit) else { return };
        run.phase = Phase::Out;
        run.attempt = task.attempt;
        run.started_at = run.started_at.or(Some(at));
        if let Some(input) = input {
            run.input = Some(input.clone());
        }
    }

    pub(super) fn undo_scheduled(&mut self, unit: Unit, task: TaskKey, input: Option<&Payload>) {
        let at = self.at;
        self.leave_retry(unit);
        if self.state.undo.as_ref().is_none_or(|undo| undo.unit != unit) {
            self.state.undoable.pop();
            self.state.undo = Some(Undo { unit, run: Run { started_at: Some(at), ..Run::default() } });
        }
        if let Some(undo) = &mut self.state.undo {
            undo.run.phase = Phase::Out;
            undo.run.attempt = task.attempt;
            undo.run.input = input.cloned().or(undo.run.input.take());
        }
    }

    pub(super) fn retrying(&mut self, task: TaskKey, failure: &Failure, at: Timestamp, agent_id: Option<AgentId>) {
        let run = self.attempt_over(task);
        run.failure = Some(failure.clone());
        run.agent_id = agent_id;
        self.enter_retry(task, at);
    }

    /// The task is in no agent's hands any more.
    pub(super) fn attempt_over(&mut self, task: TaskKey) -> &mut Run {
        self.state.out.remove(&task);
        match (&mut self.state.undo, task.purpose) {
            (Some(undo), Purpose::Undo) => &mut undo.run,
            _ => match task.index {
                None => &mut self.state.steps[task.step as usize].run,
                Some(index) => &mut self.state.steps[task.step as usize].instances[index as usize],
            },
        }
    }

    pub(super) fn enter_retry(&mut self, task: TaskKey, at: Timestamp) {
        let unit = Unit::of(task);
        self.state.retries.insert((at, unit));
        match (task.purpose, task.index) {
            (Purpose::Work, None) => self.enter(task.step, Phase::Retrying(at)),
            (Purpose::Work, Some(index)) => {
                self.step(task.step).instances[index as usize].phase = Phase::Retrying(at);
            }
            (Purpose::Undo, _) => {
                if let Some(undo) = &mut self.state.undo {
                    undo.run.phase = Phase::Retrying(at);
                }
            }
        }
    }

    /// Whatever it waits for, a slot or the time of its next attempt, it does no more.
    pub(super) fn leave_queues(&mut self, unit: Unit) {
        match self.state.run(unit).map(|run| run.phase) {
            Some(Phase::Pending) => self.dequeue(unit),
            _ => self.leave_retry(unit),
        }
    }

    pub(super) fn leave_retry(&mut self, unit: Unit) {
        let undo = self.state.undo.as_ref().filter(|undo| undo.unit == unit).map(|undo| undo.run.phase);
        let work = self.state.run(unit).map(|run| run.phase);
        if let Some(Phase::Retrying(at)) = undo.or(work) {
            self.state.retries.remove(&(at, unit));
        }
    }

    pub(super) fn undone(&mut self, unit: Unit, failure: Option<&Failure>) {
        self.leave_retry(unit);
        match self.state.undo.take() {
            Some(undo) => {
                self.state.out.remove(&unit.task(Purpose::Undo, undo.run.attempt));
            }
            // Its input could not be made, so it never began.
            None => {
                self.state.undoable.pop();
            }
        }
        let at = self.at;
        let Some(run) = self.run(unit) else { return };
        match failure {
            Some(failure) => run.failure = Some(failure.clone()),
            None => {
                run.ended_at = Some(at);
                if unit.index.is_some() {
                    run.phase = Phase::Compensated;
                }
            }
        }
        if failure.is_some() {
            return;
        }
        let step = self.step(unit.step);
        step.to_undo = step.to_undo.saturating_sub(1);
        // A step is undone when all its instances are; where one undo failed it stays completed.
        if step.to_undo == 0 && step.run.phase == Phase::Completed {
            self.enter(unit.step, Phase::Compensated);
        }
    }
}
