//! The functions and operators whose price is known only from all their operands together, with the meaning that CEL and
//! its strings extension give them, in linear time.

#![expect(clippy::needless_pass_by_value, reason = "CEL calls a function with operands of its own")]

use std::cell::RefCell;

use cel::{
    Env, ExecutionError,
    common::{
        ast::operators,
        functions::Function,
        types::{CelBool, CelInt, CelList, CelString, DYN_TYPE},
        value::{BuiltinRef, CowVal, Val},
    },
};
use regex::{Regex, RegexBuilder};

use super::{KEPT, SEEN, count, spend, spend_deep, wide};

type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// Name, number of operands with the target, and what stands in its place.
const REPLACED: [(&str, usize, &str, Function); 14] = [
    (operators::EQUALS, 2, "$equals", equals),
    (operators::NOT_EQUALS, 2, "$differs", differs),
    (operators::IN, 2, "$in", is_in),
    ("replace", 3, "$replace", replace),
    ("replace", 4, "$replace", replace),
    ("split", 2, "$split", split),
    ("split", 3, "$split", split),
    ("join", 1, "$join", join),
    ("join", 2, "$join", join),
    ("indexOf", 2, "$indexOf", index_of),
    ("indexOf", 3, "$indexOf", index_of),
    ("lastIndexOf", 2, "$lastIndexOf", last_index_of),
    ("lastIndexOf", 3, "$lastIndexOf", last_index_of),
    ("matches", 2, "$matches", matches),
];

/// The name of the function that stands in the place of `name` called with `operands`, the target included.
pub(crate) fn replacement(name: &str, operands: usize) -> Option<&'static str> {
    REPLACED.iter().find(|(replaced, wanted, ..)| *replaced == name && *wanted == operands).map(|(.., own, _)| *own)
}

pub(super) fn declare(env: &mut Env) {
    for (_, operands, own, function) in REPLACED {
        let any = std::iter::repeat_with(|| DYN_TYPE).take(operands).collect();
        env.add_overload(own, &format!("{own}/{operands}"), any, function).expect("the function is added once");
    }
}

/// Two values of one kind are compared to the end at most; of different kinds, not at all.
fn spend_for_comparison(one: &dyn Val, other: &dyn Val) -> Result<(), ExecutionError> {
    if one.get_type() != other.get_type() || count(one) != count(other) { spend(SEEN) } else { spend_deep(one, SEEN) }
}

fn equals<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let [one, other] = take(operands)?;
    spend_for_comparison(one.as_ref(), other.as_ref())?;
    Ok(truth(one == other))
}

fn differs<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let [one, other] = take(operands)?;
    spend_for_comparison(one.as_ref(), other.as_ref())?;
    Ok(truth(one != other))
}

fn is_in<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let [wanted, container] = take(operands)?;
    if let BuiltinRef::List(list) = container.as_ref().as_builtin() {
        // An element that is not equal is left where they first differ; one as long as what is wanted can be equal to its end.
        spend(SEEN / 4 * wide(list.inner().len()))?;
        let alike = list.inner().iter().filter(|element| count(element.as_ref()) == count(wanted.as_ref())).count();
        spend(wide(alike).saturating_mul(count(wanted.as_ref()) / 8))?;
        if matches!(wanted.as_ref().as_builtin(), BuiltinRef::List(_) | BuiltinRef::Map(_)) {
            spend_deep(container.as_ref(), SEEN)?;
        }
    }
    let found = match container.as_ref().as_container() {
        Some(container) => container.contains(wanted.as_ref())?,
        None => return Err(no_overload("in", &[wanted, container])),
    };
    Ok(truth(found))
}

fn replace<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let (text, from, to) =
        (text("replace", &operands, 0)?, text("replace", &operands, 1)?, text("replace", &operands, 2)?);
    let limit = limit("replace", &operands, 3)?;
    let found = text.matches(from).take(limit).count();
    spend(wide(text.len()) + wide(found).saturating_mul(1 + wide(to.len())))?;
    Ok(made(text.replacen(from, to, limit)))
}

