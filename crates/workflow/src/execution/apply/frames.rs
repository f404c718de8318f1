//! Scopes: they begin, are lost, are undone, and are over.

use domain::Timestamp;

use super::Applier;
use crate::{
    FrameId, Unit,
    execution::{
        frame::{Closing, Frame},
        state::{Phase, State},
    },
    plan::StepKind,
};

impl Applier<'_> {
    pub(super) fn entered(&mut self, unit: Unit, attempt: u32, inner: FrameId, until: Option<Timestamp>) {
        let StepKind::Block(scope) = self.plan_of(unit).kind else { return };
        self.drop_frame(unit);
        self.begin(unit, Phase::Inside(until));
        self.state.frames.enter(inner, self.plan, scope, unit);
        let run = self.run(unit);
        run.attempt = attempt;
        run.inner = Some(inner);
        self.settle_all(inner);
    }

    /// Steps that wait for nothing begin with their scope.
    pub(super) fn settle_all(&mut self, frame: FrameId) {
        let first = self.frame(frame).first;
        for step in first..first + self.frame(frame).steps.len() as u32 {
            self.settle(Unit { frame, step, index: None });
        }
    }

    /// A frame that is over is kept to be looked at, until the unit has another: a loop of a million iterations must not have a
    /// million frames. One with work that can still be undone stays.
    pub(super) fn drop_frame(&mut self, unit: Unit) {
        let Some(old) = self.run(unit).inner.take() else { return };
        let frames = self.state.frames.iter().map(|(_, frame)| frame);
        let owed = frames.flat_map(|frame| frame.undoable.values().chain(&frame.undoing));
        let is_owed = owed.chain(&self.state.not_undone).any(|unit| self.state.is_inside(unit.frame, old));
        let gone: Vec<_> = self.state.frames.ids_from(old).filter(|id| self.state.is_inside(*id, old)).collect();
        let is_loose = |id: &FrameId| self.state.frames.get(*id).is_some_and(Frame::has_loose);
        if is_owed || gone.iter().any(is_loose) {
            return;
        }
        for id in gone {
            self.state.frames.remove(id);
        }
    }

    /// Does a scope wait for its end?
    pub(super) fn ripen(&mut self, frame: FrameId) {
        let is_ripe = self.frame(frame).is_ripe() && self.state.is_live(frame);
        if is_ripe {
            self.state.ripe.insert(frame);
        } else {
            self.state.ripe.remove(&frame);
        }
    }

    /// Nothing begins any more in a scope; what runs is withdrawn next. The first reason is the one that counts.
    pub(super) fn lose(&mut self, id: FrameId, closing: Closing) {
        let is_root = id == self.state.frames.root_id();
        let frame = self.frame(id);
        if frame.closing.is_some() {
            return;
        }
        let failure = closing.failure().cloned();
        frame.closing = Some(Box::new(closing));
        if is_root {
            self.state.failure = failure.map(Box::new);
            self.state.deadline = None;
        }
        let parent = self.frame(id).parent;
        self.state.closing.insert(id);
        self.state.ripe.remove(&id);
        self.clear_queues(id);
        // Its time is over, whatever its undos take.
        if let Some(unit) = parent {
            self.enter(unit, Phase::Inside(None));
        }
    }

    /// The unit leaves its block: what completed in there can still be undone, as part of the scope around.
    pub(super) fn leave_block(&mut self, unit: Unit, inner: FrameId, cut_off: bool) {
        if cut_off {
            return self.abandon(inner);
        }
        self.state.closing.remove(&inner);
        self.state.ripe.remove(&inner);
        let frame = self.frame(inner);
        let undoable = std::mem::take(&mut frame.undoable);
        let loose = std::mem::take(&mut frame.loose);
        // An instance that was left to itself may outlive the frame that it is in.
        let home = self.state.home(unit.frame);
        let around = self.frame(home);
        around.loose += loose;
        around.undoable.extend(undoable);
    }

    /// A scope whose unit is cut off: everything in it is, and what completed is the business of the scope around it.
    pub(super) fn abandon(&mut self, id: FrameId) {
        self.end_loose(id, |state, frame| state.is_inside(frame, id));
        self.state.closing.remove(&id);
        self.state.ripe.remove(&id);
        self.clear_queues(id);
        let frame = self.frame(id);
        // Nothing queues again for a frame that is closing.
        frame.closing.get_or_insert_with(|| Box::new(Closing::Cancelled(String::new())));
        let Some(parent) = frame.parent else { return };
        let (first, count) = (frame.first, frame.steps.len() as u32);
        for step in first..first + count {
            let unit = Unit { frame: id, step, index: None };
            self.abandon_step(unit);
        }
        let frame = self.frame(id);
        let (undoable, undoing) = (std::mem::take(&mut frame.undoable), std::mem::take(&mut frame.undoing));
        let home = self.state.home(parent.frame);
        let around = self.frame(home);
        around.undoable.extend(undoable);
        around.undoing.extend(undoing);
        self.state.ripe.remove(&id);
        self.ripen(home);
    }

    /// Ends what steps have left to themselves in frames that are `inside`, none of which is older than `from`.
    pub(super) fn end_loose(&mut self, from: FrameId, inside: impl Fn(&State, FrameId) -> bool) {
        let has_loose = |id: &FrameId| self.state.frames.get(*id).is_some_and(Frame::has_loose);
        let frames = self.state.frames.ids_from(from).filter(has_loose).filter(|id| inside(self.state, *id));
        for id in frames.collect::<Vec<_>>() {
            let first = self.frame(id).first;
            for step in first..first + self.frame(id).steps.len() as u32 {
                let unit = Unit { frame: id, step, index: None };
                if self.step(unit).is_loose() {
                    self.end_instances(unit);
                }
            }
        }
    }

    fn abandon_step(&mut self, unit: Unit) {
        let is_vote = self.frame(unit.frame).scope.is_none();
        if self.step(unit).run.phase.is_open() && !is_vote {
            self.end_unit(unit, Phase::Cancelled, true);
            self.frame(unit.frame).open -= 1;
        }
        let count = self.step(unit).instances().len() as u32;
        for index in 0..count {
            let instance = unit.instance(index);
            if self.run(instance).phase.is_open() {
                self.end_unit(instance, Phase::Cancelled, true);
            }
        }
        if let Some(many) = &mut self.step(unit).many {
            (many.open, many.working, many.queued, many.loose) = (0, 0, count, false);
        }
        self.frame(unit.frame).loose = 0;
    }

    pub(super) fn compensates(&mut self, id: FrameId) {
        self.frame(id).compensating = true;
        if id == self.state.frames.root_id() {
            self.state.was_compensated = true;
        }
    }

    /// The unit completed, and its work can be undone as long as its scope can be lost.
    pub(super) fn can_undo(&mut self, unit: Unit) {
        let order = self.state.sequence;
        let home = self.state.home(unit.frame);
        if matches!(self.plan_of(unit).kind, StepKind::Block(_)) {
            // Its undo takes the place of those of what is in there.
            let mut undoable = std::mem::take(&mut self.frame(home).undoable);
            undoable.retain(|_, inner| !self.state.is_around(unit, *inner));
            self.frame(home).undoable = undoable;
        }
        self.frame(home).undoable.insert(order, unit);
    }

    /// The undo of a unit is at work, or cannot be: it is found in the scope that is being undone.
    pub(super) fn take_undoable(&mut self, unit: Unit, begins: bool) {
        let mut id = unit.frame;
        loop {
            let frame = self.frame(id);
            if frame.undoable.last_key_value().is_some_and(|(_, last)| *last == unit) {
                frame.undoable.pop_last();
                if begins {
                    frame.undoing.push(unit);
                }
                return;
            }
            match frame.parent {
                Some(parent) => id = parent.frame,
                None => return,
            }
        }
    }

    pub(super) fn leave_undoing(&mut self, unit: Unit) {
        let mut next = Some(unit.frame);
        while let Some(id) = next {
            let frame = self.frame(id);
            frame.undoing.retain(|undoing| *undoing != unit);
            next = frame.parent.map(|parent| parent.frame);
            self.ripen(id);
        }
    }

    /// An operator has failed undos tried again.
    pub(super) fn compensates_again(&mut self) {
        let root = self.state.frames.root_id();
        let units = std::mem::take(&mut self.state.not_undone);
        let frame = self.frame(root);
        // Nothing else is left in it, so that numbers of their own keep their order.
        frame.undoable.extend(units.into_iter().rev().enumerate().map(|(order, unit)| (order as u64, unit)));
        frame.compensating = true;
        self.state.end = None;
        self.state.closing.insert(root);
    }
}
