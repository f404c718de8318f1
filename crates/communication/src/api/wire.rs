//! Between the contract's types and ours.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
};

use bytes::Bytes;
use contracts::communication::v1 as proto;
use domain::{AgentId, InstanceId, MessageId, Namespace, Timestamp};

use crate::{
    app::{Draft, MAX_PRIORITY, Message, Outcome, Served, Status, Target, Task, ToAgent, Update, What},
    error::CommunicationError,
    spans,
    store::{HistoryEvent, Record},
};

/// Where a request says nothing.
const DEFAULT_PRIORITY: u8 = 5;
/// The longest text of an id or kind that a peer chooses, in bytes.
pub(super) const MAX_TEXT: usize = 1_024;
/// The longest W3C trace context; a longer one is none.
const MAX_TRACEPARENT: usize = 256;

/// Where a field is in a request; becomes a text only where it is faulty.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    /// The event's place in its batch; absent where the request is no batch.
    pub(super) event: Option<usize>,
    pub(super) parent: &'a str,
    /// Empty: the parent itself.
    pub(super) name: &'a str,
}

impl<'a> At<'a> {
    /// A part of the request.
    pub(super) const fn part(parent: &'a str) -> Self {
        Self { event: None, parent, name: "" }
    }

    /// A part of an event.
    pub(super) const fn event(event: usize, parent: &'a str) -> Self {
        Self { event: Some(event), parent, name: "" }
    }

    /// A field of it.
    pub(super) const fn field(self, name: &'a str) -> Self {
        Self { name, ..self }
    }
}

impl Display for At<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(event) = self.event {
            write!(formatter, "events[{event}].")?;
        }
        formatter.write_str(self.parent)?;
        if self.name.is_empty() { Ok(()) } else { write!(formatter, ".{}", self.name) }
    }
}

type Faulty<T> = Result<T, CommunicationError>;

pub(super) fn missing(field: impl Display) -> CommunicationError {
    CommunicationError::field(field, "missing_field", "must be there")
}

/// Whoever it is asked for has to reach there.
pub(super) fn namespace(at: impl Display, field: &str) -> Faulty<Namespace> {
    let namespace = Namespace::from_field(field);
    let namespace = namespace.map_err(|error| CommunicationError::field(at, "invalid_name", error))?;
    access::fence(&namespace).map_err(|error| CommunicationError::Forbidden(Box::new(error)))?;
    Ok(namespace)
}

pub(super) fn agent_id(at: impl Display, field: &str) -> Faulty<AgentId> {
    field.parse().map_err(|error| CommunicationError::field(at, "invalid_id", error))
}

/// Absent where empty.
pub(super) fn optional_agent_id(at: impl Display, field: &str) -> Faulty<Option<AgentId>> {
    if field.is_empty() { Ok(None) } else { agent_id(at, field).map(Some) }
}

/// Absent where empty.
pub(super) fn optional_instance_id(at: impl Display, field: &str) -> Faulty<Option<InstanceId>> {
    let fault = |error| CommunicationError::field(at, "invalid_id", error);
    if field.is_empty() { Ok(None) } else { field.parse().map(Some).map_err(fault) }
}

fn message_id(at: impl Display, field: &str) -> Faulty<MessageId> {
    field.parse().map_err(|error| CommunicationError::field(at, "invalid_id", error))
}

fn name(at: impl Display, field: &str) -> Faulty<()> {
    domain::check_name(field).map_err(|error| CommunicationError::field(at, "invalid_name", error))
}

/// A text that must be there and has a bound.
pub(super) fn text(at: impl Display, field: &str) -> Faulty<()> {
    match field.len() {
        0 => Err(missing(at)),
        // PostgreSQL keeps no NUL in a text, and nobody means one.
        1..=MAX_TEXT if field.contains('\0') => {
            Err(CommunicationError::field(at, "invalid_value", "must not contain the character NUL"))
        }
        1..=MAX_TEXT => Ok(()),
        _ => Err(CommunicationError::field(at, "too_large", format!("is longer than {MAX_TEXT} bytes"))),
    }
}