fn split<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let (text, separator) = (text("split", &operands, 0)?, text("split", &operands, 1)?);
    let limit = limit("split", &operands, 2)?;
    let parts = (1 + text.matches(separator).count()).min(limit);
    spend(wide(text.len()) + wide(parts) * KEPT)?;
    let parts: Vec<&str> = match (limit, separator) {
        (0, _) => Vec::new(),
        (_, "") => characters(text, limit),
        _ => text.splitn(limit, separator).collect(),
    };
    let parts = parts.into_iter().map(|part| Box::new(CelString::from(part.to_owned())) as Box<dyn Val>);
    Ok(CowVal::owned(CelList::from(parts.collect::<Vec<_>>())))
}

/// The characters of `text`; the last of `limit` parts is the rest.
fn characters(text: &str, limit: usize) -> Vec<&str> {
    let cuts = text.char_indices().skip(1).map(|(at, _)| at).take(limit - 1);
    let mut parts = Vec::new();
    let mut begin = 0;
    for cut in cuts {
        parts.push(&text[begin..cut]);
        begin = cut;
    }
    if begin < text.len() {
        parts.push(&text[begin..]);
    }
    parts
}

fn join<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let separator = if operands.len() == 2 { text("join", &operands, 1)? } else { "" };
    let Some(list) = operands.first().and_then(|list| list.as_ref().downcast_ref::<CelList>()) else {
        return Err(no_overload("join", &operands));
    };
    spend(wide(list.inner().len()).saturating_mul(SEEN + wide(separator.len())))?;
    let mut parts = Vec::with_capacity(list.inner().len());
    for element in list.inner() {
        let Some(part) = element.downcast_ref::<CelString>() else {
            let message = format!("joins texts, not a value of type {}; write string(…)", element.get_type().name());
            return Err(ExecutionError::function_error("join", message));
        };
        spend(wide(part.inner().len()))?;
        parts.push(part.inner());
    }
    Ok(made(parts.join(separator)))
}

fn index_of<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let (text, wanted, offset) = search("indexOf", &operands)?;
    let Some(begin) = offset else { return Ok(position(text, text.find(wanted))) };
    let found = text[begin..].find(wanted).map(|at| begin + at);
    Ok(position(text, found))
}

fn last_index_of<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let (text, wanted, offset) = search("lastIndexOf", &operands)?;
    // An occurrence begins at the offset or before it, so it ends no later than this.
    let end = offset.map_or(text.len(), |offset| text.floor_char_boundary(offset + wanted.len()));
    Ok(position(text, text[..end].rfind(wanted)))
}

/// The text, what is wanted in it, and the byte at which the search begins.
fn search<'o>(
    name: &str,
    operands: &'o Arguments<'_, '_>,
) -> Result<(&'o str, &'o str, Option<usize>), ExecutionError> {
    let (text, wanted) = (text(name, operands, 0)?, text(name, operands, 1)?);
    spend(wide(text.len() + wanted.len()) * 2)?;
    let Some(offset) = operands.get(2) else { return Ok((text, wanted, None)) };
    let Some(offset) = offset.as_ref().downcast_ref::<CelInt>() else { return Err(no_overload(name, operands)) };
    let beyond = || ExecutionError::function_error(name, format!("index out of range: {}", offset.inner()));
    let number = usize::try_from(*offset.inner()).map_err(|_| beyond())?;
    let begin = text.char_indices().nth(number).map(|(at, _)| at);
    match begin {
        Some(begin) => Ok((text, wanted, Some(begin))),
        None if wanted.is_empty() => Ok((text, wanted, Some(text.len()))),
        None => Err(beyond()),
    }
}

/// Indices count characters, not bytes, as everywhere in CEL.
fn position<'b, 'v>(text: &str, found: Option<usize>) -> CowVal<'b, 'v> {
    let index = found.and_then(|at| i64::try_from(text[..at].chars().count()).ok());
    CowVal::owned(CelInt::from(index.unwrap_or(-1)))
}

