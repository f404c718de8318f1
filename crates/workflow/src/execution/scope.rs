//! What expressions of an execution see.

use domain::{ExecutionId, Payload};

use super::state::{Phase, State, Unit};
use crate::{StepIndex, expression::Scope};

/// The execution as one step, or instance, sees it.
pub(super) struct View<'a> {
    state: &'a State,
    /// Whose own output it may see: that of an instance instead of its step's.
    unit: Option<Unit>,
    item: Option<(&'a Payload, u32)>,
}

impl<'a> View<'a> {
    /// For the execution's output.
    pub(super) fn of_execution(state: &'a State) -> Self {
        Self { state, unit: None, item: None }
    }

    pub(super) fn of_step(state: &'a State, step: StepIndex) -> Self {
        Self::of_unit(state, Unit { step, index: None })
    }

    pub(super) fn of_unit(state: &'a State, unit: Unit) -> Self {
        let item = unit.index.and_then(|index| {
            let items = &state.steps.get(unit.step as usize)?.items;
            Some((items.get(index as usize)?, index))
        });
        Self { state, unit: Some(unit), item }
    }
}

impl Scope for View<'_> {
    fn input(&self) -> &Payload {
        // Nothing is evaluated before the first event.
        self.state.head.as_ref().map(|head| &head.input).expect("an execution that decides has been accepted")
    }

    fn step_output(&self, step: StepIndex) -> Option<&Payload> {
        let own = self.unit.filter(|unit| unit.step == step && unit.index.is_some());
        if let Some(own) = own {
            return self.state.run(own)?.output.as_ref();
        }
        let run = &self.state.steps.get(step as usize)?.run;
        match run.phase {
            Phase::Completed | Phase::Failed | Phase::Compensated => run.output.as_ref(),
            _ => None,
        }
    }

    fn item(&self) -> Option<(&Payload, u32)> {
        self.item
    }

    fn execution_id(&self) -> ExecutionId {
        self.state.head.as_ref().map(|head| head.id).expect("an execution that decides has been accepted")
    }
}
