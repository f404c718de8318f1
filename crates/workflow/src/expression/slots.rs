//! Expressions that are more than a path: every path in one (`steps.load.output.rows`) becomes a slot, filled from the JSON text
//! when the evaluation first reads it. So an evaluation parses only what it uses, and `has` on a path parses nothing.

use domain::Payload;
use expressions::{
    Cel, Names, Program, Values, Wrong,
    ast::{Expr, LiteralValue, operators},
    to_cel,
};
use serde_json::Value;

use super::{
    Scope, Visible,
    path::{Path, ROOTS, Segment, unknown_variable},
};
use crate::StepIndex;

/// A program over the paths that it reads.
#[derive(Debug)]
pub(super) struct PathProgram {
    program: Program,
    slots: Vec<Slot>,
}

#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Value(Path),
    /// `has(path)`.
    Exists(Path),
}

impl Slot {
    fn path(&self) -> &Path {
        let (Self::Value(path) | Self::Exists(path)) = self;
        path
    }
}

impl PathProgram {
    pub(super) fn parse(source: &str, visible: Visible<'_>, reads: &mut Vec<StepIndex>) -> Result<Self, Vec<Wrong>> {
        let mut paths = Paths { visible, slots: Vec::new() };
        let program = Program::parse(source, &mut paths);
        reads.extend(paths.slots.iter().filter_map(|slot| slot.path().step()));
        Ok(Self { program: program?, slots: paths.slots })
    }

    pub(super) fn evaluate(&self, scope: &dyn Scope) -> Result<Value, String> {
        let index = scope.item().map(|(_, index)| index);
        let whole = |slot: &Slot| slot.path().whole(scope);
        let wholes = self.slots.iter().map(whole).collect::<Result<_, _>>()?;
        self.program.evaluate(&Filled { slots: &self.slots, wholes, index })
    }
}

/// What the slots are read from in one evaluation.
struct Filled<'a> {
    slots: &'a [Slot],
    /// Of each slot; absent where the step has no output.
    wholes: Vec<Option<Payload>>,
    /// The number of the `for_each` instance.
    index: Option<u32>,
}

impl Values for Filled<'_> {
    fn value(&self, slot: usize) -> Result<Cel, String> {
        Ok(match (&self.slots[slot], &self.wholes[slot]) {
            (Slot::Exists(path), whole) => {
                Cel::Bool(whole.as_ref().is_some_and(|whole| path.descend(whole, self.index).is_ok()))
            }
            (Slot::Value(_), None) => Cel::Null,
            (Slot::Value(path), Some(whole)) => {
                let text = path.descend(whole, self.index)?;
                to_cel(serde_json::from_str(text).map_err(|error| error.to_string())?)
            }
        })
    }
}

/// Gives a slot to every path, the same to the same.
struct Paths<'a> {
    visible: Visible<'a>,
    slots: Vec<Slot>,
}

impl Names for Paths<'_> {
    fn slot(&mut self, expr: &Expr, bound: &[String]) -> Result<Option<usize>, Wrong> {
        let Some((exists, root, segments)) = path(expr, bound) else {
            return if let Expr::Ident(name) = expr { Err(unknown_variable(name)) } else { Ok(None) };
        };
        let path = Path::resolve(&root, segments, self.visible)?;
        let slot = if exists { Slot::Exists(path) } else { Slot::Value(path) };
        Ok(Some(self.slots.iter().position(|known| *known == slot).unwrap_or_else(|| {
            self.slots.push(slot);
            self.slots.len() - 1
        })))
    }
}

/// The whole of `expr` as a path from one of our variables, with whether it stands in `has`.
fn path(expr: &Expr, bound: &[String]) -> Option<(bool, String, Vec<Segment>)> {
    let exists = matches!(expr, Expr::Select(select) if select.test);
    let mut segments = Vec::new();
    let mut node = expr;
    loop {
        match node {
            Expr::Ident(name) if ROOTS.contains(&name.as_str()) && !bound.contains(name) => {
                segments.reverse();
                return Some((exists, name.clone(), segments));
            }
            Expr::Select(select) if !select.test || std::ptr::eq(node, expr) => {
                segments.push(Segment::Field(select.field.clone()));
                node = &select.operand.expr;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [operand, index] = call.args.as_slice() else { return None };
                segments.push(segment(&index.expr, bound)?);
                node = &operand.expr;
            }
            Expr::Unspecified
            | Expr::Call(_)
            | Expr::Comprehension(_)
            | Expr::Ident(_)
            | Expr::List(_)
            | Expr::Literal(_)
            | Expr::Map(_)
            | Expr::Select(_)
            | Expr::Struct(_) => return None,
        }
    }
}

fn segment(index: &Expr, bound: &[String]) -> Option<Segment> {
    match index {
        Expr::Literal(LiteralValue::String(text)) => Some(Segment::Field(text.inner().to_owned())),
        Expr::Literal(LiteralValue::Int(number)) => usize::try_from(*number.inner()).ok().map(Segment::Element),
        Expr::Ident(name) if name == "index" && !bound.contains(name) => Some(Segment::Index),
        _ => None,
    }
}
