//! What an evaluation may spend: time and memory, both counted in one budget, so that no expression holds a worker for long or
//! takes the process down, whatever data it meets.
//!
//! CEL itself counts nothing. So [`guard`] puts guards around everything whose cost depends on the size of a value: they
//! spend before the work is done. Where one operand says how often another is copied or looked at, no guard around either
//! would do; [`functions`] replaces those functions and operators by ones that know their price.

mod functions;

use std::cell::Cell;

use cel::{
    Env, ExecutionError,
    common::{
        ast::{CallExpr, Expr, IdedExpr, operators},
        types::DYN_TYPE,
        value::{BuiltinRef, CowVal, Val},
    },
};

pub(super) use functions::replacement;

/// What one evaluation may spend. A byte looked at or copied costs one; all of it takes well under two seconds, and no more
/// than about as many bytes of memory.
const BUDGET: u64 = 128 << 20;
/// A round of a loop: the operators in it, of which there are at most [`crate::program::MAX_OPERATORS`].
const ROUND: u64 = 512;
/// A value that is looked at, or copied for a moment.
const SEEN: u64 = 16;
/// A value that becomes part of another.
const KEPT: u64 = 64;
/// What a clause of `format` can at most write beyond its argument: a number with 100 digits behind the point.
const CLAUSE: u64 = 512;

// The guards. No names that people can write.
const LOOP: &str = "$loop";
const KEEP: &str = "$keep";
const SEE: &str = "$see";
const SIZE: &str = "$size";
const FORMAT: &str = "$format";

thread_local! {
    /// What is left of [`BUDGET`]; absent when more was wanted. CEL's functions carry no state, and an evaluation stays on
    /// its thread.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Begins an evaluation.
pub(super) fn refill() {
    LEFT.set(Some(BUDGET));
    functions::forget();
}

/// Whether the evaluation wanted more than there was. `||` and `&&` can swallow the error; the value is wrong all the same.
pub(super) fn is_exhausted() -> bool {
    LEFT.get().is_none()
}

pub(super) const EXHAUSTED: &str = "it takes too much time or memory on this data";

/// Takes `amount` from the budget.
pub(super) fn spend(amount: u64) -> Result<(), ExecutionError> {
    LEFT.set(LEFT.get().and_then(|left| left.checked_sub(amount)));
    if is_exhausted() { Err(ExecutionError::function_error("evaluation", EXHAUSTED)) } else { Ok(()) }
}

pub(super) fn declare(env: &mut Env) {
    let guards: [(&str, cel::common::functions::Function); 5] =
        [(LOOP, guard_loop), (KEEP, guard_kept), (SEE, guard_seen), (SIZE, guard_size), (FORMAT, guard_format)];
    for (name, guard) in guards {
        env.add_overload(name, name, vec![DYN_TYPE], guard).expect("the function is added once");
    }
    functions::declare(env);
}

/// Spends for the range of a loop: its elements are copied one by one.
fn guard_loop<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let range = only(arguments)?;
    spend(ROUND * count(range.as_ref()))?;
    spend_deep(range.as_ref(), SEEN)?;
    Ok(range)
}

fn guard_kept<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = only(arguments)?;
    spend_deep(value.as_ref(), KEPT)?;
    Ok(value)
}

/// Spends for a value that is read but not what is in it: the bytes of a text, the elements of a list.
fn guard_seen<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = only(arguments)?;
    spend(count(value.as_ref()))?;
    Ok(value)
}

/// Spends for a value whose characters are counted; a list knows its length.
fn guard_size<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = only(arguments)?;
    if matches!(value.as_ref().as_builtin(), BuiltinRef::String(_)) {
        spend(count(value.as_ref()))?;
    }
    Ok(value)
}

fn guard_format<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = only(arguments)?;
    if let BuiltinRef::String(text) = value.as_ref().as_builtin() {
        let clauses = text.inner().bytes().filter(|byte| *byte == b'%').count();
        spend(count(value.as_ref()) + CLAUSE * wide(clauses))?;
    }
    Ok(value)
}