/// A pattern, and what a byte of text costs with it.
struct Pattern {
    source: String,
    regex: Regex,
    price: u64,
}

thread_local! {
    /// The patterns of this evaluation: most have one, and match it with every element of a list.
    static PATTERNS: RefCell<Vec<Pattern>> = const { RefCell::new(Vec::new()) };
}

/// How many patterns an evaluation keeps.
const MAX_PATTERNS: usize = 8;
/// The sizes that a compiled pattern may have, in bytes, and what a byte of text costs with it: in the worst case each is
/// held against every part of the pattern.
const SIZES: [(usize, u64); 3] = [(16 << 10, 1), (128 << 10, 8), (1 << 20, 64)];
/// What it costs to compile a pattern of the smallest size.
const COMPILING: u64 = 20_000;

/// Forgets the patterns of the evaluation before, so that the price of this one depends on nothing else.
pub(super) fn forget() {
    PATTERNS.with_borrow_mut(Vec::clear);
}

fn matches<'b, 'v>(operands: Arguments<'b, 'v>) -> Answer<'b, 'v> {
    let (text, source) = (text("matches", &operands, 0)?, text("matches", &operands, 1)?);
    PATTERNS.with_borrow_mut(|patterns| {
        let known = match patterns.iter().position(|pattern| pattern.source == source) {
            Some(known) => known,
            None => {
                let pattern = compile(source)?;
                patterns.truncate(MAX_PATTERNS - 1);
                patterns.insert(0, pattern);
                0
            }
        };
        let pattern = &patterns[known];
        spend(wide(text.len()).saturating_mul(pattern.price).saturating_add(wide(source.len())))?;
        Ok(truth(pattern.regex.is_match(text)))
    })
}

fn compile(source: &str) -> Result<Pattern, ExecutionError> {
    let mut too_large = None;
    for (size, price) in SIZES {
        spend((COMPILING + wide(source.len())) * price)?;
        match RegexBuilder::new(source).size_limit(size).build() {
            Ok(regex) => return Ok(Pattern { source: source.to_owned(), regex, price }),
            Err(error @ regex::Error::CompiledTooBig(_)) => too_large = Some(error),
            Err(error) => return Err(ExecutionError::function_error("matches", error)),
        }
    }
    let why = too_large.map_or_else(String::new, |error| error.to_string());
    Err(ExecutionError::function_error("matches", why))
}

fn take<'b, 'v, const N: usize>(operands: Arguments<'b, 'v>) -> Result<[CowVal<'b, 'v>; N], ExecutionError> {
    let given = operands.len();
    operands.try_into().map_err(|_| ExecutionError::invalid_argument_count(N, given))
}

fn text<'o>(name: &str, operands: &'o Arguments<'_, '_>, at: usize) -> Result<&'o str, ExecutionError> {
    let operand = operands.get(at).and_then(|operand| operand.as_ref().downcast_ref::<CelString>());
    operand.map(CelString::inner).ok_or_else(|| no_overload(name, operands))
}

/// How many at most; a negative number and none at all stand for all.
fn limit(name: &str, operands: &Arguments<'_, '_>, at: usize) -> Result<usize, ExecutionError> {
    let Some(operand) = operands.get(at) else { return Ok(usize::MAX) };
    let number = operand.as_ref().downcast_ref::<CelInt>().ok_or_else(|| no_overload(name, operands))?;
    Ok(usize::try_from(*number.inner()).unwrap_or(usize::MAX))
}

fn no_overload(name: &str, operands: &[CowVal<'_, '_>]) -> ExecutionError {
    let types = operands.iter().map(|operand| operand.as_ref().get_type().name().to_owned()).collect();
    ExecutionError::no_such_overload(name, types)
}

fn truth<'b, 'v>(value: bool) -> CowVal<'b, 'v> {
    CowVal::owned(CelBool::from(value))
}

fn made<'b, 'v>(text: String) -> CowVal<'b, 'v> {
    CowVal::owned(CelString::from(text))
}
