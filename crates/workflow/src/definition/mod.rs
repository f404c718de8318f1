//! What people write: a definition, checked whole.
//!
//! [`Definition::parse`] goes on after every fault, so that one answer lists them all, in the order of the document; what
//! depends on a faulty part is left out rather than reported twice. It is safe on any bytes: size, number of steps, nesting
//! and expressions are bounded, and the work grows with the size of the document.
//!
//! - [`document`]: JSON text to a tree, keys that come twice, the order of faults.
//! - [`outline`]: which steps there are, in blocks too. [`fields`]: typed reading of objects.
//! - [`steps`], [`work`], [`decisions`]: what a step may say.
//! - [`graph`]: dependencies, cycles, what is upstream of what.

mod decisions;
mod document;
mod fields;
mod graph;
mod outline;
mod steps;
#[cfg(test)]
mod tests;
mod work;

use serde_json::Value;

use self::{
    fields::Fields,
    outline::{Outline, ScopeEntry},
    steps::Defaults,
};
use crate::{
    InputSchema, Plan, StepIndex,
    expression::{Found, Reader, Template, Visible},
    plan::{Concurrency, Scope},
};

/// More faults than anybody reads; the rest is dropped, and one more fault says so.
const MAX_FAULTS: usize = 1_000;
/// Bytes of a pointer, and of a message: names in a definition may be as long as all of it, and each fault repeats them.
const MAX_POINTER: usize = 1_000;
const MAX_MESSAGE: usize = 1_000;

/// One fault of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer (RFC 6901) to the culprit; where something is missing, to what it is missing from.
    pub pointer: String,
    /// Stable and machine-readable, such as `unknown_step`.
    pub code: &'static str,
    /// For people: what is wrong and what would be right.
    pub message: String,
}

/// Faults as they are found.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    list: Vec<Fault>,
    dropped: bool,
}

impl Faults {
    pub(crate) fn push(&mut self, pointer: &str, code: &'static str, message: impl Into<String>) {
        if self.list.len() < MAX_FAULTS {
            let message = message.into();
            let message = match message.len() {
                ..=MAX_MESSAGE => message,
                _ => format!("{}…", &message[..message.floor_char_boundary(MAX_MESSAGE)]),
            };
            self.list.push(Fault { pointer: place(pointer).to_owned(), code, message });
        } else {
            self.dropped = true;
        }
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn into_list(self) -> Vec<Fault> {
        self.list
    }
}

/// How large definitions may be; refusals say which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the JSON text.
    pub max_bytes: usize,
    /// Number of steps.
    pub max_steps: usize,
    /// Entries in the log of one run of an execution: with more it fails with `history_too_long`, since it would take too long to
    /// read back. It can be continued before that.
    pub max_history: u64,
}

impl Default for Limits {
    /// 4 MiB, 10,000 steps and 1,000,000 entries.
    fn default() -> Self {
        Self { max_bytes: 4 << 20, max_steps: 10_000, max_history: 1_000_000 }
    }
}

/// A definition that has been checked: the text as given, and the plan made of it.
#[derive(Debug)]
pub struct Definition {
    /// The workflow's name.
    pub name: String,
    /// For people.
    pub description: String,
    /// The compiled steps.
    pub plan: Plan,
}

impl Definition {
    /// Checks a definition whole, and compiles it; on failure every fault, in the order of the document.
    pub fn parse(json: &[u8], limits: Limits) -> Result<Self, Vec<Fault>> {
        if json.len() > limits.max_bytes {
            let message = format!(
                "a definition has at most {} bytes (setting max_definition), not {}",
                limits.max_bytes,
                json.len()
            );
            return Err(vec![Fault { pointer: String::new(), code: "definition_too_large", message }]);
        }
        let mut found = Found::default();
        let document = document::parse(json, &mut found.faults).map_err(|fault| vec![fault])?;
        let definition = Self::compile(&document, limits, &mut found);
        match definition {
            Some(definition) if found.faults.is_empty() => Ok(definition),
            Some(_) | None => Err(document::sorted(found.faults, &document)),
        }
    }

    /// `None` only with faults.
    fn compile(document: &Value, limits: Limits, found: &mut Found) -> Option<Self> {
        const KNOWN: [&str; 7] = ["name", "description", "input_schema", "steps", "dependencies", "output", "config"];
        let top = Fields::of(document, "", &mut found.faults)?;
        top.only(&KNOWN, &mut found.faults);
        let name = top.required_title("name", &mut found.faults);
        let description = top.text("description", &mut found.faults).unwrap_or_default().to_owned();
        let input_schema = top.value("input_schema").cloned();
        if let Some(schema) = &input_schema {
            check_schema(schema, &mut found.faults);
        }
        let outline = Outline::of(document, limits, &mut found.faults)?;
        let config = Config::read(&top, &outline, found);
        let defaults = Defaults { max_parallel: config.max_parallel, priority: config.priority };
        let mut steps: Vec<_> =
            (0..outline.entries.len() as StepIndex).map(|step| steps::read(&outline, step, defaults, found)).collect();
        let edges = graph::connect(&mut steps, &outline, found);
        let outputs = outline.scopes.iter().map(|scope| output(scope, &outline, found)).collect::<Vec<_>>();
        graph::check_reads(&outline, &edges, found);
        let steps = steps.into_iter().collect::<Option<Vec<_>>>()?;
        let name = name?;
        if !found.faults.is_empty() {
            return None;
        }
        let scopes = outline.scopes.into_iter().zip(outputs);
        let scopes = scopes.map(|(scope, output)| Scope { steps: scope.steps, output }).collect();
        let Config { timeout, max_parallel, priority, concurrency } = config;
        let by_id = outline.by_id;
        let plan = Plan {
            name: name.clone(),
            steps,
            scopes,
            input_schema,
            timeout,
            max_parallel,
            priority,
            concurrency,
            max_history: limits.max_history,
            by_id,
        };
        Some(Self { name, description, plan })
    }
}

