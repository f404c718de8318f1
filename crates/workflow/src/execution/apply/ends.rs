//! Ends of steps, instances and voters: what an end frees, and whom it wakes.

use domain::{Payload, Timestamp};

use super::{Applier, list};
use crate::{
    Ballot, Failure, FrameId, StepIndex, Unit, Voter,
    execution::{
        frame::Closing,
        settle::DEADLINE,
        state::{Phase, Run},
    },
    plan::{OnSkip, StepKind},
};

impl Applier<'_> {
    pub(super) fn opened(&mut self, unit: Unit, inner: FrameId, input: &Payload, deadline: Option<Timestamp>) {
        self.drop_frame(unit);
        self.begin(unit, Phase::Deciding(deadline));
        self.state.frames.vote(inner, unit);
        let run = self.run(unit);
        run.input = Some(input.clone());
        run.inner = Some(inner);
    }

    pub(super) fn voters_chosen(&mut self, unit: Unit, voters: &[Voter]) {
        let Some(inner) = self.run(unit).inner else { return };
        self.state.waiting.remove(&unit);
        let vote = Unit { frame: inner, step: unit.step, index: None };
        let many = self.many(vote);
        many.voters = voters.to_vec();
        many.ballots = vec![None; voters.len()];
        many.instances = vec![Run::default(); voters.len()];
        many.open = voters.len() as u32;
        self.queue_instances(vote);
    }

    fn voter(&mut self, unit: Unit, voter: u32) -> Option<Unit> {
        self.run(unit).inner.map(|frame| Unit { frame, step: unit.step, index: Some(voter) })
    }

    pub(super) fn ballot_cast(&mut self, unit: Unit, voter: u32, ballot: &Ballot) {
        let Some(vote) = self.voter(unit, voter) else { return };
        self.many(vote).ballots[voter as usize] = Some(ballot.clone());
        self.instance_over(vote, Phase::Completed, false);
    }

    pub(super) fn ballot_missed(&mut self, unit: Unit, voter: u32, failure: &Failure) {
        let Some(vote) = self.voter(unit, voter) else { return };
        // Any other failure is the voter's own answer, whatever code the voter gave it.
        let is_over = self.run(unit).phase.due().is_some_and(|deadline| deadline <= self.at);
        self.reason = "the deadline of the decision has passed";
        self.run(vote).failure = Some(Box::new(failure.clone()));
        self.instance_over(vote, Phase::Failed, is_over && failure.code == DEADLINE);
    }

    /// An instance or voter has ended: its place is free, and the next one queues.
    fn instance_over(&mut self, unit: Unit, phase: Phase, cut_off: bool) {
        self.end_unit(unit, phase, cut_off);
        let many = self.many(unit);
        many.open -= 1;
        many.working = many.working.saturating_sub(1);
        let was_last_loose = many.loose && many.open == 0;
        if was_last_loose {
            many.loose = false;
            self.loose_over(unit.frame);
        }
        self.queue_instances(unit.whole());
    }

    pub(super) fn completed(&mut self, unit: Unit, output: Option<&Payload>) {
        let undoable = self.plan_of(unit).compensate.is_some();
        let output = output.cloned().or_else(|| self.own_output(unit));
        if unit.index.is_some() {
            self.instance_over(unit, Phase::Completed, false);
            self.run(unit).output = output;
            let many = self.many(unit);
            many.completed += 1;
            if undoable {
                many.to_undo += 1;
                self.can_undo(unit);
            }
            return;
        }
        self.step_over(unit, Phase::Completed, false);
        if undoable && self.plan_of(unit).for_each.is_none() {
            self.can_undo(unit);
        }
        self.run(unit).output = output;
        if self.plan_of(unit).detach {
            self.leave_loose(unit);
        } else if self.plan_of(unit).for_each.is_some() {
            self.end_instances(unit);
        }
        self.dependency_done(unit);
    }

    /// The output that the state has already: the outputs of the instances, or the payload of the signal.
    pub(super) fn own_output(&mut self, unit: Unit) -> Option<Payload> {
        let step = self.plan_of(unit);
        if step.for_each.is_some() && unit.index.is_none() {
            let instances = self.step(unit).instances();
            let done = |run: &Run| run.phase == Phase::Completed;
            return Some(list(instances.iter().map(|run| run.output.as_ref().filter(|_| done(run)))));
        }
        if !matches!(step.kind, StepKind::Signal { .. }) {
            return None;
        }
        let name = self.run(unit).signal.clone()?;
        self.state.mailboxes.get_mut(&*name)?.kept.pop_front()
    }

    pub(super) fn failed(&mut self, unit: Unit, failure: &Failure, fallback: Option<&Payload>) {
        self.run(unit).failure = Some(Box::new(failure.clone()));
        if unit.index.is_some() {
            self.instance_over(unit, Phase::Failed, false);
            return self.end_left_in_block(unit);
        }
        self.step_over(unit, Phase::Failed, false);
        self.end_parts(unit);
        if let Some(fallback) = fallback {
            self.run(unit).output = Some(fallback.clone());
            self.dependency_done(unit);
        } else {
            let step_id = failure.step_id.clone().or_else(|| Some(self.plan_of(unit).id.clone()));
            self.lose(unit.frame, Closing::Failed(Failure { step_id, ..failure.clone() }));
        }
    }

    pub(super) fn skipped(&mut self, unit: Unit) {
        self.step_over(unit, Phase::Skipped, false);
        self.dependency_skipped(unit);
    }

    /// Its scope ends. What it left to itself ends too.
    pub(super) fn cancelled(&mut self, unit: Unit) {
        if self.step(unit).run.phase.is_open() {
            self.step_over(unit, Phase::Cancelled, true);
        }
        self.end_parts(unit);
    }

    /// Another step withdraws it. Where it has ended already only what it left to itself ends.
    pub(super) fn withdrawn(&mut self, unit: Unit, by: StepIndex) {
        let was_open = self.step(unit).run.phase.is_open();
        if was_open {
            self.run(unit).withdrawn_by = Some(by);
            self.step_over(unit, Phase::Withdrawn, true);
        }
        self.end_parts(unit);
        if was_open {
            self.dependency_skipped(unit);
        }
        let is_left = |race: &Unit| {
            let rest = self.plan.steps[race.step as usize].cancel_rest.iter();
            rest.map(|step| Unit { step: *step, ..*race }).any(|unit| self.state.phase(unit).is_open())
        };
        let races: Vec<_> = self.state.races.iter().copied().filter(is_left).collect();
        self.state.races = races.into();
    }

    fn dependency_skipped(&mut self, unit: Unit) {
        match self.plan_of(unit).on_skip {
            OnSkip::CountAsDone => self.dependency_done(unit),
            OnSkip::Spread => {
                for &dependent in &self.plan_of(unit).dependents {
                    let dependent = Unit { step: dependent, ..unit };
                    self.step(dependent).skipped += 1;
                    self.settle(dependent);
                }
            }
        }
    }

    fn dependency_done(&mut self, unit: Unit) {
        for &dependent in &self.plan_of(unit).dependents {
            let dependent = Unit { step: dependent, ..unit };
            self.step(dependent).done += 1;
            self.settle(dependent);
        }
    }

    fn step_over(&mut self, unit: Unit, phase: Phase, cut_off: bool) {
        self.end_unit(unit, phase, cut_off);
        self.frame(unit.frame).open -= 1;
        self.ripen(unit.frame);
    }

    /// The step has ended, and its instances go on by themselves; its scope waits for them.
    fn leave_loose(&mut self, unit: Unit) {
        let Some(many) = self.step(unit).many.as_mut().filter(|many| many.open > 0) else { return };
        many.loose = true;
        self.frame(unit.frame).loose += 1;
        self.ripen(unit.frame);
    }

    fn loose_over(&mut self, frame: FrameId) {
        let home = self.state.home(frame);
        self.frame(home).loose -= 1;
        self.ripen(home);
    }

    /// The step is over for good, and so is whatever was left to itself in its block.
    fn end_parts(&mut self, unit: Unit) {
        self.end_instances(unit);
        self.end_left_in_block(unit);
    }

    fn end_left_in_block(&mut self, unit: Unit) {
        if matches!(self.plan_of(unit).kind, StepKind::Block(_)) {
            self.end_loose(unit.frame + 1, |state, frame| state.is_part(frame, unit));
        }
    }

    /// The step is over, and so is every instance that is not.
    pub(super) fn end_instances(&mut self, unit: Unit) {
        let Some(many) = self.step(unit).many.as_ref().filter(|many| many.open > 0) else { return };
        let open: Vec<_> = (0..many.instances.len()).filter(|index| many.instances[*index].phase.is_open()).collect();
        let is_instance = |queued: &Unit| queued.frame == unit.frame && queued.step == unit.step;
        self.state.queue.retain(|queued| !is_instance(queued));
        self.state.due.retain(|queued| !is_instance(queued));
        for index in open {
            let instance = unit.instance(index as u32);
            if self.run(instance).phase == Phase::Pending && self.run(instance).mutex.is_none() {
                // It is in no queue any more, and has nothing to give back.
                let at = self.at;
                let run = self.run(instance);
                (run.phase, run.ended_at) = (Phase::Cancelled, Some(at));
            } else {
                self.end_unit(instance, Phase::Cancelled, true);
                self.end_left_in_block(instance);
            }
        }
        let many = self.many(unit);
        (many.open, many.working, many.queued) = (0, 0, many.instances.len() as u32);
        if std::mem::take(&mut many.loose) {
            self.loose_over(unit.frame);
        }
    }
}
