//! Paths: `input.a.b`, `steps.load.output.rows[0]`, `item`. They are looked up in the JSON text; nothing beside the path is
//! parsed, and a whole value is shared, byte for byte.

mod outline;

use std::{fmt, ops::Range};

use domain::Payload;
use expressions::Wrong;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub(crate) use self::outline::forget;
use super::{Scope, Visible};
use crate::{StepIndex, definition::did_you_mean};

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Input,
    Step(StepIndex),
    Item,
    Index,
    Iteration,
    Last,
    Completed,
    Total,
    ExecutionId,
}

/// One step down into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Field(String),
    Element(usize),
    /// `[index]`: the element with the number of the `for_each` instance.
    Index,
}

impl fmt::Display for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(formatter, "field `{name}`"),
            Self::Element(index) => write!(formatter, "element {index}"),
            Self::Index => formatter.write_str("element `index`"),
        }
    }
}

/// A path into what an expression can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    root: Root,
    segments: Vec<Segment>,
}

/// The names with which paths begin.
pub(super) const ROOTS: [&str; 9] =
    ["input", "steps", "item", "index", "iteration", "last", "completed", "total", "execution"];

impl Path {
    /// The path from the variable `root` through `segments`.
    pub(super) fn resolve(root: &str, mut segments: Vec<Segment>, visible: Visible<'_>) -> Result<Self, Wrong> {
        if !visible.item && (root == "item" || root == "index" || segments.contains(&Segment::Index)) {
            let name = if root == "item" { root } else { "index" };
            let message = format!("`{name}` is there only in the task of a step with `for_each`");
            return Err(Wrong::new("unknown_variable", message));
        }
        let is_there = match root {
            "iteration" => visible.iteration,
            "last" => visible.iteration || visible.results,
            "completed" | "total" => visible.results,
            _ => true,
        };
        if !is_there {
            let place = if root == "completed" || root == "total" { "`complete_when`" } else { "a `loop`" };
            return Err(Wrong::new("unknown_variable", format!("`{root}` is there only in {place}")));
        }
        let root = match root {
            "input" => Root::Input,
            "item" => Root::Item,
            "index" => Root::Index,
            "iteration" => Root::Iteration,
            "last" => Root::Last,
            "completed" => Root::Completed,
            "total" => Root::Total,
            "steps" => step_root(&mut segments, visible)?,
            "execution" => {
                if segments.first() != Some(&Segment::Field("id".to_owned())) {
                    return Err(Wrong::new("unknown_variable", "of the execution only `execution.id` can be read"));
                }
                segments.remove(0);
                Root::ExecutionId
            }
            other => return Err(unknown_variable(other)),
        };
        Ok(Self { root, segments })
    }

    /// The step that it reads.
    pub(super) fn step(&self) -> Option<StepIndex> {
        match self.root {
            Root::Step(step) => Some(step),
            Root::Input
            | Root::Item
            | Root::Index
            | Root::Iteration
            | Root::Last
            | Root::Completed
            | Root::Total
            | Root::ExecutionId => None,
        }
    }

    /// The value at its end.
    pub(super) fn read(&self, scope: &dyn Scope) -> Result<Payload, String> {
        let Some(whole) = self.whole(scope)? else { return Ok(Payload::null()) };
        if self.segments.is_empty() {
            return Ok(whole);
        }
        let found = self.descend(&whole, scope.item().map(|(_, index)| index))?;
        Payload::from_slice(found.as_bytes()).map_err(|error| error.to_string())
    }

    /// The value at its beginning, shared; absent where the step has no output.
    pub(super) fn whole(&self, scope: &dyn Scope) -> Result<Option<Payload>, String> {
        let item = || {
            scope
                .item()
                .ok_or_else(|| "`item` and `index` are there only in the task of a step with `for_each`".to_owned())
        };
        Ok(Some(match self.root {
            Root::Input => scope.input().clone(),
            Root::Step(step) => return Ok(scope.step_output(step).cloned()),
            Root::Item => item()?.0.clone(),
            Root::Index => Payload::from_value(&item()?.1.into()),
            Root::Iteration => Payload::from_value(&scope.iteration().unwrap_or_default().into()),
            Root::Last => return Ok(scope.last().cloned()),
            Root::Completed => Payload::from_value(&scope.results().unwrap_or_default().0.into()),
            Root::Total => Payload::from_value(&scope.results().unwrap_or_default().1.into()),
            Root::ExecutionId => Payload::from_value(&scope.execution_id().to_string().into()),
        }))
    }