fn only<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    arguments.pop().ok_or_else(ExecutionError::missing_argument_or_target)
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Bytes of a text, elements of a list, entries of a map; one of anything else.
fn count(value: &dyn Val) -> u64 {
    match value.as_builtin() {
        BuiltinRef::String(text) => 1 + wide(text.inner().len()),
        BuiltinRef::Bytes(bytes) => 1 + wide(bytes.inner().len()),
        BuiltinRef::List(list) => 1 + wide(list.inner().len()),
        BuiltinRef::Map(map) => 1 + wide(map.inner().len()),
        _ => 1,
    }
}

/// Spends for `value` and everything in it: `each` for every value, and its bytes.
pub(super) fn spend_deep(value: &dyn Val, each: u64) -> Result<(), ExecutionError> {
    match value.as_builtin() {
        BuiltinRef::List(list) => {
            spend(each)?;
            list.inner().iter().try_for_each(|element| spend_deep(element.as_ref(), each))
        }
        BuiltinRef::Map(map) => {
            spend(each)?;
            map.inner().iter().try_for_each(|(key, value)| {
                spend_deep(key.inner(), each)?;
                spend_deep(value.as_ref(), each)
            })
        }
        BuiltinRef::Optional(optional) => {
            spend(each)?;
            optional.inner().map_or(Ok(()), |inner| spend_deep(inner, each))
        }
        _ => spend(each + count(value)),
    }
}

/// Spends for a value that an evaluation gets from outside.
pub(super) fn spend_for_data(value: &dyn Val) -> Result<(), ExecutionError> {
    spend_deep(value, KEPT)
}

/// Puts guards around what stands in `node`, not in its children: they have had theirs.
pub(super) fn guard(node: &mut Expr) {
    match node {
        Expr::List(list) => list.elements.iter_mut().for_each(|element| wrap(KEEP, element)),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let cel::common::ast::EntryExpr::MapEntry(entry) = &mut entry.expr {
                    wrap(KEEP, &mut entry.key);
                    wrap(KEEP, &mut entry.value);
                }
            }
        }
        Expr::Comprehension(comprehension) => wrap(LOOP, &mut comprehension.iter_range),
        Expr::Call(call) => guard_call(call),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Select(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

fn guard_call(call: &mut CallExpr) {
    match call.func_name.as_str() {
        // `map` and `filter` gather what they give in a list of their own, `@result`, which CEL extends in place.
        operators::ADD if matches!(&call.args[0].expr, Expr::Ident(name) if name.starts_with('@')) => {}
        operators::ADD => call.args.iter_mut().for_each(|argument| wrap(KEEP, argument)),
        operators::CONDITIONAL
        | operators::LOGICAL_AND
        | operators::LOGICAL_OR
        | operators::LOGICAL_NOT
        | operators::NOT_STRICTLY_FALSE
        | operators::INDEX => {}
        // An optional holds a copy.
        operators::OPT_INDEX | operators::OPT_SELECT => wrap(KEEP, &mut call.args[0]),
        "format" => {
            call.target.iter_mut().for_each(|text| wrap(FORMAT, text));
            call.args.iter_mut().for_each(|arguments| wrap(KEEP, arguments));
        }
        // They look at nothing.
        "dyn" | "type" => {}
        "size" => wrap_operands(SIZE, call),
        "of" | "ofNonZeroValue" | "or" | "orValue" | "value" | "hasValue" => {
            wrap_operands(KEEP, call);
        }
        name if name.starts_with('$') => {}
        _ => wrap_operands(SEE, call),
    }
}

fn wrap_operands(guard: &str, call: &mut CallExpr) {
    let target = call.target.as_deref_mut().filter(|target| !is_namespace(target));
    target.into_iter().chain(&mut call.args).for_each(|operand| wrap(guard, operand));
}

/// Whether a call's target only qualifies the function's name, as in `math.greatest`.
pub(super) fn is_namespace(target: &IdedExpr) -> bool {
    matches!(&target.expr, Expr::Ident(name) if matches!(name.as_str(), "math" | "optional" | "strings"))
}

fn wrap(guard: &str, node: &mut IdedExpr) {
    if matches!(node.expr, Expr::Literal(_)) && guard != KEEP && guard != FORMAT {
        return;
    }
    let inner = std::mem::take(node);
    let call = CallExpr { func_name: guard.to_owned(), target: None, args: vec![inner] };
    *node = IdedExpr { id: 0, expr: Expr::Call(call) };
}
