//! What a step may say besides its work: when it starts, how often, and what its end means.

use std::time::Duration;

use domain::Payload;
use serde_json::Value;

use super::{
    Faults,
    fields::{Fields, kind},
    outline::Outline,
    work::{self, Work},
};
use crate::{
    StepIndex,
    expression::{Condition, Found, Reader, Template, Visible},
    plan::{Compensation, ForEach, Join, Mutex, OnFailure, OnSkip, Repeat, Retry, Step, Test},
};

/// The most tasks at once that a definition can ask for.
pub(super) const MAX_PARALLEL: u32 = 100_000;
const MAX_ATTEMPTS: u32 = 1_000;
const MAX_ITERATIONS: u32 = 1_000_000;
/// Where a loop says nothing.
const DEFAULT_ITERATIONS: u32 = 1_000;

const KNOWN: [&str; 34] = [
    "id",
    "name",
    "description",
    "agent_type",
    "capability",
    "agent_id",
    "action",
    "input",
    "decision",
    "signal",
    "sleep",
    "sleep_until",
    "block",
    "workflow",
    "emit",
    "cancel",
    "end",
    "depends_on",
    "join",
    "cancel_rest",
    "when",
    "for_each",
    "max_parallel",
    "complete_when",
    "detach",
    "loop",
    "mutex",
    "retry",
    "timeout",
    "heartbeat_timeout",
    "compensate",
    "on_failure",
    "on_skip",
    "priority",
];

/// What holds where a step says nothing.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub(super) max_parallel: u32,
    pub(super) priority: u8,
}

/// The step at `place`; `None` only with faults. Its dependencies come later.
pub(super) fn read(outline: &Outline<'_>, place: StepIndex, defaults: Defaults, found: &mut Found) -> Option<Step> {
    let entry = &outline.entries[place as usize];
    let fields = Fields::of(entry.value, &entry.pointer, &mut found.faults)?;
    fields.only(&KNOWN, &mut found.faults);
    if !fields.has("id") {
        fields.missing("id", "unique in the definition", &mut found.faults);
    }
    let id = fields.name("id", "invalid_id", &mut found.faults);
    let work = work::of(&fields, &mut found.faults);
    if let Some(work) = work {
        check_applicable(work, &fields, &mut found.faults);
    }
    let scope = &outline.scopes[entry.scope as usize];
    let (item, iteration) = (scope.item, scope.iteration);
    let outer = Visible { item, iteration, ..Visible::of(&outline.by_id, Reader::Step(place)) };
    let inner = Visible { item: item || fields.has("for_each"), iteration: iteration || fields.has("loop"), ..outer };
    let each = Visible { iteration, ..inner };
    let kind = work.and_then(|work| work::read(work, &fields, outline, place, inner, found));
    let step = Step {
        id: id.clone().unwrap_or_default(),
        scope: entry.scope,
        kind: kind?,
        depends_on: Vec::new(),
        dependents: Vec::new(),
        join: join(&fields, &mut found.faults),
        cancel_rest: Vec::new(),
        when: fields.value("when").map(|value| Condition::compile(value, &fields.at("when"), outer, found)),
        for_each: for_each(&fields, outer, defaults, found),
        repeat: repeat(&fields, inner, found),
        mutex: mutex(&fields, each, found),
        detach: detach(&fields, work, &mut found.faults),
        retry: retry(&fields, work, &mut found.faults),
        timeout: fields.duration("timeout", &mut found.faults),
        heartbeat_timeout: fields.duration("heartbeat_timeout", &mut found.faults),
        compensate: compensate(&fields, Visible { own: true, ..each }, found),
        on_failure: on_failure(&fields, outer, found),
        on_skip: on_skip(&fields, &mut found.faults),
        priority: fields
            .integer("priority", 0..=9, &mut found.faults)
            .map_or(defaults.priority, |priority| priority as u8),
    };
    id.map(|_| step)
}

/// Reports fields that mean nothing to the work.
fn check_applicable(work: Work, fields: &Fields<'_>, faults: &mut Faults) {
    for field in work.foreign().iter().filter(|field| fields.has(field)) {
        let message = format!("`{field}` means nothing to a step with `{}`", work.field());
        faults.push(&fields.at(field), "not_applicable", message);
    }
}

