//! Attempts: out, due again, repeated, and undone.

use domain::{AgentId, Payload, Timestamp};

use super::{Applier, units::takes_slot};
use crate::{
    Failure, Purpose, TaskKey, Unit,
    execution::state::{Phase, Run},
    plan::StepKind,
};

impl Applier<'_> {
    pub(super) fn scheduled(&mut self, task: TaskKey, input: Option<&Payload>) {
        let unit = task.unit;
        if task.purpose == Purpose::Undo {
            return self.undo_scheduled(task, input);
        }
        self.leave(unit, false);
        let step = self.plan_of(unit);
        let is_errand = matches!(step.kind, StepKind::Workflow(_) | StepKind::Emit(_));
        if is_errand {
            self.state.errands.insert(task, self.at);
        } else {
            self.state.out.insert(task);
            self.state.work_out += 1;
        }
        let phase = match step.kind {
            StepKind::Workflow(_) => Phase::Child(step.timeout.map(|timeout| self.at + timeout)),
            _ => Phase::Out,
        };
        self.enter(unit, phase);
        let run = self.run(unit);
        run.attempt = task.attempt;
        if let Some(input) = input {
            run.input = Some(input.clone());
        }
    }

    /// The undo of a unit begins, or its next attempt does.
    fn undo_scheduled(&mut self, task: TaskKey, input: Option<&Payload>) {
        let (unit, at) = (task.unit, self.at);
        self.leave_undo_retry(unit);
        if self.run(unit).undo.is_none() {
            self.take_undoable(unit, true);
            let run = self.run(unit);
            let attempts_before = run.undo_attempts;
            run.undo = Some(Box::new(Run { attempts_before, started_at: Some(at), ..Run::default() }));
        }
        self.state.out.insert(task);
        let Some(undo) = &mut self.run(unit).undo else { return };
        undo.phase = Phase::Out;
        undo.attempt = task.attempt;
        undo.input = input.cloned().or(undo.input.take());
    }

    pub(super) fn retrying(&mut self, task: TaskKey, failure: &Failure, at: Timestamp, agent_id: Option<AgentId>) {
        let unit = task.unit;
        if task.purpose == Purpose::Undo {
            self.state.out.remove(&task);
            self.state.undo_retries.insert((at, unit));
            let Some(undo) = &mut self.run(unit).undo else { return };
            undo.phase = Phase::Retrying(at);
            undo.failure = Some(Box::new(failure.clone()));
            return;
        }
        self.leave(unit, false);
        self.enter(unit, Phase::Retrying(at));
        let is_vote = self.frame(unit.frame).scope.is_none();
        let queue =
            if is_vote || takes_slot(self.plan_of(unit)) { &mut self.state.retries } else { &mut self.state.reentries };
        queue.insert((at, unit));
        let run = self.run(unit);
        run.failure = Some(Box::new(failure.clone()));
        run.agent_id = agent_id;
    }

    /// The next iteration of a loop. It keeps its mutex.
    pub(super) fn repeated(&mut self, unit: Unit, output: Option<&Payload>) {
        let output = output.cloned().or_else(|| self.own_output(unit));
        self.leave(unit, false);
        self.enter(unit, Phase::Pending);
        let run = self.run(unit);
        *run = Run {
            attempt: run.attempt,
            attempts_before: run.attempt,
            iteration: run.iteration + 1,
            inner: run.inner,
            started_at: run.started_at,
            last: output,
            mutex: run.mutex.take(),
            ..Run::default()
        };
        self.enqueue(unit, true);
    }

    pub(super) fn leave_undo_retry(&mut self, unit: Unit) {
        let phase = self.run(unit).undo.as_ref().map(|undo| undo.phase);
        if let Some(Phase::Retrying(at)) = phase {
            self.state.undo_retries.remove(&(at, unit));
        }
    }

    /// The undo of a unit is over, one way or the other.
    pub(super) fn undone(&mut self, unit: Unit, failure: Option<&Failure>) {
        self.leave_undo_retry(unit);
        match self.run(unit).undo.take() {
            Some(undo) => {
                self.state.out.remove(&unit.task(Purpose::Undo, undo.attempt));
                self.run(unit).undo_attempts = undo.attempt;
                self.leave_undoing(unit);
            }
            // Its input could not be made, so it never began.
            None => self.take_undoable(unit, false),
        }
        let at = self.at;
        if let Some(failure) = failure {
            self.run(unit).failure = Some(Box::new(failure.clone()));
            self.state.not_undone.push(unit);
            return;
        }
        let run = self.run(unit);
        run.ended_at = Some(at);
        run.failure = None;
        if unit.index.is_some() {
            run.phase = Phase::Compensated;
            let many = self.many(unit);
            many.to_undo = many.to_undo.saturating_sub(1);
            // A step is undone when all its instances are; where one undo failed it stays completed.
            if many.to_undo > 0 {
                return;
            }
        }
        if self.step(unit).run.phase == Phase::Completed {
            self.enter(unit.whole(), Phase::Compensated);
        }
    }
}
