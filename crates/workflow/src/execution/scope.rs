//! What expressions of an execution see.

use domain::{ExecutionId, Payload};

use super::state::{Phase, State};
use crate::{FrameId, Plan, StepIndex, Unit, expression::Scope};

/// The execution as one step, or instance, sees it.
pub(super) struct View<'a> {
    state: &'a State,
    plan: &'a Plan,
    frame: FrameId,
    /// Whose own output it may see: that of an instance instead of its step's.
    own: Option<Unit>,
    /// The innermost unit that may have an item.
    item_of: Option<Unit>,
    /// The innermost unit that may be in a loop.
    iteration_of: Option<Unit>,
    /// Of the test of a loop.
    iteration: Option<u32>,
    last: Option<&'a Payload>,
    results: Option<(u32, u32)>,
}

impl<'a> View<'a> {
    /// For the output of a scope, and for whatever a step says that is not part of its work.
    pub(super) fn of_frame(state: &'a State, plan: &'a Plan, frame: FrameId) -> Self {
        let around = state.frames.get(frame).and_then(|frame| frame.parent);
        Self {
            state,
            plan,
            frame,
            own: None,
            item_of: around,
            iteration_of: around,
            iteration: None,
            last: None,
            results: None,
        }
    }

    /// For what an instance says once, whatever its iteration: its mutex, its undo.
    pub(super) fn of_instance(state: &'a State, plan: &'a Plan, unit: Unit) -> Self {
        Self { own: Some(unit), item_of: Some(unit), ..Self::of_frame(state, plan, unit.frame) }
    }

    /// For its work.
    pub(super) fn of_work(state: &'a State, plan: &'a Plan, unit: Unit) -> Self {
        Self { iteration_of: Some(unit), ..Self::of_instance(state, plan, unit) }
    }

    /// For the test of a loop before or after an iteration.
    pub(super) fn of_test(
        state: &'a State,
        plan: &'a Plan,
        unit: Unit,
        last: Option<&'a Payload>,
        iteration: u32,
    ) -> Self {
        Self { last, iteration: Some(iteration), ..Self::of_work(state, plan, unit) }
    }

    /// For `complete_when`, after an instance has given `last`.
    pub(super) fn of_results(
        state: &'a State,
        plan: &'a Plan,
        unit: Unit,
        last: Option<&'a Payload>,
        results: (u32, u32),
    ) -> Self {
        Self { last, results: Some(results), ..Self::of_frame(state, plan, unit.frame) }
    }

    /// The first of `unit` and those around it that has something.
    fn find<T>(&self, unit: Option<Unit>, of: impl Fn(Unit) -> Option<T>) -> Option<T> {
        let mut next = unit;
        while let Some(unit) = next {
            if let Some(found) = of(unit) {
                return Some(found);
            }
            next = self.state.frames.get(unit.frame)?.parent;
        }
        None
    }

    fn looping(&self) -> Option<Unit> {
        let repeats = |unit: Unit| self.plan.steps[unit.step as usize].repeat.is_some().then_some(unit);
        self.find(self.iteration_of, repeats)
    }
}

impl Scope for View<'_> {
    fn input(&self) -> &Payload {
        // Nothing is evaluated before the first event.
        self.state.head.as_ref().map(|head| &head.input).expect("an execution that decides has been accepted")
    }

    fn step_output(&self, step: StepIndex) -> Option<&Payload> {
        let own = self.own.filter(|unit| unit.step == step && unit.index.is_some());
        if let Some(own) = own {
            return self.state.run(own)?.output.as_ref();
        }
        let scope = self.plan.steps.get(step as usize)?.scope;
        let run = &self.state.frames.around(self.frame, scope)?.step(step)?.run;
        match run.phase {
            Phase::Completed | Phase::Failed | Phase::Compensated => run.output.as_ref(),
            _ => None,
        }
    }

    fn item(&self) -> Option<(&Payload, u32)> {
        self.find(self.item_of, |unit| {
            let index = unit.index?;
            let item = self.state.step(unit)?.many.as_ref()?.items.get(index as usize)?;
            Some((item, index))
        })
    }

    fn iteration(&self) -> Option<u32> {
        self.iteration.or_else(|| self.state.run(self.looping()?).map(|run| run.iteration))
    }

    fn last(&self) -> Option<&Payload> {
        if self.iteration.is_some() || self.results.is_some() {
            return self.last;
        }
        self.state.run(self.looping()?)?.last.as_ref()
    }

    fn results(&self) -> Option<(u32, u32)> {
        self.results
    }

    fn execution_id(&self) -> ExecutionId {
        self.state.head.as_ref().map(|head| head.id).expect("an execution that decides has been accepted")
    }
}
