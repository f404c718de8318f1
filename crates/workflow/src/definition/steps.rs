//! What a step may say.

use std::{collections::HashMap, time::Duration};

use domain::Payload;
use serde_json::Value;

use super::{
    Faults, decisions,
    fields::{Fields, kind},
};
use crate::{
    StepIndex, Target,
    expression::{Condition, Found, Template, Visible},
    plan::{Compensation, ForEach, Join, OnFailure, OnSkip, OnTimeout, Retry, Step, StepKind},
};

/// The most tasks at once that a definition can ask for.
pub(super) const MAX_PARALLEL: u32 = 100_000;
const MAX_ATTEMPTS: u32 = 1_000;

const KNOWN: [&str; 23] = [
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
    "depends_on",
    "join",
    "when",
    "for_each",
    "max_parallel",
    "retry",
    "timeout",
    "heartbeat_timeout",
    "compensate",
    "on_failure",
    "on_skip",
    "priority",
];
/// Fields of later releases that are a step's work.
const LATER_WORK: [&str; 6] = ["block", "workflow", "emit", "cancel", "end", "sleep_until"];
const LATER: [&str; 11] = [
    "block",
    "workflow",
    "emit",
    "cancel",
    "end",
    "sleep_until",
    "loop",
    "mutex",
    "detach",
    "complete_when",
    "cancel_rest",
];
const TARGETS: [&str; 3] = ["agent_type", "capability", "agent_id"];

/// What holds where a step says nothing.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub(super) max_parallel: u32,
    pub(super) priority: u8,
}

/// What a step is, before the details.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Task,
    Decision,
    Signal,
    Sleep,
}

