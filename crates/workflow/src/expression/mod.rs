//! CEL inside `${{ }}` and `when`: parsed once, when a definition is checked; evaluated while deciding, never in replay.
//!
//! An expression sees `input`, `steps.<id>.output` (or `steps["<id>"].output`, for ids with dots and dashes), `execution.id`,
//! `item` and `index` where a step has `for_each`, and `iteration` and `last` in a `loop`; inside a block also those of the
//! nearest step around it that has them. There is no clock and no randomness in it. Of a step that has no
//! output (it was skipped, or has not ended) every path reads as `null`; any other missing field is a failure, and
//! `has(input.a.b)` tells beforehand.
//!
//! - [`path`]: a lone path such as `steps.load.output.rows` is looked up in the JSON text itself, without CEL.
//! - [`slots`]: everything else. Paths in it become slots, so that only what an evaluation reads is parsed.
//! - [`template`]: JSON values with expressions in them.

mod path;
mod slots;
mod template;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt};

use domain::Payload;
use expressions::{MAX_LENGTH, Wrong, shorten};

pub(crate) use path::forget;
pub(crate) use template::within_limit;
pub use template::{Condition, Template};

use self::{path::Path, slots::PathProgram};
use crate::{Failure, StepIndex, definition::Faults};

/// The most expressions in one definition: parsing them all must stay a matter of a second.
const MAX_EXPRESSIONS: usize = 50_000;
/// Bytes of a value with its expressions filled in: an input, an item list, an output. It has to fit into a message with
/// room to spare, and into the log as one event.
const MAX_VALUE: usize = 16 << 20;
/// Items of a list that an expression gives to a `for_each`: each becomes an instance with a state of its own.
const MAX_ITEMS: usize = 100_000;

/// What an expression can see.
pub trait Scope {
    /// The execution's input, `input`.
    fn input(&self) -> &Payload;
    /// The output of an upstream step, `steps.<id>.output`; absent before its end and where it was skipped.
    fn step_output(&self, step: StepIndex) -> Option<&Payload>;
    /// The item and number of a `for_each` instance, `item` and `index`.
    fn item(&self) -> Option<(&Payload, u32)>;
    /// The number of a loop's iteration, from 0, `iteration`.
    fn iteration(&self) -> Option<u32> {
        None
    }
    /// The output of the iteration before, or of the instance that has just ended, `last`.
    fn last(&self) -> Option<&Payload> {
        None
    }
    /// How many instances of a `for_each` completed, and how many there are: `completed` and `total`.
    fn results(&self) -> Option<(u32, u32)> {
        None
    }
    /// Id and number of the execution and the like, `execution.id`.
    fn execution_id(&self) -> domain::ExecutionId;
}

/// Where an expression stands: what is upstream of it follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Before any step.
    Start,
    /// In a step.
    Step(StepIndex),
    /// In the output of a step's block.
    Output(StepIndex),
    /// In the output of the execution.
    Execution,
}

/// What expressions at one place of a definition may name.
#[expect(clippy::struct_excessive_bools, reason = "each is one name, there or not")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visible<'a> {
    /// All steps of the definition; whether those named are upstream is checked later, from [`Found::reads`].
    pub(crate) steps: &'a HashMap<String, StepIndex>,
    /// Where it is.
    pub(crate) reader: Reader,
    /// May it read the output of the step in which it stands?
    pub(crate) own: bool,
    /// Are `item` and `index` there?
    pub(crate) item: bool,
    /// Are `iteration` and `last` there?
    pub(crate) iteration: bool,
    /// Are `completed`, `total` and `last` there?
    pub(crate) results: bool,
}

impl<'a> Visible<'a> {
    /// With the input, and the steps upstream.
    pub(crate) fn of(steps: &'a HashMap<String, StepIndex>, reader: Reader) -> Self {
        Self { steps, reader, own: false, item: false, iteration: false, results: false }
    }
}

/// An expression reads the output of a step.
#[derive(Debug)]
pub(crate) struct Read {
    /// Of the expression.
    pub(crate) pointer: String,
    pub(crate) reader: Reader,
    pub(crate) own: bool,
    pub(crate) step: StepIndex,
}

/// What the expressions of a definition turned out to be.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Everything wrong with them.
    pub(crate) faults: Faults,
    /// Which steps they read.
    pub(crate) reads: Vec<Read>,
    /// How many there are, faulty ones included.
    expressions: usize,
}

/// A parsed expression.
#[derive(Debug)]
pub(crate) struct Expression {
    /// As written, for failures.
    source: Box<str>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Path(Path),
    Program(Box<PathProgram>),
}

impl Expression {
    fn parse(source: &str, visible: Visible<'_>, reads: &mut Vec<StepIndex>) -> Result<Self, Vec<Wrong>> {
        let source = source.trim();
        if source.is_empty() {
            return Err(vec![Wrong::new("expression_invalid", "the expression is empty")]);
        }
        if source.len() > MAX_LENGTH {
            let message = format!("an expression has at most {MAX_LENGTH} bytes, not {}", source.len());
            return Err(vec![Wrong::new("expression_too_long", message)]);
        }
        let kind = match path::parse(source) {
            Some((root, fields)) => {
                let path = Path::resolve(&root, fields, visible).map_err(|wrong| vec![wrong])?;
                reads.extend(path.step());
                Kind::Path(path)
            }
            None => Kind::Program(Box::new(PathProgram::parse(source, visible, reads)?)),
        };
        Ok(Self { source: source.into(), kind })
    }

    fn evaluate(&self, scope: &dyn Scope) -> Result<Payload, Failure> {
        match &self.kind {
            Kind::Path(path) => path.read(scope).map_err(|missing| self.failure(&missing)),
            Kind::Program(program) => {
                let value = program.evaluate(scope).map_err(|why| self.failure(&why))?;
                Ok(Payload::from_value(&value))
            }
        }
    }

    fn evaluate_truth(&self, scope: &dyn Scope) -> Result<bool, Failure> {
        let payload = self.evaluate(scope)?;
        match payload.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(self.failure(&format!("gives {}, not true or false", shorten(other)))),
        }
    }

    fn failure(&self, why: &dyn fmt::Display) -> Failure {
        Failure::fatal("expression", format!("`{}`: {}", shorten(&self.source), shorten(why)))
    }
}
