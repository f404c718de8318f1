//! What a step does: exactly one thing.

use std::collections::HashSet;

use domain::Payload;
use serde_json::Value;

use super::{
    Faults, decisions,
    fields::{Fields, kind},
    graph::unknown,
    outline::Outline,
    steps::fallback,
};
use crate::{
    StepIndex, Target,
    expression::{Found, Template, Visible},
    plan::{Child, Emission, End, OnTimeout, Recipient, StepKind},
};

const TARGETS: [&str; 3] = ["agent_type", "capability", "agent_id"];

/// What a step does, before the details.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Task,
    Decision,
    Signal,
    Sleep,
    SleepUntil,
    Block,
    Workflow,
    Emit,
    Cancel,
    End,
}

impl Work {
    const ALL: [Self; 9] = [
        Self::Decision,
        Self::Signal,
        Self::Sleep,
        Self::SleepUntil,
        Self::Block,
        Self::Workflow,
        Self::Emit,
        Self::Cancel,
        Self::End,
    ];

    /// The field that says it; of a task one of three.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Task => "agent_type",
            Self::Decision => "decision",
            Self::Signal => "signal",
            Self::Sleep => "sleep",
            Self::SleepUntil => "sleep_until",
            Self::Block => "block",
            Self::Workflow => "workflow",
            Self::Emit => "emit",
            Self::Cancel => "cancel",
            Self::End => "end",
        }
    }

    /// Fields that mean something only to other work.
    pub(super) fn foreign(self) -> &'static [&'static str] {
        match self {
            Self::Task => &[],
            Self::Decision => &["action", "input"],
            Self::Signal | Self::Sleep | Self::SleepUntil => {
                &["action", "input", "retry", "timeout", "heartbeat_timeout"]
            }
            Self::Block | Self::Workflow => &["action", "input", "heartbeat_timeout"],
            Self::Emit => &["action", "input", "timeout", "heartbeat_timeout"],
            Self::Cancel | Self::End => &[
                "action",
                "input",
                "retry",
                "timeout",
                "heartbeat_timeout",
                "for_each",
                "loop",
                "mutex",
                "compensate",
                "on_failure",
            ],
        }
    }
}