impl Work {
    const ALL: [(&'static str, Self); 3] =
        [("decision", Self::Decision), ("signal", Self::Signal), ("sleep", Self::Sleep)];

    /// Fields that mean something only to other work.
    fn foreign(self) -> &'static [&'static str] {
        match self {
            Self::Task => &[],
            Self::Decision => &["action", "input", "for_each", "max_parallel", "compensate"],
            Self::Signal | Self::Sleep => {
                &["action", "input", "for_each", "max_parallel", "compensate", "retry", "timeout", "heartbeat_timeout"]
            }
        }
    }
}

/// The step at `pointer`; `None` only with faults. Its dependencies come later.
pub(super) fn read(
    entry: &Value,
    pointer: &str,
    ids: &HashMap<String, StepIndex>,
    defaults: Defaults,
    found: &mut Found,
) -> Option<Step> {
    let fields = Fields::of(entry, pointer, &mut found.faults)?;
    fields.only(&KNOWN, &LATER, &mut found.faults);
    if !fields.has("id") {
        fields.missing("id", "unique in the definition", &mut found.faults);
    }
    let id = fields.name("id", "invalid_id", &mut found.faults);
    let work = work(&fields, &mut found.faults);
    if let Some(work) = work {
        for field in work.foreign().iter().filter(|field| fields.has(field)) {
            found.faults.push(
                &fields.at(field),
                "not_applicable",
                format!("`{field}` means nothing here: only steps in which agents do a task have it"),
            );
        }
    }
    let outer = Visible { steps: ids, item: false };
    let inner = Visible { steps: ids, item: fields.has("for_each") };
    let kind = work.and_then(|work| match work {
        Work::Task => task(&fields, inner, found),
        Work::Decision => decisions::read(&fields, outer, found).map(StepKind::Decision),
        Work::Signal => signal(&fields, outer, found),
        Work::Sleep => fields.duration("sleep", &mut found.faults).map(StepKind::Sleep),
    });
    let step = Step {
        id: id.clone().unwrap_or_default(),
        kind: kind?,
        depends_on: Vec::new(),
        dependents: Vec::new(),
        join: join(&fields, &mut found.faults),
        when: fields.value("when").map(|value| Condition::compile(value, &fields.at("when"), outer, found)),
        for_each: for_each(&fields, outer, defaults, found),
        retry: retry(&fields, &mut found.faults),
        timeout: fields.duration("timeout", &mut found.faults),
        heartbeat_timeout: fields.duration("heartbeat_timeout", &mut found.faults),
        compensate: compensate(&fields, inner, found),
        on_failure: on_failure(&fields, outer, found),
        on_skip: on_skip(&fields, &mut found.faults),
        priority: fields
            .integer("priority", 0..=9, &mut found.faults)
            .map_or(defaults.priority, |priority| priority as u8),
    };
    id.map(|_| step)
}

/// Which work the step does: exactly one.
fn work(fields: &Fields<'_>, faults: &mut Faults) -> Option<Work> {
    let mut named: Vec<(&str, Work)> = Work::ALL.into_iter().filter(|(field, _)| fields.has(field)).collect();
    named.extend(TARGETS.into_iter().find(|field| fields.has(field)).map(|field| (field, Work::Task)));
    match named.as_slice() {
        [] if LATER_WORK.iter().any(|field| fields.has(field)) => None,
        [] => {
            let message =
                "a step needs its work: agent_type, capability or agent_id for a task, or decision, signal or sleep";
            faults.push(fields.pointer(), "no_work", message);
            None
        }
        [(_, work)] => Some(*work),
        several => {
            let several: Vec<_> = several.iter().map(|(field, _)| *field).collect();
            faults.push(
                fields.pointer(),
                "ambiguous_work",
                format!("a step does one thing, not {}; make several steps of it", several.join(" and ")),
            );
            None
        }
    }
}

/// Exactly one of `agent_type`, `capability` and `agent_id`.
pub(super) fn target(fields: &Fields<'_>, faults: &mut Faults) -> Option<Target> {
    let named: Vec<_> = TARGETS.into_iter().filter(|field| fields.has(field)).collect();
    match named.as_slice() {
        [] => {
            faults.push(fields.pointer(), "missing_field", "needs one of agent_type, capability and agent_id");
            None
        }
        ["agent_type"] => fields.name("agent_type", "invalid_name", faults).map(Target::AgentType),
        ["capability"] => fields.name("capability", "invalid_name", faults).map(Target::Capability),
        [_] => match fields.text("agent_id", faults)?.parse() {
            Ok(id) => Some(Target::AgentId(id)),
            Err(error) => {
                faults.push(&fields.at("agent_id"), "invalid_id", domain::IdError::to_string(&error));
                None
            }
        },
        several => {
            faults.push(
                fields.pointer(),
                "ambiguous_target",
                format!("needs one of {}, not several", several.join(", ")),
            );
            None
        }
    }
}

fn action(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    if fields.has("action") { fields.name("action", "invalid_name", faults) } else { Some("run".to_owned()) }
}

fn task(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<StepKind> {
    let target = target(fields, &mut found.faults);
    let action = action(fields, &mut found.faults);
    let input = match fields.value("input") {
        Some(value) => Template::compile(value, &fields.at("input"), visible, found),
        None => Template::literal(Payload::empty_object()),
    };
    Some(StepKind::Task { target: target?, action: action?, input })
}

fn signal(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<StepKind> {
    let signal = fields.object("signal", &mut found.faults)?;
    signal.only(&["name", "timeout", "on_timeout"], &[], &mut found.faults);
    if !signal.has("name") {
        signal.missing("name", "which signal it waits for", &mut found.faults);
    }
    let name = signal.name("name", "invalid_name", &mut found.faults);
    let timeout = signal.duration("timeout", &mut found.faults);
    let on_timeout = on_timeout(&signal, visible, found);
    if signal.has("on_timeout") && !signal.has("timeout") {
        signal.missing(
            "timeout",
            "without it the step waits for ever, and `on_timeout` never happens",
            &mut found.faults,
        );
    }
    Some(StepKind::Signal { name: name?, timeout, on_timeout })
}

fn on_timeout(signal: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> OnTimeout {
    match signal.value("on_timeout") {
        None => OnTimeout::Fail,
        Some(Value::String(text)) if text == "fail" => OnTimeout::Fail,
        Some(Value::String(text)) if text == "reject" => OnTimeout::Reject,
        Some(other) => fallback(signal, "on_timeout", other, "fail, reject", visible, found)
            .map_or(OnTimeout::Fail, OnTimeout::Continue),
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
fn fallback(
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
    object.only(&["fallback"], &[], &mut found.faults);
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
            object.only(&["count"], &[], faults);
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
        if fields.has("max_parallel") {
            found.faults.push(
                &fields.at("max_parallel"),
                "not_applicable",
                "`max_parallel` bounds the instances of a `for_each`; there is none here",
            );
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
    Some(ForEach { items: Template::compile(value, &pointer, visible, found), max_parallel })
}

fn retry(fields: &Fields<'_>, faults: &mut Faults) -> Retry {
    let default = Retry {
        max_attempts: 4,
        initial_interval: Duration::from_secs(1),
        backoff: 2.0,
        max_interval: Duration::from_mins(1),
        jitter: true,
    };
    let Some(retry) = fields.object("retry", faults) else { return default };
    retry.only(&["max_attempts", "initial_interval", "backoff", "max_interval", "jitter"], &[], faults);
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
    undo.only(&["agent_type", "capability", "agent_id", "action", "input"], &[], &mut found.faults);
    let target = target(&undo, &mut found.faults);
    let action = action(&undo, &mut found.faults);
    let input = undo.value("input").map(|value| Template::compile(value, &undo.at("input"), visible, found));
    Some(Compensation { target: target?, action: action?, input })
}
