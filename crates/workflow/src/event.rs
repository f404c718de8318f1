//! What happened: the entries of an execution's log.
//!
//! Events hold everything that replay needs: the results of expressions, the chosen voters, the times of retries. Replay
//! evaluates no expression and draws no number, so a later release replays an older log to the same state.

use domain::{AgentId, ExecutionId, Namespace, Payload, SignalId, Timestamp, WorkflowId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Ballot, Failure, FrameId, Plan, StepIndex, TaskKey, Unit, failure::present};

/// One entry of an execution's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// From 1, without gaps.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// A chosen voter of a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Voter {
    /// Who.
    pub agent_id: AgentId,
    /// Its name when it was chosen, for the record.
    pub name: String,
    /// How much its vote counts under the `weighted` strategy.
    pub weight: f64,
}

impl Eq for Voter {}

/// The execution, and the task in it, that a child execution belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Whose child it is.
    pub execution_id: ExecutionId,
    /// The task that waits for its end.
    pub task_id: String,
    /// It goes on when its parent ends, which does not wait for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub detached: bool,
    /// How many executions there are above it.
    pub depth: u32,
}

/// A signal that waits for a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSignal {
    /// Which.
    pub name: String,
    /// With what.
    pub payload: Payload,
}

/// What goes on from one run of an execution to the next, besides what [`Event::Continued`] names itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its turn among those with the same `concurrency_key`: the key, how many run at once, and since when it waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<(String, u32, Timestamp)>,
    /// Since when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Timestamp>,
}

/// How a step with `end` ends the execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Well, with this output.
    Completed(Payload),
    /// By this failure; what completed is undone.
    Failed(Failure),
    /// As if cancelled for this reason; what completed is undone.
    Cancelled(String),
    /// Not at all: it begins again as new, with this input and an empty history.
    Continued(Payload),
}

/// Why a step was skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Its `when` was false.
    Condition,
    /// What it depends on was skipped.
    Dependency,
}

