//! Frames: each activation of a scope. The execution is one, every run of a block another, every vote too.

use std::collections::BTreeMap;

use super::state::StepRun;
use crate::{Failure, FrameId, Plan, StepIndex, Unit, event::Ending, plan::ScopeIndex};

/// One activation of a scope.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    /// The unit whose block or vote it is; absent for the execution itself.
    pub(super) parent: Option<Unit>,
    /// Absent for a vote.
    pub(super) scope: Option<ScopeIndex>,
    /// The step that `steps` begins with.
    pub(super) first: StepIndex,
    /// Of a vote: one, the decision, with the voters as its instances.
    pub(super) steps: Vec<StepRun>,
    /// Steps that have not ended.
    pub(super) open: u32,
    /// Steps that have ended and left instances to themselves that have not: of this scope, and of bodies of loops in it.
    pub(super) loose: u32,
    /// It is the body of a loop: the next iteration does not wait for what this one leaves to itself.
    pub(super) is_body: bool,
    /// Completed work that can be undone, by the number of the event with which it completed.
    pub(super) undoable: BTreeMap<u64, Unit>,
    /// Undos at work: one, or those of the scopes inside that were undoing when this one was lost too.
    pub(super) undoing: Vec<Unit>,
    /// Why nothing begins in it any more.
    pub(super) closing: Option<Box<Closing>>,
    pub(super) compensating: bool,
}

/// Why a scope ends before all of its steps have.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Closing {
    Failed(Failure),
    Cancelled(String),
    /// By a step with `end`: only the execution itself.
    Ended(Ending),
}

impl Closing {
    /// Does what completed stay?
    pub(super) fn keeps_work(&self) -> bool {
        matches!(self, Self::Ended(Ending::Completed(_) | Ending::Continued(_)))
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) | Self::Ended(Ending::Failed(failure)) => Some(failure),
            Self::Cancelled(_) | Self::Ended(_) => None,
        }
    }
}

impl Frame {
    fn new(plan: &Plan, scope: ScopeIndex, parent: Option<Unit>) -> Self {
        let steps = plan.scopes[scope as usize].steps.clone();
        let (first, count) = (steps.start, steps.len());
        let is_body = parent.is_some_and(|unit| plan.steps[unit.step as usize].repeat.is_some());
        Self { parent, scope: Some(scope), open: count as u32, is_body, ..Self::with(first, count) }
    }

    fn of_vote(decision: Unit) -> Self {
        Self { parent: Some(decision), ..Self::with(decision.step, 1) }
    }

    fn with(first: StepIndex, count: usize) -> Self {
        Self {
            parent: None,
            scope: None,
            first,
            steps: vec![StepRun::default(); count],
            open: 0,
            loose: 0,
            is_body: false,
            undoable: BTreeMap::new(),
            undoing: Vec::new(),
            closing: None,
            compensating: false,
        }
    }

    pub(super) fn step(&self, step: StepIndex) -> Option<&StepRun> {
        self.steps.get(step.checked_sub(self.first)? as usize)
    }

    /// Are there instances that their steps have left to themselves?
    pub(super) fn has_loose(&self) -> bool {
        self.steps.iter().any(StepRun::is_loose)
    }

    /// Is all of it over but its output?
    pub(super) fn is_ripe(&self) -> bool {
        self.scope.is_some()
            && self.open == 0
            && (self.loose == 0 || self.is_body)
            && self.undoing.is_empty()
            && self.closing.is_none()
    }
}

/// All of them. Most executions have one, so that one is at hand.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frames {
    root_id: FrameId,
    root: Frame,
    inner: BTreeMap<FrameId, Frame>,
    next: FrameId,
}

impl Frames {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { root_id: 0, root: Frame::new(plan, 0, None), inner: BTreeMap::new(), next: 1 }
    }

    pub(super) fn root_id(&self) -> FrameId {
        self.root_id
    }

    pub(super) fn root(&self) -> &Frame {
        &self.root
    }

    /// The id that the next frame gets.
    pub(super) fn next(&self) -> FrameId {
        self.next
    }

    pub(super) fn get(&self, id: FrameId) -> Option<&Frame> {
        if id == self.root_id { Some(&self.root) } else { self.inner.get(&id) }
    }

    pub(super) fn get_mut(&mut self, id: FrameId) -> Option<&mut Frame> {
        if id == self.root_id { Some(&mut self.root) } else { self.inner.get_mut(&id) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FrameId, &Frame)> {
        std::iter::once((self.root_id, &self.root)).chain(self.inner.iter().map(|(id, frame)| (*id, frame)))
    }

    /// Steps that have left instances to themselves that have not ended.
    pub(super) fn loose(&self) -> impl Iterator<Item = Unit> {
        self.iter().flat_map(|(id, frame)| {
            let steps = (frame.first..).zip(&frame.steps).filter(|(_, step)| step.is_loose());
            steps.map(move |(step, _)| Unit { frame: id, step, index: None })
        })
    }

    /// Begins a block.
    pub(super) fn enter(&mut self, id: FrameId, plan: &Plan, scope: ScopeIndex, parent: Unit) {
        self.next = id + 1;
        self.inner.insert(id, Frame::new(plan, scope, Some(parent)));
    }

    /// Begins a vote.
    pub(super) fn vote(&mut self, id: FrameId, parent: Unit) {
        self.next = id + 1;
        self.inner.insert(id, Frame::of_vote(parent));
    }

    /// Begins the whole execution anew: nothing of what was is there any more.
    pub(super) fn restart(&mut self, id: FrameId, plan: &Plan) {
        *self = Self { root_id: id, root: Frame::new(plan, 0, None), inner: BTreeMap::new(), next: id + 1 };
    }

    /// This frame and those that began after it.
    pub(super) fn ids_from(&self, id: FrameId) -> impl Iterator<Item = FrameId> {
        self.inner.range(id..).map(|(id, _)| *id)
    }

    pub(super) fn remove(&mut self, id: FrameId) -> Option<Frame> {
        self.inner.remove(&id)
    }

    /// The step around a frame that has this scope, or the frame itself: where a step of the scope is seen from there.
    pub(super) fn around(&self, mut id: FrameId, scope: ScopeIndex) -> Option<&Frame> {
        loop {
            let frame = self.get(id)?;
            if frame.scope == Some(scope) {
                return Some(frame);
            }
            id = frame.parent?.frame;
        }
    }
}