fn priority(at: impl Display, field: Option<u32>, absent: u8) -> Faulty<u8> {
    match field.map(u8::try_from) {
        None => Ok(absent),
        Some(Ok(priority)) if priority <= MAX_PRIORITY => Ok(priority),
        Some(_) => Err(CommunicationError::field(at, "out_of_range", format!("must be from 0 to {MAX_PRIORITY}"))),
    }
}

/// Of the years 1 to 9999, as the wire has it; not every database knows others.
fn moment(at: impl Display, field: prost_types::Timestamp) -> Faulty<Timestamp> {
    const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    if !SECONDS.contains(&field.seconds) {
        return Err(CommunicationError::field(at, "out_of_range", "must be of the years 1 to 9999"));
    }
    Timestamp::from_seconds_and_nanos(field.seconds, field.nanos.clamp(0, 999_999_999))
        .map_err(|error| CommunicationError::field(at, "out_of_range", error))
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = at.to_seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
}

/// Reads a message that somebody wants to send; `at` is where it is in the request.
pub(super) fn draft(at: At<'_>, message: proto::Message) -> Faulty<Draft> {
    use proto::message::Recipient;
    let field = |name| at.field(name);
    // First: who may not come in hears nothing else.
    let namespace = namespace(field("namespace"), &message.namespace)?;
    let to = match message.recipient.ok_or_else(|| missing(field("recipient")))? {
        Recipient::AgentId(id) => Target::Agent(agent_id(field("agent_id"), &id)?),
        Recipient::Capability(found) => {
            name(field("capability"), &found)?;
            Target::Capability(found.into())
        }
        Recipient::AgentType(found) => {
            name(field("agent_type"), &found)?;
            Target::AgentType(found.into())
        }
    };
    for (name, value) in [("type", &message.r#type), ("correlation_id", &message.correlation_id)] {
        if !value.is_empty() {
            text(field(name), value)?;
        }
    }
    let id = if message.id.is_empty() { None } else { Some(message_id(field("id"), &message.id)?) };
    Ok(Draft {
        id,
        namespace,
        sender: optional_agent_id(field("sender"), &message.sender)?,
        to,
        kind: message.r#type,
        payload: payload(field("payload"), message.payload)?,
        correlation_id: message.correlation_id,
        reply_to: optional_agent_id(field("reply_to"), &message.reply_to)?,
        priority: priority(field("priority"), message.priority, DEFAULT_PRIORITY)?,
        expires_at: message.expires_at.map(|at| moment(field("expires_at"), at)).transpose()?,
        traceparent: traceparent(message.traceparent),
    })
}

/// A trace context; one that is too long or cannot be recorded is none, and no reason to refuse anything.
pub(super) fn traceparent(text: String) -> String {
    if text.len() <= MAX_TRACEPARENT && !text.contains('\0') { text } else { String::new() }
}

/// A JSON value, kept as it is; none at all is the JSON value for that.
pub(super) fn payload(at: impl Display, field: Bytes) -> Faulty<Bytes> {
    if field.is_empty() {
        return Ok(Bytes::from_static(b"null"));
    }
    match domain::Payload::from_slice(&field) {
        Ok(_) => Ok(field),
        Err(error) => Err(CommunicationError::field(at, "invalid_json", error)),
    }
}

/// A reason for people: its beginning, where it is long.
pub(super) fn reason(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].replace('\0', "")
}