/// The output of a scope may read any step of it: all have ended.
fn output(scope: &ScopeEntry<'_>, outline: &Outline<'_>, found: &mut Found) -> Option<Template> {
    let value = scope.value.get("output").filter(|output| !output.is_null())?;
    let reader = scope.parent.map_or(Reader::Execution, Reader::Output);
    let visible = Visible { item: scope.item, iteration: scope.iteration, ..Visible::of(&outline.by_id, reader) };
    Some(Template::compile(value, &format!("{}/output", scope.pointer), visible, found))
}

/// What holds for the whole execution.
struct Config {
    timeout: Option<std::time::Duration>,
    max_parallel: u32,
    priority: u8,
    concurrency: Option<Concurrency>,
}

impl Config {
    const DEFAULT_MAX_PARALLEL: u32 = 64;
    const DEFAULT_PRIORITY: u8 = 5;
    const KNOWN: [&str; 5] = ["timeout", "max_parallel", "priority", "concurrency_key", "concurrency_limit"];

    fn read(top: &Fields<'_>, outline: &Outline<'_>, found: &mut Found) -> Self {
        let default = Self {
            timeout: None,
            max_parallel: Self::DEFAULT_MAX_PARALLEL,
            priority: Self::DEFAULT_PRIORITY,
            concurrency: None,
        };
        let Some(config) = top.object("config", &mut found.faults) else { return default };
        config.only(&Self::KNOWN, &mut found.faults);
        Self {
            timeout: config.duration("timeout", &mut found.faults),
            max_parallel: config
                .integer("max_parallel", 1..=steps::MAX_PARALLEL, &mut found.faults)
                .unwrap_or(default.max_parallel),
            priority: config
                .integer("priority", 0..=9, &mut found.faults)
                .map_or(default.priority, |priority| priority as u8),
            concurrency: concurrency(&config, outline, found),
        }
    }
}

/// `concurrency_key`, with a limit of 1 where none is given. It is evaluated before any step begins.
fn concurrency(config: &Fields<'_>, outline: &Outline<'_>, found: &mut Found) -> Option<Concurrency> {
    let limit = config.integer("concurrency_limit", 1..=steps::MAX_PARALLEL, &mut found.faults);
    let Some(key) = config.text("concurrency_key", &mut found.faults) else {
        if config.has("concurrency_limit") {
            let message = "limits the executions with the same `concurrency_key`; there is none here";
            found.faults.push(&config.at("concurrency_limit"), "not_applicable", message);
        }
        return None;
    };
    let visible = Visible::of(&outline.by_id, Reader::Start);
    let key = Template::compile(&Value::String(key.to_owned()), &config.at("concurrency_key"), visible, found);
    Some(Concurrency { key, limit: limit.unwrap_or(1) })
}

fn check_schema(schema: &Value, faults: &mut Faults) {
    const POINTER: &str = "/input_schema";
    let is_schema = matches!(schema, Value::Object(_) | Value::Bool(_));
    if let Err(message) = InputSchema::compile(schema) {
        // The message may quote all of the schema.
        let message: String = message.chars().take(300).collect();
        faults.push(POINTER, if is_schema { "invalid_schema" } else { "wrong_type" }, message);
    }
}

/// A pointer, or where it is too long one to what is around the place.
fn place(pointer: &str) -> &str {
    if pointer.len() <= MAX_POINTER {
        return pointer;
    }
    let pointer = &pointer[..pointer.floor_char_boundary(MAX_POINTER)];
    pointer.rfind('/').map_or("", |end| &pointer[..end])
}

/// One segment of a JSON pointer, escaped as RFC 6901 wants it.
pub(crate) fn escape(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

/// ` (did you mean …?)`, where one of `candidates` is at most one slip away.
pub(crate) fn did_you_mean<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    /// Enough for people, and keeps many faults in large definitions cheap.
    const LOOKED_AT: usize = 1_000;
    let nearest = candidates.into_iter().take(LOOKED_AT).filter(|candidate| one_slip(text, candidate)).min();
    nearest.map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
}

/// Do two texts differ by case, or by one character more, fewer, other, or two swapped?
fn one_slip(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len().abs_diff(right.len()) > 1 {
        return false;
    }
    if left.eq_ignore_ascii_case(right) {
        return true;
    }
    let start = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    let (left, right) = (&left[start..], &right[start..]);
    match (left, right) {
        ([], rest) | (rest, []) => rest.len() == 1,
        ([first, after_left @ ..], [other, after_right @ ..]) => {
            let swapped = after_left.first() == Some(other)
                && after_right.first() == Some(first)
                && after_left[1..] == after_right[1..];
            after_left == after_right || after_left == right || left == after_right || swapped
        }
    }
}