/// Which work the step does: exactly one.
pub(super) fn of(fields: &Fields<'_>, faults: &mut Faults) -> Option<Work> {
    let mut named: Vec<(&str, Work)> =
        Work::ALL.into_iter().map(|work| (work.field(), work)).filter(|(field, _)| fields.has(field)).collect();
    named.extend(TARGETS.into_iter().find(|field| fields.has(field)).map(|field| (field, Work::Task)));
    match named.as_slice() {
        [] => {
            let others: Vec<_> = Work::ALL.iter().map(|work| work.field()).collect();
            let message = format!(
                "a step needs its work: agent_type, capability or agent_id for a task, or one of {}",
                others.join(", ")
            );
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

/// The details; `None` only with faults.
pub(super) fn read(
    work: Work,
    fields: &Fields<'_>,
    outline: &Outline<'_>,
    place: StepIndex,
    visible: Visible<'_>,
    found: &mut Found,
) -> Option<StepKind> {
    match work {
        Work::Task => task(fields, visible, found),
        Work::Decision => decisions::read(fields, visible, found).map(StepKind::Decision),
        Work::Signal => signal(fields, visible, found),
        Work::Sleep => fields.duration("sleep", &mut found.faults).map(StepKind::Sleep),
        Work::SleepUntil => text(fields, "sleep_until", visible, found).map(StepKind::SleepUntil),
        Work::Block => block(fields, outline, place, &mut found.faults),
        Work::Workflow => child(fields, visible, found).map(StepKind::Workflow),
        Work::Emit => emission(fields, visible, found).map(StepKind::Emit),
        Work::Cancel => cancel(fields, outline, place, &mut found.faults).map(StepKind::Cancel),
        Work::End => end(fields, visible, found).map(StepKind::End),
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

pub(super) fn action(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    if fields.has("action") { fields.name("action", "invalid_name", faults) } else { Some("run".to_owned()) }
}

fn task(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<StepKind> {
    let target = target(fields, &mut found.faults);
    let action = action(fields, &mut found.faults);
    let input = value(fields, "input", Payload::empty_object(), visible, found);
    Some(StepKind::Task { target: target?, action: action?, input })
}

/// Any value with expressions in it.
fn value(fields: &Fields<'_>, key: &str, absent: Payload, visible: Visible<'_>, found: &mut Found) -> Template {
    match fields.value(key) {
        Some(value) => Template::compile(value, &fields.at(key), visible, found),
        None => Template::literal(absent),
    }
}

/// A text with expressions in it.
fn text(fields: &Fields<'_>, key: &str, visible: Visible<'_>, found: &mut Found) -> Option<Template> {
    let text = fields.text(key, &mut found.faults)?;
    if text.is_empty() {
        found.faults.push(&fields.at(key), "invalid_name", format!("`{key}` must not be empty"));
        return None;
    }
    Some(Template::compile(&Value::String(text.to_owned()), &fields.at(key), visible, found))
}

/// A name, or a text with expressions that gives one.
fn name(fields: &Fields<'_>, key: &str, visible: Visible<'_>, found: &mut Found) -> Option<Template> {
    let has_expression = fields.value(key).and_then(Value::as_str).is_some_and(|text| text.contains("${{"));
    if has_expression {
        return text(fields, key, visible, found);
    }
    let name = fields.name(key, "invalid_name", &mut found.faults)?;
    Some(Template::literal(Payload::from_value(&Value::String(name))))
}

fn signal(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<StepKind> {
    let signal = fields.object("signal", &mut found.faults)?;
    signal.only(&["name", "timeout", "on_timeout", "transient"], &mut found.faults);
    if !signal.has("name") {
        signal.missing("name", "which signal it waits for", &mut found.faults);
    }
    let name = name(&signal, "name", visible, found);
    let timeout = signal.duration("timeout", &mut found.faults);
    let on_timeout = on_timeout(&signal, visible, found);
    if signal.has("on_timeout") && !signal.has("timeout") {
        signal.missing(
            "timeout",
            "without it the step waits for ever, and `on_timeout` never happens",
            &mut found.faults,
        );
    }
    let transient = signal.truth("transient", &mut found.faults).unwrap_or_default();
    Some(StepKind::Signal { name: name?, timeout, on_timeout, transient })
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

/// Its steps are in the outline; here only what else it says.
fn block(fields: &Fields<'_>, outline: &Outline<'_>, place: StepIndex, faults: &mut Faults) -> Option<StepKind> {
    let block = fields.object("block", faults)?;
    block.only(&["steps", "dependencies", "output"], faults);
    outline.entries[place as usize].block.map(StepKind::Block)
}

fn child(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<Child> {
    let child = fields.object("workflow", &mut found.faults)?;
    child.only(&["name", "version", "input"], &mut found.faults);
    let name = child.required_title("name", &mut found.faults);
    let version = child.integer("version", 1..=u32::MAX, &mut found.faults);
    let input = value(&child, "input", Payload::empty_object(), visible, found);
    Some(Child { name: name?, version, input })
}

fn emission(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<Emission> {
    let emit = fields.object("emit", &mut found.faults)?;
    emit.only(&["topic", "agent_id", "execution", "signal", "payload"], &mut found.faults);
    let payload = value(&emit, "payload", Payload::null(), visible, found);
    let named: Vec<_> = ["topic", "agent_id", "execution"].into_iter().filter(|field| emit.has(field)).collect();
    let to = match named.as_slice() {
        ["topic"] => text(&emit, "topic", visible, found).map(Recipient::Topic),
        ["agent_id"] => text(&emit, "agent_id", visible, found).map(Recipient::Agent),
        ["execution"] => {
            if !emit.has("signal") {
                emit.missing("signal", "which signal the execution gets", &mut found.faults);
            }
            let execution = text(&emit, "execution", visible, found);
            let name = name(&emit, "signal", visible, found);
            execution.zip(name).map(|(execution, name)| Recipient::Signal { execution, name })
        }
        _ => {
            let message = "needs exactly one of topic, agent_id, and execution with signal";
            found.faults.push(emit.pointer(), "ambiguous_target", message);
            None
        }
    };
    Some(Emission { to: to?, payload })
}

/// Ids of steps of the same scope, or of one around it.
fn cancel(fields: &Fields<'_>, outline: &Outline<'_>, place: StepIndex, faults: &mut Faults) -> Option<Vec<StepIndex>> {
    let list = fields.list("cancel", faults)?;
    let pointer = fields.at("cancel");
    if list.is_empty() {
        faults.push(&pointer, "missing_field", "needs the id of at least one step");
    }
    let mut around = HashSet::from([outline.entries[place as usize].scope]);
    let mut scope = outline.entries[place as usize].scope;
    while let Some(parent) = outline.scopes[scope as usize].parent {
        scope = outline.entries[parent as usize].scope;
        around.insert(scope);
    }
    let mut steps = Vec::with_capacity(list.len());
    for (index, id) in list.iter().enumerate() {
        let at = format!("{pointer}/{index}");
        let Some(id) = id.as_str() else {
            faults.push(&at, "wrong_type", format!("must be the id of a step, not {}", kind(id)));
            continue;
        };
        match outline.by_id.get(id) {
            None => faults.push(&at, "unknown_step", unknown(id, &outline.by_id)),
            Some(step) if *step == place => faults.push(&at, "self_dependency", "a step cannot withdraw itself"),
            Some(step) if around.contains(&outline.entries[*step as usize].scope) => steps.push(*step),
            Some(_) => {
                let message = format!("`{id}` is inside another block; withdraw the block");
                faults.push(&at, "step_not_visible", message);
            }
        }
    }
    Some(steps)
}

fn end(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<End> {
    let end = fields.object("end", &mut found.faults)?;
    let status = end.text("status", &mut found.faults).unwrap_or("completed");
    let (known, ending) = match status {
        "completed" => ("output", End::Completed(value(&end, "output", Payload::null(), visible, found))),
        "failed" => ("error", failed(&end, visible, found)?),
        "cancelled" => ("reason", End::Cancelled(value(&end, "reason", Payload::null(), visible, found))),
        "continued" => ("input", End::Continued(value(&end, "input", Payload::empty_object(), visible, found))),
        _ => {
            let message = "must be one of completed, failed, cancelled, continued";
            found.faults.push(&end.at("status"), "unknown_value", message);
            return None;
        }
    };
    end.only(&["status", known], &mut found.faults);
    Some(ending)
}

fn failed(end: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<End> {
    if !end.has("error") {
        end.missing("error", "{code, message}: why it failed", &mut found.faults);
    }
    let error = end.object("error", &mut found.faults)?;
    error.only(&["code", "message"], &mut found.faults);
    let code = error.name("code", "invalid_name", &mut found.faults).unwrap_or_else(|| "ended".to_owned());
    let message = value(&error, "message", Payload::null(), visible, found);
    Some(End::Failed { code, message })
}