fn agent_text(id: Option<AgentId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

pub(super) fn message(message: &Message) -> proto::Message {
    proto::Message {
        id: message.id.to_string(),
        namespace: message.namespace.to_string(),
        sender: agent_text(message.sender),
        recipient: Some(proto::message::Recipient::AgentId(message.agent.to_string())),
        r#type: message.kind.clone(),
        payload: message.payload.clone(),
        correlation_id: message.correlation_id.clone(),
        reply_to: agent_text(message.reply_to),
        priority: Some(u32::from(message.priority)),
        expires_at: message.expires_at.map(timestamp),
        created_at: Some(timestamp(message.created_at)),
        traceparent: message.traceparent.clone(),
    }
}

pub(super) const fn status(status: Status) -> proto::MessageStatus {
    match status {
        Status::Accepted => proto::MessageStatus::Accepted,
        Status::Queued => proto::MessageStatus::Queued,
        Status::Delivered => proto::MessageStatus::Delivered,
        Status::Acked => proto::MessageStatus::Acked,
        Status::Dead => proto::MessageStatus::Dead,
    }
}

/// Absent: any.
pub(super) fn wanted_status(field: i32) -> Faulty<Option<Status>> {
    match proto::MessageStatus::try_from(field) {
        Ok(proto::MessageStatus::Unspecified) => Ok(None),
        Ok(wanted) => Ok(Status::ALL.into_iter().find(|one| status(*one) == wanted)),
        Err(_) => Err(CommunicationError::field("status", "unknown_value", "is no status of a message")),
    }
}

pub(super) fn record(record: Record) -> proto::MessageRecord {
    let event = |event: HistoryEvent| proto::MessageEvent {
        status: status(event.status).into(),
        at: Some(timestamp(event.at)),
        detail: event.detail,
    };
    proto::MessageRecord {
        message: Some(message(&record.message)),
        status: status(record.status).into(),
        deliveries: record.deliveries,
        delivered_at: record.delivered_at.map(timestamp),
        acked_at: record.acked_at.map(timestamp),
        history: record.history.into_iter().map(event).collect(),
    }
}

/// Reads a task that is dispatched; `at` is where it is in the request.
pub(super) fn task(at: At<'_>, task: proto::Task, epoch: i64) -> Faulty<Task> {
    use proto::task::Target as Wire;
    let field = |name| at.field(name);
    text(field("id"), &task.id)?;
    let target = match task.target.ok_or_else(|| missing(field("target")))? {
        Wire::AgentType(found) => {
            name(field("agent_type"), &found)?;
            Target::AgentType(found.into())
        }
        Wire::Capability(found) => {
            name(field("capability"), &found)?;
            Target::Capability(found.into())
        }
        Wire::AgentId(id) => Target::Agent(agent_id(field("agent_id"), &id)?),
    };
    Ok(Task {
        id: task.id.into(),
        namespace: namespace(field("namespace"), &task.namespace)?,
        execution_id: task.execution_id,
        step_id: task.step_id,
        index: task.index,
        attempt: task.attempt,
        target,
        action: task.action,
        input: task.input,
        priority: priority(field("priority"), Some(task.priority), 0)?,
        timeout_ms: task.timeout_ms,
        heartbeat_timeout_ms: task.heartbeat_timeout_ms,
        traceparent: traceparent(task.traceparent),
        epoch,
    })
}

fn task_out(task: &Task, traceparent: String) -> proto::Task {
    proto::Task {
        id: task.id.to_string(),
        namespace: task.namespace.to_string(),
        execution_id: task.execution_id.clone(),
        step_id: task.step_id.clone(),
        index: task.index,
        attempt: task.attempt,
        target: Some(match &task.target {
            Target::AgentType(name) => proto::task::Target::AgentType(name.to_string()),
            Target::Capability(name) => proto::task::Target::Capability(name.to_string()),
            Target::Agent(id) => proto::task::Target::AgentId(id.to_string()),
        }),
        action: task.action.clone(),
        input: task.input.clone(),
        priority: u32::from(task.priority),
        timeout_ms: task.timeout_ms,
        heartbeat_timeout_ms: task.heartbeat_timeout_ms,
        traceparent,
    }
}

/// Reads how a task ended; `at` is where that is in the request.
pub(super) fn outcome(at: At<'_>, outcome: Option<proto::task_result::Outcome>) -> Faulty<Outcome> {
    match outcome.ok_or_else(|| missing(at.field("outcome")))? {
        proto::task_result::Outcome::Output(output) => Ok(Outcome::Output(output)),
        proto::task_result::Outcome::Failure(failure) => {
            text(at.field("failure.code"), &failure.code)?;
            let proto::TaskFailure { code, message, retryable, details } = failure;
            Ok(Outcome::Failure { code, message, retryable, details })
        }
    }
}

fn result(task_id: String, outcome: Outcome, traceparent: String) -> proto::TaskResult {
    let outcome = match outcome {
        Outcome::Output(output) => proto::task_result::Outcome::Output(output),
        Outcome::Failure { code, message, retryable, details } => {
            proto::task_result::Outcome::Failure(proto::TaskFailure { code, message, retryable, details })
        }
    };
    proto::TaskResult { task_id, outcome: Some(outcome), traceparent }
}

pub(super) fn update(update: Update) -> proto::TaskUpdate {
    use proto::task_update::Update as Wire;
    let task_id = update.task.to_string();
    let what = match update.what {
        What::Waiting => Wire::Waiting(proto::TaskWaiting {}),
        What::Enqueued => Wire::Enqueued(proto::TaskEnqueued {}),
        What::HandedOver { session, delivery } => {
            Wire::HandedOver(proto::TaskHandedOver { session_id: session.to_string(), delivery })
        }
        What::Begun => Wire::Begun(proto::TaskBegun {}),
        What::Alive => Wire::Alive(proto::TaskAlive {}),
        What::Shown(detail) => Wire::Shown(proto::TaskShown { detail }),
        What::Ended(outcome) => Wire::Result(result(task_id.clone(), outcome, update.traceparent)),
        What::DeadLettered { letter, reason } => Wire::DeadLettered(proto::TaskDeadLettered {
            dead_letter_id: letter.to_string(),
            reason: reason.to_owned(),
        }),
        What::Refused(reason) => Wire::Refused(proto::TaskRefused { reason }),
        What::Requeued(reason) => Wire::Requeued(proto::TaskRequeued { reason }),
        What::Unknown => Wire::Unknown(proto::TaskUnknown {}),
    };
    proto::TaskUpdate {
        task_id,
        agent_id: agent_text(update.agent),
        namespace: update.namespace.map(|namespace| namespace.to_string()).unwrap_or_default(),
        update: Some(what),
    }
}

pub(super) fn serving(served: Served) -> proto::Serving {
    proto::Serving {
        namespace: served.namespace.to_string(),
        target: Some(match served.target {
            Target::AgentType(name) => proto::serving::Target::AgentType(name.to_string()),
            Target::Capability(name) => proto::serving::Target::Capability(name.to_string()),
            Target::Agent(id) => proto::serving::Target::AgentId(id.to_string()),
        }),
        capacity: served.capacity,
    }
}

/// What a session is told; a welcome needs the two durations, in milliseconds.
pub(super) fn server_event(event: ToAgent, heartbeat_ms: u32, lease_ms: u32) -> proto::ServerEvent {
    use proto::server_event::Event;
    let event = match event {
        ToAgent::Welcome(welcome) => Event::Welcome(proto::Welcome {
            session_id: welcome.session.to_string(),
            agent_id: welcome.agent.to_string(),
            credits: welcome.credits,
            heartbeat_interval_ms: heartbeat_ms,
            lease_ms,
            config: welcome.config,
        }),
        ToAgent::Task { task, delivery } => {
            let traceparent = spans::delivered(&task, delivery);
            Event::Task(proto::TaskDelivery { task: Some(task_out(&task, traceparent)), delivery })
        }
        ToAgent::Message { envelope, delivery } => {
            let traceparent = spans::message_delivered(&envelope, delivery);
            let message = proto::Message { traceparent, ..message(&envelope.message) };
            Event::Message(proto::MessageDelivery { message: Some(message), delivery })
        }
        ToAgent::Cancel { task, reason } => Event::Cancel(proto::CancelTask { task_id: task.to_string(), reason }),
        ToAgent::ResultAck(task) => Event::ResultAck(proto::ResultAck { task_id: task.to_string() }),
        ToAgent::Receipt { reference, outcome } => {
            let (message_id, error) = match outcome {
                Ok(id) => (id.to_string(), String::new()),
                Err(error) => (String::new(), error),
            };
            Event::Receipt(proto::Receipt { r#ref: reference, message_id, error })
        }
        ToAgent::Drain(reason) => Event::Drain(proto::Drain { reason: reason.to_owned() }),
    };
    proto::ServerEvent { event: Some(event) }
}