/// What happened. The log keeps it as JSON, `{"step_scheduled": {…}}`; fields are only ever added, with a default.
#[expect(missing_docs, reason = "fields without words of their own are named by the vocabulary")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Always the first: everything about the execution that is not in its workflow's version.
    Accepted {
        execution_id: ExecutionId,
        namespace: Namespace,
        workflow_id: WorkflowId,
        workflow_name: String,
        workflow_version: u32,
        input: Payload,
        /// When it fails as a whole; from `config.timeout`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        traceparent: String,
        /// The execution whose step it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Parent>,
    },
    /// It waits for its turn among those with the same `concurrency_key`.
    TurnAwaited { key: String, limit: u32 },
    /// It is its turn.
    TurnTaken,
    /// The items of a `for_each` are known; its instances follow.
    StepExpanded { unit: Unit, items: Vec<Payload> },
    /// The unit wants its `mutex`, and another has it.
    MutexAwaited { unit: Unit, name: String },
    /// The unit has its `mutex`, until it ends.
    MutexTaken { unit: Unit, name: String },
    /// An attempt's task goes out: to an agent, or (a child execution, an `emit`) to the shell. `input` is there on first
    /// attempts only; later ones have the same.
    StepScheduled {
        task: TaskKey,
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        input: Option<Payload>,
    },
    /// An attempt failed, and the next is due at `at`.
    StepRetrying {
        task: TaskKey,
        failure: Failure,
        at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<AgentId>,
    },
    /// A loop goes on: an iteration ended, and the next begins.
    StepRepeated {
        unit: Unit,
        /// Of the iteration that ended; absent where the state has it already (a signal's payload).
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        output: Option<Payload>,
    },
    /// A block begins, in a frame of its own.
    BlockEntered {
        unit: Unit,
        attempt: u32,
        inner: FrameId,
        /// When this attempt of it fails.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// The unit waits for a signal.
    SignalAwaited {
        unit: Unit,
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// The unit sleeps.
    SleepStarted { unit: Unit, until: Timestamp },
    /// A decision wants voters, who vote in a frame of their own.
    DecisionOpened {
        unit: Unit,
        inner: FrameId,
        /// The question and its context, as every voter gets it.
        input: Payload,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
    /// Its voters are chosen; a task goes to each.
    VotersChosen { unit: Unit, voters: Vec<Voter> },
    /// A voter voted.
    BallotCast { unit: Unit, voter: u32, ballot: Ballot },
    /// A voter will not vote: it failed, or was not asked in time.
    BallotMissed { unit: Unit, voter: u32, failure: Failure },
    /// A step, or an instance where `index` is set, ended well. A `for_each` as a whole has the list as its output.
    StepCompleted {
        unit: Unit,
        /// Absent where the state has it already: the outputs of a `for_each` are those of its instances.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        output: Option<Payload>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<AgentId>,
        /// When the agent began, where it said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        begun_at: Option<Timestamp>,
    },
    /// A step, or an instance, failed for good.
    StepFailed {
        unit: Unit,
        failure: Failure,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<AgentId>,
        /// What `on_failure` makes of it: the output that dependents see. Absent: the step's scope fails.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        fallback: Option<Payload>,
    },
    /// A step was skipped.
    StepSkipped { unit: Unit, reason: SkipReason },
    /// A step was withdrawn because its scope ends.
    StepCancelled { unit: Unit, reason: String },
    /// A step was withdrawn by another (`cancel`, `cancel_rest`); to its dependents that is a skip.
    StepWithdrawn { unit: Unit, by: StepIndex },
    /// A signal came in.
    SignalReceived {
        id: SignalId,
        name: String,
        payload: Payload,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        sender: String,
        /// Nobody waited for it, and nobody will: only steps with `transient` know its name.
        #[serde(default, skip_serializing_if = "is_false")]
        dropped: bool,
    },
    /// Nothing new starts until `Resumed`.
    Paused,
    /// The pause is over.
    Resumed,
    /// Somebody asked for a cancel; what runs is withdrawn next.
    CancelRequested { reason: String },
    /// A step with `end` ended the whole execution; what runs is withdrawn next.
    EndRequested { unit: Unit, end: Ending },
    /// A scope fails as a whole: it took too long, its output cannot be made, its history is too long.
    ScopeFailed {
        #[serde(default, skip_serializing_if = "is_outermost")]
        frame: FrameId,
        failure: Failure,
    },
    /// A scope is lost for `failure` (or a cancel, where absent): what completed in it is undone in reverse order.
    CompensationStarted {
        #[serde(default, skip_serializing_if = "is_outermost")]
        frame: FrameId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    /// The undo of a step, or instance, is done.
    StepCompensated { unit: Unit },
    /// The undo of a step, or instance, failed for good; the rest goes on.
    CompensationFailed { unit: Unit, failure: Failure },
    /// An operator has what could not be undone tried again.
    CompensationResumed,
    /// Ended well.
    Completed { output: Payload },
    /// Ended by a failure.
    Failed { failure: Failure },
    /// Ended by a cancel.
    Cancelled { reason: String },
    /// It begins again as new, with another input. With `carried` it is a snapshot of all that goes on: replay needs nothing
    /// between the first entry and this one.
    Continued {
        input: Payload,
        root: FrameId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// Signals that nobody took yet, in their order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kept: Vec<KeptSignal>,
        /// Signals that count once, and have counted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        seen: Vec<SignalId>,
        /// Absent in logs of releases that had to be replayed from the start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        carried: Option<Carried>,
    },
    /// An operator runs a failed execution again: these steps (and instances that failed) start afresh.
    Retried {
        steps: Vec<StepIndex>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_outermost(frame: &FrameId) -> bool {
    *frame == 0
}

/// Bytes of a log that are no event.
#[derive(Debug, thiserror::Error)]
#[error("not an event")]
pub struct DecodeError(#[source] serde_json::Error);

impl Event {
    /// What the API calls it, `step_completed` for one.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::TurnAwaited { .. } => "turn_awaited",
            Self::TurnTaken => "turn_taken",
            Self::StepExpanded { .. } => "step_expanded",
            Self::MutexAwaited { .. } => "mutex_awaited",
            Self::MutexTaken { .. } => "mutex_taken",
            Self::StepScheduled { .. } => "step_scheduled",
            Self::StepRetrying { .. } => "step_retrying",
            Self::StepRepeated { .. } => "step_repeated",
            Self::BlockEntered { .. } => "block_entered",
            Self::SignalAwaited { .. } => "signal_awaited",
            Self::SleepStarted { .. } => "sleep_started",
            Self::DecisionOpened { .. } => "decision_opened",
            Self::VotersChosen { .. } => "voters_chosen",
            Self::BallotCast { .. } => "ballot_cast",
            Self::BallotMissed { .. } => "ballot_missed",
            Self::StepCompleted { .. } => "step_completed",
            Self::StepFailed { .. } => "step_failed",
            Self::StepSkipped { .. } => "step_skipped",
            Self::StepCancelled { .. } => "step_cancelled",
            Self::StepWithdrawn { .. } => "step_withdrawn",
            Self::SignalReceived { .. } => "signal_received",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::EndRequested { .. } => "end_requested",
            Self::ScopeFailed { .. } => "scope_failed",
            Self::CompensationStarted { .. } => "compensation_started",
            Self::StepCompensated { .. } => "step_compensated",
            Self::CompensationFailed { .. } => "compensation_failed",
            Self::CompensationResumed => "compensation_resumed",
            Self::Completed { .. } => "completed",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::Continued { .. } => "continued",
            Self::Retried { .. } => "retried",
        }
    }

    /// As the log keeps it.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an event has string keys and finite numbers, so it always prints")
    }

    /// Reads what [`Event::encode`] wrote, in this release or an earlier one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(bytes).map_err(DecodeError)
    }

    /// Is this, as the log keeps it, one that replay may go on from after the first? Takes no time where it is another.
    pub fn begins_a_run(bytes: &[u8]) -> bool {
        bytes.starts_with(b"{\"continued\"") && Self::decode(bytes).is_ok_and(|event| event.is_snapshot())
    }

    /// May replay go on from it after the first?
    pub fn is_snapshot(&self) -> bool {
        matches!(self, Self::Continued { carried: Some(_), .. })
    }

    /// As the API shows it: the fields alone, with steps named by their ids and times written out.
    pub fn to_api_json(&self, plan: &Plan) -> Vec<u8> {
        let fields = match serde_json::to_value(self) {
            Ok(Value::Object(mut variant)) => variant.values_mut().next().map(Value::take),
            _ => None,
        };
        let mut fields = match fields {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        for nested in ["task", "unit"] {
            if let Some(Value::Object(nested)) = fields.remove(nested) {
                fields.extend(nested);
            }
        }
        let id = |step: &Value| {
            let index = usize::try_from(step.as_u64()?).ok()?;
            plan.steps.get(index).map(|step| Value::from(step.id.as_str()))
        };
        for step in ["step", "by"] {
            if let Some(name) = fields.get(step).and_then(id) {
                fields.insert(step.to_owned(), name);
            }
        }
        if let Some(Value::Array(steps)) = fields.get_mut("steps") {
            for step in steps {
                *step = id(step).unwrap_or(Value::Null);
            }
        }
        for name in ["at", "until", "deadline", "begun_at"] {
            if let Some(micros) = fields.get(name).and_then(Value::as_i64) {
                fields.insert(name.to_owned(), Timestamp::from_micros(micros).to_string().into());
            }
        }
        Value::Object(fields).to_string().into_bytes()
    }
}

/// The hash of an entry of a log, over everything before it and itself: a changed, missing or moved entry breaks the chain
/// (I6). The first entry's `previous` is all zeros.
pub fn chain(previous: &[u8; 32], sequence: u64, at: Timestamp, event: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous);
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&at.as_micros().to_le_bytes());
    hasher.update(event);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Definition, Limits, Purpose};

    fn completed(output: Option<Payload>) -> Event {
        let begun_at = Some(Timestamp::from_millis(1));
        Event::StepCompleted { unit: Unit { frame: 0, step: 1, index: Some(4) }, output, agent_id: None, begun_at }
    }

    #[test]
    fn null_is_a_value_and_not_nothing() {
        for output in [None, Some(Payload::null()), Some(Payload::empty_object())] {
            let event = completed(output);
            assert_eq!(Event::decode(&event.encode()).unwrap(), event);
        }
        let failure = Failure { details: Some(Payload::null()), ..Failure::fatal("a", "b") };
        let event = Event::StepFailed {
            unit: Unit { frame: 0, step: 0, index: None },
            failure,
            agent_id: None,
            fallback: Some(Payload::null()),
        };
        assert_eq!(Event::decode(&event.encode()).unwrap(), event);
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        for bytes in [&b""[..], b"{}", b"\"unheard_of\"", br#"{"step_skipped":{}}"#, b"\xff"] {
            assert!(Event::decode(bytes).is_err());
        }
    }

    #[test]
    fn the_api_names_steps_and_writes_times_out() {
        let json = br#"{"name": "w", "steps": [{"id": "a", "agent_type": "x"}, {"id": "b", "agent_type": "x"}]}"#;
        let plan = Definition::parse(json, Limits::default()).unwrap().plan;
        let shown = |event: &Event| serde_json::from_slice::<Value>(&event.to_api_json(&plan)).unwrap();
        let expected =
            json!({ "step": "b", "index": 4, "output": { "step": 0 }, "begun_at": "1970-01-01T00:00:00.001000Z" });
        let output = Payload::from_value(&json!({ "step": 0 }));
        assert_eq!(shown(&completed(Some(output))), expected);
        let unit = Unit { frame: 3, step: 0, index: None };
        let task = TaskKey { unit, purpose: Purpose::Undo, attempt: 2 };
        let scheduled = Event::StepScheduled { task, input: None };
        assert_eq!(shown(&scheduled), json!({ "step": "a", "frame": 3, "purpose": "undo", "attempt": 2 }));
        let retried = Event::Retried { steps: vec![0, 1], deadline: None };
        assert_eq!(shown(&retried), json!({ "steps": ["a", "b"] }));
        assert_eq!(shown(&Event::Paused), json!({}));
    }

    #[test]
    fn the_chain_changes_with_everything_in_it() {
        let first = chain(&[0; 32], 1, Timestamp::EPOCH, b"a");
        let others = [
            chain(&first, 1, Timestamp::EPOCH, b"a"),
            chain(&[0; 32], 2, Timestamp::EPOCH, b"a"),
            chain(&[0; 32], 1, Timestamp::from_micros(1), b"a"),
            chain(&[0; 32], 1, Timestamp::EPOCH, b"b"),
        ];
        assert!(others.iter().all(|other| *other != first));
        assert_eq!(first, chain(&[0; 32], 1, Timestamp::EPOCH, b"a"));
    }
}