    /// The part of the text of `whole` to which its segments lead; `index` stands for [`Segment::Index`].
    pub(super) fn descend<'a>(&self, whole: &'a Payload, index: Option<u32>) -> Result<&'a str, String> {
        let mut place = 0..whole.len();
        let element = index.and_then(|index| usize::try_from(index).ok()).map(Segment::Element);
        for (depth, segment) in self.segments.iter().enumerate() {
            let segment = match (segment, &element) {
                (Segment::Index, Some(element)) => element,
                _ => segment,
            };
            place = match find(whole, place, segment) {
                Ok(Some(found)) => found,
                Ok(None) => return Err(format!("there is no {segment} in {}", self.describe(depth))),
                Err(_) => {
                    let (article, kind) = match segment {
                        Segment::Field(_) => ("an", "object"),
                        Segment::Element(_) | Segment::Index => ("a", "list"),
                    };
                    return Err(format!("{} is not {article} {kind}, so it has no {segment}", self.describe(depth)));
                }
            };
        }
        Ok(&whole.as_str()[place])
    }

    /// The first `depth` segments, for people.
    fn describe(&self, depth: usize) -> String {
        use fmt::Write as _;
        let mut text = match self.root {
            Root::Input => "`input".to_owned(),
            Root::Step(_) => "the step's `output".to_owned(),
            Root::Item => "`item".to_owned(),
            Root::Index => "`index".to_owned(),
            Root::Iteration => "`iteration".to_owned(),
            Root::Last => "`last".to_owned(),
            Root::Completed => "`completed".to_owned(),
            Root::Total => "`total".to_owned(),
            Root::ExecutionId => "`execution.id".to_owned(),
        };
        for segment in &self.segments[..depth] {
            // Writing to a String cannot fail.
            let _ = match segment {
                Segment::Field(name) => write!(text, ".{name}"),
                Segment::Element(index) => write!(text, "[{index}]"),
                Segment::Index => write!(text, "[index]"),
            };
        }
        text.push('`');
        text
    }
}

/// The place of `segment` in the value at `place`.
fn find(whole: &Payload, place: Range<usize>, segment: &Segment) -> Result<Option<Range<usize>>, serde_json::Error> {
    if place.len() >= outline::LARGE {
        return outline::find(whole, place, segment);
    }
    let text = &whole.as_str()[place.clone()];
    let found = Pick(segment).deserialize(&mut serde_json::Deserializer::from_str(text))?;
    Ok(found.map(|raw| {
        let begin = place.start + (raw.get().as_ptr().addr() - text.as_ptr().addr());
        begin..begin + raw.get().len()
    }))
}

/// Takes `<id>.output` off the front.
fn step_root(segments: &mut Vec<Segment>, visible: Visible<'_>) -> Result<Root, Wrong> {
    let Some(Segment::Field(id)) = segments.first() else {
        let message = "name the step, as in `steps.load.output` or `steps[\"load-1\"].output`: what a step reads must be known beforehand";
        return Err(Wrong::new("dynamic_step_reference", message));
    };
    let Some(step) = visible.steps.get(id) else {
        let hint = did_you_mean(id, visible.steps.keys().map(String::as_str));
        return Err(Wrong::new("unknown_step", format!("there is no step `{id}`{hint}")));
    };
    if segments.get(1) != Some(&Segment::Field("output".to_owned())) {
        let message = format!("of a step only its output can be read: `steps[\"{id}\"].output`");
        return Err(Wrong::new("unknown_variable", message));
    }
    segments.drain(..2);
    Ok(Root::Step(*step))
}

pub(super) fn unknown_variable(name: &str) -> Wrong {
    let hint = did_you_mean(name, ROOTS);
    let message = format!(
        "there is no variable `{name}`{hint}; an expression sees input, steps, execution, and item and index under for_each"
    );
    Wrong::new("unknown_variable", message)
}

/// Reads `source` as a path, where it is nothing else: a name, then `.name`, `["text"]`, `['text']`, `[number]` and `[index]`.
pub(super) fn parse(source: &str) -> Option<(String, Vec<Segment>)> {
    let (root, mut rest) = split_name(source)?;
    let mut segments = Vec::new();
    while !rest.is_empty() {
        let segment;
        (segment, rest) = if let Some(after) = rest.strip_prefix('.') {
            let (name, after) = split_name(after)?;
            (Segment::Field(name.to_owned()), after)
        } else {
            let (inside, after) = split_index(rest.strip_prefix('[')?)?;
            (inside, after)
        };
        segments.push(segment);
    }
    Some((root.to_owned(), segments))
}

fn split_name(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (starts_well && !matches!(name, "true" | "false" | "null" | "in")).then_some((name, rest))
}

fn split_index(text: &str) -> Option<(Segment, &str)> {
    if let Some(quote @ ('"' | '\'')) = text.chars().next() {
        let (inside, rest) = text[1..].split_once(quote)?;
        // Escapes are CEL's business.
        let plain = !inside.contains('\\') && !inside.is_empty();
        return plain.then_some((Segment::Field(inside.to_owned()), rest.strip_prefix(']')?));
    }
    let (digits, rest) = text.split_once(']')?;
    if digits == "index" {
        return Some((Segment::Index, rest));
    }
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((Segment::Element(plain.then(|| digits.parse().ok())??), rest))
}

/// Finds the value of a segment in a JSON text; of equal keys the last, as everywhere.
struct Pick<'k>(&'k Segment);

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            Segment::Field(_) => deserializer.deserialize_map(self),
            Segment::Element(_) | Segment::Index => deserializer.deserialize_seq(self),
        }
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a value with {}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Segment::Field(wanted) = self.0 else { return Ok(None) };
        let mut found = None;
        while let Some(equal) = map.next_key_seed(Equals(wanted))? {
            if equal {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Segment::Element(wanted) = *self.0 else { return Ok(None) };
        let mut found = None;
        let mut index = 0;
        // To the end: a list that is left half read is an error to the deserializer.
        loop {
            if index == wanted {
                found = list.next_element()?;
                if found.is_none() {
                    return Ok(None);
                }
            } else if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            index += 1;
        }
    }
}

/// Compares a key without keeping it.
struct Equals<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for Equals<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Equals<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}