fn on_failure(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> OnFailure {
    match fields.value("on_failure") {
        None => OnFailure::Fail,
        Some(Value::String(text)) if text == "fail" => OnFailure::Fail,
        Some(Value::String(text)) if text == "continue" => OnFailure::Continue(Template::literal(Payload::null())),
        Some(other) => fallback(fields, "on_failure", other, "fail, continue", visible, found)
            .map_or(OnFailure::Fail, OnFailure::Continue),
    }
}

/// `{fallback: <value>}`, where the value may be `null`.
pub(super) fn fallback(
    fields: &Fields<'_>,
    key: &str,
    value: &Value,
    words: &str,
    visible: Visible<'_>,
    found: &mut Found,
) -> Option<Template> {
    let pointer = fields.at(key);
    if !value.is_object() {
        let code = if value.is_string() { "unknown_value" } else { "wrong_type" };
        found.faults.push(&pointer, code, format!("must be one of {words}, or {{\"fallback\": value}}"));
        return None;
    }
    let object = Fields::of(value, &pointer, &mut found.faults)?;
    object.only(&["fallback"], &mut found.faults);
    let Some(value) = object.raw("fallback") else {
        object.missing("fallback", "the output that takes the place of the missing one", &mut found.faults);
        return None;
    };
    Some(Template::compile(value, &object.at("fallback"), visible, found))
}

fn on_skip(fields: &Fields<'_>, faults: &mut Faults) -> OnSkip {
    match fields.text("on_skip", faults) {
        None | Some("spread") => OnSkip::Spread,
        Some("done") => OnSkip::CountAsDone,
        Some(_) => {
            faults.push(
                &fields.at("on_skip"),
                "unknown_value",
                "must be `spread` (a skip skips the dependents) or `done` (it counts as completed)",
            );
            OnSkip::Spread
        }
    }
}

fn join(fields: &Fields<'_>, faults: &mut Faults) -> Join {
    const WANTED: &str = "must be `all`, `any` or {\"count\": n}";
    match fields.value("join") {
        None => Join::All,
        Some(Value::String(text)) => match text.as_str() {
            "all" => Join::All,
            "any" => Join::Any,
            _ => {
                faults.push(&fields.at("join"), "unknown_value", WANTED);
                Join::All
            }
        },
        Some(Value::Object(_)) => {
            let Some(object) = fields.object("join", faults) else { return Join::All };
            object.only(&["count"], faults);
            if !object.has("count") {
                object.missing("count", "how many dependencies must complete", faults);
            }
            object.integer("count", 1..=MAX_PARALLEL, faults).map_or(Join::All, Join::Count)
        }
        Some(other) => {
            faults.push(&fields.at("join"), "wrong_type", format!("{WANTED}, not {}", kind(other)));
            Join::All
        }
    }
}

fn for_each(fields: &Fields<'_>, visible: Visible<'_>, defaults: Defaults, found: &mut Found) -> Option<ForEach> {
    let Some(value) = fields.value("for_each") else {
        for field in ["max_parallel", "complete_when"].into_iter().filter(|field| fields.has(field)) {
            let message = format!("`{field}` is about the instances of a `for_each`; there is none here");
            found.faults.push(&fields.at(field), "not_applicable", message);
        }
        return None;
    };
    let pointer = fields.at("for_each");
    let is_list = value.is_array() || value.as_str().is_some_and(|text| text.contains("${{"));
    if !is_list {
        found.faults.push(
            &pointer,
            "wrong_type",
            "must be a list, or an expression that gives one, such as `${{ steps.load.output.rows }}`",
        );
    }
    let max_parallel =
        fields.integer("max_parallel", 1..=MAX_PARALLEL, &mut found.faults).unwrap_or(defaults.max_parallel);
    let results = Visible { results: true, ..visible };
    let complete_when = fields
        .value("complete_when")
        .map(|value| Condition::compile(value, &fields.at("complete_when"), results, found));
    Some(ForEach { items: Template::compile(value, &pointer, visible, found), max_parallel, complete_when })
}

/// Exactly one of `while` and `until`.
fn repeat(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<Repeat> {
    let repeat = fields.object("loop", &mut found.faults)?;
    repeat.only(&["while", "until", "max_iterations"], &mut found.faults);
    let max_iterations =
        repeat.integer("max_iterations", 1..=MAX_ITERATIONS, &mut found.faults).unwrap_or(DEFAULT_ITERATIONS);
    let condition = |key: &str, found: &mut Found| {
        repeat.value(key).map(|value| Condition::compile(value, &repeat.at(key), visible, found))
    };
    let test = match (condition("while", found), condition("until", found)) {
        (Some(condition), None) => Test::While(condition),
        (None, Some(condition)) => Test::Until(condition),
        (Some(_), Some(_)) => {
            found.faults.push(repeat.pointer(), "ambiguous_loop", "needs one of while and until, not both");
            return None;
        }
        (None, None) => {
            repeat.missing("while", "or `until`: a condition over `last` and `iteration`", &mut found.faults);
            return None;
        }
    };
    Some(Repeat { test, max_iterations })
}

/// A name, or `{name, scope: execution | global}`.
fn mutex(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<Mutex> {
    let pointer = fields.at("mutex");
    let (name, global, pointer) = match fields.value("mutex")? {
        Value::String(name) => (name.as_str(), false, pointer),
        Value::Object(_) => {
            let object = fields.object("mutex", &mut found.faults)?;
            object.only(&["name", "scope"], &mut found.faults);
            let global = match object.text("scope", &mut found.faults) {
                None | Some("execution") => false,
                Some("global") => true,
                Some(_) => {
                    let message = "must be `execution` or `global`";
                    found.faults.push(&object.at("scope"), "unknown_value", message);
                    false
                }
            };
            if !object.has("name") {
                object.missing("name", "whoever says the same name excludes each other", &mut found.faults);
            }
            (object.text("name", &mut found.faults)?, global, object.at("name"))
        }
        other => {
            let message = format!("must be a name or {{name, scope}}, not {}", kind(other));
            found.faults.push(&pointer, "wrong_type", message);
            return None;
        }
    };
    if name.is_empty() {
        found.faults.push(&pointer, "invalid_name", "must not be empty");
    }
    Some(Mutex { name: Template::compile(&Value::String(name.to_owned()), &pointer, visible, found), global })
}

fn detach(fields: &Fields<'_>, work: Option<Work>, faults: &mut Faults) -> bool {
    let detach = fields.truth("detach", faults).unwrap_or_default();
    if detach && !fields.has("for_each") && work.is_some_and(|work| work != Work::Workflow) {
        let message = "only the instances of a `for_each` and a child `workflow` can be left to themselves";
        faults.push(&fields.at("detach"), "not_applicable", message);
    }
    detach
}

/// What is a group of steps, or an execution of its own, has retried within; it is tried again where that is asked for.
fn retry(fields: &Fields<'_>, work: Option<Work>, faults: &mut Faults) -> Retry {
    let is_group = matches!(work, Some(Work::Block | Work::Workflow));
    let default = Retry {
        max_attempts: if is_group && !fields.has("retry") { 1 } else { 4 },
        initial_interval: Duration::from_secs(1),
        backoff: 2.0,
        max_interval: Duration::from_mins(1),
        jitter: true,
    };
    let Some(retry) = fields.object("retry", faults) else { return default };
    retry.only(&["max_attempts", "initial_interval", "backoff", "max_interval", "jitter"], faults);
    let initial_interval = retry.duration("initial_interval", faults).unwrap_or(default.initial_interval);
    let max_interval = retry.duration("max_interval", faults);
    if let Some(longest) = max_interval
        && longest < initial_interval
    {
        faults.push(&retry.at("max_interval"), "out_of_range", "must not be shorter than `initial_interval`");
    }
    Retry {
        max_attempts: retry.integer("max_attempts", 1..=MAX_ATTEMPTS, faults).unwrap_or(default.max_attempts),
        initial_interval,
        backoff: retry.number("backoff", 1.0..=100.0, faults).unwrap_or(default.backoff),
        max_interval: max_interval.unwrap_or(default.max_interval.max(initial_interval)),
        jitter: retry.truth("jitter", faults).unwrap_or(default.jitter),
    }
}

/// Its expressions see `item` and `index` as the work does, and the step's own output besides what is upstream.
fn compensate(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<Compensation> {
    let undo = fields.object("compensate", &mut found.faults)?;
    undo.only(&["agent_type", "capability", "agent_id", "action", "input"], &mut found.faults);
    let target = work::target(&undo, &mut found.faults);
    let action = work::action(&undo, &mut found.faults);
    let input = undo.value("input").map(|value| Template::compile(value, &undo.at("input"), visible, found));
    Some(Compensation { target: target?, action: action?, input })
}
