//! CEL inside `${{ }}` and `when`: parsed once, when a definition is checked; evaluated while deciding, never in replay.

use domain::Payload;

use crate::{Failure, StepIndex};

/// What an expression can see.
pub trait Scope {
    /// The execution's input, `input`.
    fn input(&self) -> &Payload;
    /// The output of an upstream step, `steps.<id>.output`; absent before its end.
    fn step_output(&self, step: StepIndex) -> Option<&Payload>;
    /// The item and number of a `for_each` instance, `item` and `index`.
    fn item(&self) -> Option<(&Payload, u32)>;
    /// Id and number of the execution and the like, `execution.id`.
    fn execution_id(&self) -> domain::ExecutionId;
}

/// A JSON value with expressions in it. A text that is one lone expression keeps the expression's type.
#[derive(Debug)]
pub struct Template {}

impl Template {
    /// The value with every expression evaluated; a failure has the code `expression`.
    pub fn evaluate(&self, scope: &dyn Scope) -> Result<Payload, Failure> {
        let _ = scope;
        todo!()
    }

    /// Evaluated to a list: the items of a `for_each`, the options of a decision.
    pub fn evaluate_list(&self, scope: &dyn Scope) -> Result<Vec<Payload>, Failure> {
        let _ = scope;
        todo!()
    }
}

/// An expression that gives a truth value.
#[derive(Debug)]
pub struct Condition {}

impl Condition {
    /// Its truth; anything but a truth value is a failure with the code `expression`.
    pub fn evaluate(&self, scope: &dyn Scope) -> Result<bool, Failure> {
        let _ = scope;
        todo!()
    }
}
