//! Instances and voters, and the ends of steps: what an end frees, and whom it wakes.

use domain::Payload;

use super::{Applier, list};
use crate::{
    Ballot, Failure, Purpose, StepIndex, Voter,
    execution::{
        settle::DEADLINE,
        state::{Phase, Run, Unit},
    },
    plan::{OnSkip, StepKind},
};

impl Applier<'_> {
    pub(super) fn expanded(&mut self, step: StepIndex, items: &[Payload]) {
        self.begin(step, Phase::Expanded);
        let run = self.step(step);
        run.items = items.to_vec();
        run.instances = vec![Run::default(); items.len()];
        run.open = items.len() as u32;
        self.queue_instances(step);
    }

    /// Queues as many instances as `max_parallel` allows.
    pub(super) fn queue_instances(&mut self, step: StepIndex) {
        let limit = self.plan.steps[step as usize].for_each.as_ref().map_or(u32::MAX, |for_each| for_each.max_parallel);
        let run = &mut self.state.steps[step as usize];
        while (run.queued as usize) < run.instances.len() && run.working < limit {
            // After a retry of the execution some have completed already.
            if run.instances[run.queued as usize].phase == Phase::Pending {
                self.state.queue.push_back(Unit { step, index: Some(run.queued) });
                run.working += 1;
            }
            run.queued += 1;
        }
    }

    pub(super) fn voters_chosen(&mut self, step: StepIndex, voters: &[Voter]) {
        let run = self.step(step);
        run.voters = voters.to_vec();
        run.ballots = vec![None; voters.len()];
        // Voters begin after the attempts of those of an earlier round.
        let attempt = run.run.attempt;
        run.instances = vec![Run { attempt, attempts_before: attempt, ..Run::default() }; voters.len()];
        run.open = voters.len() as u32;
        (run.queued, run.working) = (0, 0);
        self.queue_instances(step);
    }

    /// An instance or voter has ended: its slot is free, and the next one queues. Was its task out until now?
    pub(super) fn instance_over(
        &mut self,
        step: StepIndex,
        index: u32,
        phase: Phase,
        failure: Option<&Failure>,
    ) -> bool {
        let unit = Unit { step, index: Some(index) };
        self.leave_queues(unit);
        let at = self.at;
        let task = unit.task(Purpose::Work, self.step(step).instances[index as usize].attempt);
        let was_out = self.state.out.remove(&task);
        let run = self.step(step);
        run.open -= 1;
        run.working = run.working.saturating_sub(1);
        let instance = &mut run.instances[index as usize];
        instance.failure = failure.cloned().or(instance.failure.take());
        instance.phase = phase;
        instance.ended_at = Some(at);
        self.queue_instances(step);
        was_out
    }

    pub(super) fn ballot_cast(&mut self, step: StepIndex, voter: u32, ballot: &Ballot) {
        self.step(step).ballots[voter as usize] = Some(ballot.clone());
        let _ = self.instance_over(step, voter, Phase::Completed, None);
    }

    pub(super) fn ballot_missed(&mut self, step: StepIndex, voter: u32, failure: &Failure) {
        let was_out = self.instance_over(step, voter, Phase::Failed, Some(failure));
        // Any other failure is the voter's own answer, whatever code the voter gave it.
        let is_over = self.step(step).run.phase.due().is_some_and(|deadline| deadline <= self.at);
        self.step(step).instances[voter as usize].withdrawn = was_out && is_over && failure.code == DEADLINE;
    }

    pub(super) fn completed(&mut self, unit: Unit, output: Option<&Payload>) {
        let undoable = self.plan.steps[unit.step as usize].compensate.is_some();
        if let Some(index) = unit.index {
            let _ = self.instance_over(unit.step, index, Phase::Completed, None);
            self.step(unit.step).instances[index as usize].output = output.cloned();
            if undoable {
                self.step(unit.step).to_undo += 1;
                self.state.undoable.push(unit);
            }
            return;
        }
        let output = output.cloned().or_else(|| self.own_output(unit.step));
        if undoable && self.plan.steps[unit.step as usize].for_each.is_none() {
            self.state.undoable.push(unit);
        }
        self.step(unit.step).run.output = output;
        self.end_step(unit.step, Phase::Completed);
        self.dependency_done(unit.step);
    }

    /// The output that the state has already: the outputs of the instances, or the payload of the signal.
    pub(super) fn own_output(&mut self, step: StepIndex) -> Option<Payload> {
        let plan = &self.plan.steps[step as usize];
        if let StepKind::Signal { name, .. } = &plan.kind {
            return self.state.mailboxes.get_mut(name).and_then(|mailbox| mailbox.kept.pop_front());
        }
        let outputs = self.state.steps[step as usize].instances.iter().map(|run| run.output.as_ref());
        plan.for_each.is_some().then(|| list(outputs))
    }

    pub(super) fn failed(&mut self, unit: Unit, failure: &Failure, fallback: Option<&Payload>) {
        let step = unit.step;
        if let Some(index) = unit.index {
            let _ = self.instance_over(step, index, Phase::Failed, Some(failure));
            return;
        }
        self.step(step).run.failure = Some(failure.clone());
        self.end_step(step, Phase::Failed);
        self.end_instances(step);
        if let Some(fallback) = fallback {
            self.step(step).run.output = Some(fallback.clone());
            self.dependency_done(step);
        } else if self.state.failure.is_none() {
            let step_id = Some(self.plan.steps[step as usize].id.clone());
            self.state.failure = Some(Failure { step_id, ..failure.clone() });
        }
    }

    pub(super) fn skipped(&mut self, step: StepIndex) {
        self.end_step(step, Phase::Skipped);
        match self.plan.steps[step as usize].on_skip {
            OnSkip::CountAsDone => self.dependency_done(step),
            OnSkip::Spread => {
                let plan = self.plan;
                for &dependent in &plan.steps[step as usize].dependents {
                    self.step(dependent).skipped += 1;
                    self.settle(dependent);
                }
            }
        }
    }

    pub(super) fn dependency_done(&mut self, step: StepIndex) {
        let plan = self.plan;
        for &dependent in &plan.steps[step as usize].dependents {
            self.step(dependent).done += 1;
            self.settle(dependent);
        }
    }

    pub(super) fn end_step(&mut self, step: StepIndex, phase: Phase) {
        let unit = Unit { step, index: None };
        self.leave_queues(unit);
        if let StepKind::Signal { name, .. } = &self.plan.steps[step as usize].kind
            && let Some(mailbox) = self.state.mailboxes.get_mut(name)
        {
            mailbox.waiting.retain(|waiting| *waiting != step);
        }
        let task = unit.task(Purpose::Work, self.step(step).run.attempt);
        let was_out = self.state.out.remove(&task);
        let at = self.at;
        let run = &mut self.step(step).run;
        run.ended_at = Some(at);
        // A result ends the attempt with the step; only an attempt that is cut off is withdrawn from its agent.
        run.withdrawn = was_out && phase == Phase::Cancelled;
        self.enter(step, phase);
        self.state.open -= 1;
    }

    /// The step is over, and so is every instance or voter that is not.
    pub(super) fn end_instances(&mut self, step: StepIndex) {
        let at = self.at;
        for index in 0..self.step(step).instances.len() as u32 {
            let unit = Unit { step, index: Some(index) };
            let instance = &self.state.steps[step as usize].instances[index as usize];
            if !(instance.phase.is_active() || instance.phase == Phase::Pending) {
                continue;
            }
            let task = unit.task(Purpose::Work, instance.attempt);
            self.leave_retry(unit);
            let withdrawn = self.state.out.remove(&task);
            let instance = &mut self.step(step).instances[index as usize];
            *instance = Run { phase: Phase::Cancelled, withdrawn, ended_at: Some(at), ..std::mem::take(instance) };
        }
        let run = self.step(step);
        (run.open, run.working) = (0, 0);
        if !run.instances.is_empty() {
            self.state.queue.retain(|queued| queued.step != step);
        }
    }
}
