//! Histories as they are kept: what a release wrote to its log, and what it took that for.
//!
//! A file is a line with the definition, a line with the state at the end, and a line for each entry of the log: its time in
//! microseconds, its hash, a digest of the state after it, and its bytes. The state is what can be seen of it from outside: a
//! later release may keep more, or keep it otherwise.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use domain::{Payload, Timestamp};
use serde_json::{Value, json};
use workflow::{Definition, Effect, Event, Execution, Limits, Plan, Recorded, StepView, chain};

/// What is written now: the version with which it was written first, and what is new in it. A change of events gets a name of its own
/// here, so that it is kept as well.
const FORMAT: &str = "0.1.0-carried";

/// Where the histories of all releases are, each in the folder of its format.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories"))
}

pub(crate) fn plan(definition: &str) -> Arc<Plan> {
    let definition = Definition::parse(definition.as_bytes(), Limits::default());
    Arc::new(definition.unwrap_or_else(|faults| panic!("{faults:?}")).plan)
}

/// Keeps a history of the present format where `TROUPE_RECORD_HISTORIES` is set. What is kept already stays as it is, and what is as
/// an earlier format has it is kept once.
pub(crate) fn keep<'a>(name: &str, definition: &Value, log: impl Iterator<Item = (Timestamp, &'a [u8])>) {
    if std::env::var_os("TROUPE_RECORD_HISTORIES").is_none() {
        return;
    }
    let definition = definition.to_string();
    let mut execution = Execution::new(plan(&definition));
    let (mut lines, mut hash) = (String::new(), [0; 32]);
    for ((at, data), sequence) in log.zip(1..) {
        let event = Event::decode(data).unwrap();
        hash = chain(&hash, sequence, at, data);
        execution.apply(&Recorded { sequence, at, event });
        let (digest, text) = (digest(&view(&execution)), String::from_utf8(data.to_vec()).unwrap());
        writeln!(lines, "{} {} {digest} {text}", at.as_micros(), hex(&hash)).unwrap();
    }
    let (present, name) = (folder().join(FORMAT), format!("{name}.log"));
    let text = format!("{definition}\n{}\n{lines}", view(&execution));
    let mut formats = std::fs::read_dir(folder()).unwrap().map(|format| format.unwrap().path().join(&name));
    let is_kept = formats.any(|file| std::fs::read_to_string(file).is_ok_and(|kept| kept == text));
    let file = present.join(name);
    if !is_kept && !file.exists() {
        std::fs::create_dir_all(&present).unwrap();
        std::fs::write(file, text).unwrap();
    }
}

/// What can be seen of a state.
pub(crate) fn view(execution: &Execution) -> Value {
    let name = |task| execution.plan().task_id(execution.id().unwrap(), task);
    let locks = execution.locks_wanted().filter_map(|effect| match effect {
        Effect::Acquire { holder, lock } => Some(json!([holder, lock.name, lock.limit])),
        _ => None,
    });
    let searches = execution.searches().filter_map(|effect| match effect {
        Effect::FindVoters { unit, count, quorum, .. } => Some(json!([unit, count, quorum])),
        _ => None,
    });
    json!({
        "status": execution.status(),
        "input": execution.input().map(Payload::to_value),
        "output": execution.output().map(Payload::to_value),
        "failure": execution.failure(),
        "cancelled": execution.cancel_reason(),
        "created_at": execution.created_at().map(Timestamp::as_micros),
        "ended_at": execution.ended_at().map(Timestamp::as_micros),
        "due_at": execution.next_due().map(Timestamp::as_micros),
        "wakeups": execution.wakeups(),
        "out": execution.tasks_out().into_iter().map(name).collect::<Vec<_>>(),
        "errands": execution.errands().map(name).collect::<Vec<_>>(),
        "locks": locks.collect::<Vec<_>>(),
        "searches": searches.collect::<Vec<_>>(),
        "steps": execution.steps().iter().map(step).collect::<Vec<_>>(),
    })
}

fn step(view: &StepView) -> Value {
    json!({
        "id": view.step_id,
        "unit": view.unit,
        "state": format!("{:?}", view.state),
        "attempt": view.attempt,
        "iteration": view.iteration,
        "agent": view.agent_id.map(|id| id.to_string()),
        "started_at": view.started_at.map(Timestamp::as_micros),
        "ended_at": view.ended_at.map(Timestamp::as_micros),
        "output": view.output.as_ref().map(Payload::to_value),
        "failure": view.failure,
        "child": view.child.map(|id| id.to_string()),
        "instances": view.instances.iter().map(step).collect::<Vec<_>>(),
        "steps": view.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

pub(crate) fn digest(view: &Value) -> String {
    hex(&blake3::hash(view.to_string().as_bytes()).as_bytes()[..8])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
