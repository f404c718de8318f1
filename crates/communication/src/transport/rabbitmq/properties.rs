//! What goes along with a message, a task or a dead letter, and how it is read again. Nothing here reads payloads.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use domain::{AgentId, Timestamp};
use lapin::{
    BasicProperties,
    message::Delivery as Arrival,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{held::Life, outgoing::Original};
use crate::{
    app::{DeadLetter, Envelope, MAX_PRIORITY, QueueKey, Target, Task},
    transport::Parcel,
};

/// Header: the order of acceptance of a message.
const SEQUENCE: &str = "troupe-sequence";
/// Header: the message had died, and was replayed.
const REVIVED: &str = "troupe-revived";
/// Header: when it was replayed last, in microseconds.
const REVIVED_AT: &str = "troupe-revived-at";
/// Header: the id of a task.
const TASK: &str = "troupe-task";
/// Header: how often a task came back to the broker before it was published again.
const REDELIVERIES: &str = "troupe-redeliveries";
/// Header: the namespace of a message, task or queue.
const NAMESPACE: &str = "troupe-namespace";
/// Headers: whom a task or queue is for.
const TARGET_KIND: &str = "troupe-target-kind";
const TARGET: &str = "troupe-target";
/// Header: tasks that a replica has agents for.
const CREDIT: &str = "troupe-credit";
/// Header: when a task was dispatched, in microseconds.
const SINCE: &str = "troupe-since";
/// How much later than at its expiry the broker drops a message: until then whoever fetches it says so.
const GRACE: Duration = Duration::from_mins(1);

/// What a message or task in the broker is told by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    Message(i64),
    Task(String),
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(value) => Some((*value).into()),
        AMQPValue::ShortShortUInt(value) => Some((*value).into()),
        AMQPValue::ShortInt(value) => Some((*value).into()),
        AMQPValue::ShortUInt(value) => Some((*value).into()),
        AMQPValue::LongInt(value) => Some((*value).into()),
        AMQPValue::LongUInt(value) => Some((*value).into()),
        AMQPValue::LongLongInt(value) => Some(*value),
        _ => None,
    }
}

fn number<T: TryFrom<i64>>(properties: &BasicProperties, name: &str) -> Option<T> {
    T::try_from(integer(header(properties, name)?)?).ok()
}

fn word<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a str> {
    match header(properties, name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

/// Where a message stands in the order of acceptance.
pub(super) fn sequence_of(properties: &BasicProperties) -> Option<i64> {
    number(properties, SEQUENCE)
}

/// Which life of a message it is of.
pub(super) fn life_of(properties: &BasicProperties) -> Life {
    match number(properties, REVIVED_AT) {
        Some(at) => Some(Timestamp::from_micros(at)),
        // Of a release that did not say when.
        None if matches!(header(properties, REVIVED), Some(AMQPValue::Boolean(true))) => {
            Some(Timestamp::from_micros(i64::MAX))
        }
        None => None,
    }
}

/// Which message or task it is.
pub(super) fn identity_of(properties: &BasicProperties) -> Option<Identity> {
    let task = || word(properties, TASK).map(|id| Identity::Task(id.to_owned()));
    sequence_of(properties).map(Identity::Message).or_else(task)
}

fn text(value: &impl ToString) -> AMQPValue {
    AMQPValue::LongString(value.to_string().into())
}

fn count(value: impl Into<i64>) -> AMQPValue {
    AMQPValue::LongLongInt(value.into())
}

fn table(pairs: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), value);
    }
    table
}

fn persistent(at: Timestamp) -> BasicProperties {
    const PERSISTENT: u8 = 2;
    let seconds = at.as_micros().unsigned_abs() / 1_000_000;
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_timestamp(seconds)
}

/// Of a message.
pub(super) fn of_message(envelope: &Envelope, life: Life, now: Timestamp) -> BasicProperties {
    let properties = described(envelope, life);
    let Some(at) = envelope.message.expires_at else { return properties };
    let left = at.since(now) + GRACE;
    properties.with_expiration(left.as_millis().to_string().into())
}

/// The same without its expiry.
fn described(envelope: &Envelope, life: Life) -> BasicProperties {
    let message = &envelope.message;
    let mut headers = table([
        (SEQUENCE, count(envelope.sequence)),
        (REVIVED, AMQPValue::Boolean(life.is_some())),
        (NAMESPACE, text(&message.namespace)),
        ("troupe-agent", text(&message.agent)),
        ("troupe-sender", text(&message.sender.map(|sender| sender.to_string()).unwrap_or_default())),
        ("traceparent", text(&message.traceparent)),
    ]);
    if let Some(revived_at) = life {
        headers.insert(REVIVED_AT.into(), count(revived_at.as_micros()));
    }
    let mut properties = persistent(message.created_at)
        .with_headers(headers)
        .with_message_id(message.id.to_string().into())
        .with_priority(message.priority);
    // Short strings have an end; the record has all of it.
    if let Ok(kind) = ShortString::try_new(message.kind.as_str()) {
        properties = properties.with_type(kind);
    }
    if let Ok(correlation) = ShortString::try_new(message.correlation_id.as_str()) {
        properties = properties.with_correlation_id(correlation);
    }
    if let Some(agent) = message.reply_to {
        properties = properties.with_reply_to(agent.to_string().into());
    }
    properties
}

/// The headers of a target.
fn of_target(target: &Target) -> [(&'static str, AMQPValue); 2] {
    let (kind, target) = match target {
        Target::AgentType(name) => ("type", name.to_string()),
        Target::Capability(name) => ("capability", name.to_string()),
        Target::Agent(id) => ("agent", id.to_string()),
    };
    [(TARGET_KIND, text(&kind)), (TARGET, text(&target))]
}

fn target_of(properties: &BasicProperties) -> Option<Target> {
    let target = word(properties, TARGET)?;
    match word(properties, TARGET_KIND)? {
        "type" => Some(Target::AgentType(target.into())),
        "capability" => Some(Target::Capability(target.into())),
        "agent" => Some(Target::Agent(target.parse::<AgentId>().ok()?)),
        _ => None,
    }
}

/// Of the question who has agents for a queue.
pub(super) fn of_question(key: &QueueKey, asker: &ShortString) -> BasicProperties {
    of_queue(key, None).with_reply_to(asker.clone())
}

/// Of the answer to it.
pub(super) fn of_answer(key: &QueueKey, credit: u32) -> BasicProperties {
    of_queue(key, Some((CREDIT, count(credit))))
}

fn of_queue(key: &QueueKey, more: Option<(&'static str, AMQPValue)>) -> BasicProperties {
    let namespace = (NAMESPACE, text(&key.namespace));
    let headers = table(of_target(&key.target).into_iter().chain([namespace]).chain(more));
    // Later nobody wants to know.
    BasicProperties::default().with_headers(headers).with_expiration("1000".into())
}

/// The queue that a question or an answer is about.
pub(super) fn queue_of(properties: &BasicProperties) -> Option<QueueKey> {
    Some(QueueKey { namespace: word(properties, NAMESPACE)?.parse().ok()?, target: target_of(properties)? })
}

/// How many tasks an answer offers to take.
pub(super) fn credit_of(properties: &BasicProperties) -> u32 {
    number(properties, CREDIT).unwrap_or_default()
}

/// Of a task: all but its input.
pub(super) fn of_parcel(parcel: &Parcel, now: Timestamp) -> BasicProperties {
    let Parcel { task, replica, epoch, deliveries, redeliveries, since } = parcel;
    let [kind, target] = of_target(&task.target);
    let mut headers = table([
        (TASK, text(&task.id)),
        (NAMESPACE, text(&task.namespace)),
        ("troupe-execution", text(&task.execution_id)),
        ("troupe-step", text(&task.step_id)),
        ("troupe-attempt", count(task.attempt)),
        kind,
        target,
        ("troupe-action", text(&task.action)),
        ("troupe-timeout-ms", text(&task.timeout_ms)),
        ("troupe-heartbeat-timeout-ms", text(&task.heartbeat_timeout_ms)),
        ("traceparent", text(&task.traceparent)),
        ("troupe-orchestrator", text(replica)),
        ("troupe-epoch", count(*epoch)),
        ("troupe-deliveries", count(*deliveries)),
        (REDELIVERIES, count(*redeliveries)),
        (SINCE, count(since.as_micros())),
    ]);
    if let Some(index) = task.index {
        headers.insert("troupe-index".into(), count(index));
    }
    persistent(now).with_headers(headers).with_priority(task.priority)
}

/// A task that was delivered; none where it is not one of ours.
pub(super) fn parcel_of(arrival: &mut Arrival) -> Option<Parcel> {
    let properties = &arrival.properties;
    let word = |name| word(properties, name);
    let target = target_of(properties)?;
    let epoch = number(properties, "troupe-epoch")?;
    let deliveries = number(properties, "troupe-deliveries")?;
    let before: u32 = number(properties, REDELIVERIES).unwrap_or_default();
    // A quorum queue counts; a classic one says only that it was not the first time.
    let again = number(properties, "x-delivery-count").unwrap_or_else(|| u32::from(arrival.redelivered));
    let published = || properties.timestamp().unwrap_or_default().saturating_mul(1_000_000);
    let since = number(properties, SINCE).unwrap_or_else(|| i64::try_from(published()).unwrap_or(i64::MAX));
    let since = Timestamp::from_micros(since);
    let replica = word("troupe-orchestrator")?.into();
    let task = Task {
        id: word(TASK)?.into(),
        namespace: word(NAMESPACE)?.parse().ok()?,
        execution_id: word("troupe-execution")?.to_owned(),
        step_id: word("troupe-step")?.to_owned(),
        index: number(properties, "troupe-index"),
        attempt: number(properties, "troupe-attempt")?,
        target,
        action: word("troupe-action")?.to_owned(),
        input: Bytes::from(std::mem::take(&mut arrival.data)),
        priority: properties.priority().unwrap_or_default().min(MAX_PRIORITY),
        timeout_ms: word("troupe-timeout-ms")?.parse().ok()?,
        heartbeat_timeout_ms: word("troupe-heartbeat-timeout-ms")?.parse().ok()?,
        traceparent: word("traceparent")?.to_owned(),
        epoch,
    };
    let redeliveries = before.saturating_add(again);
    Some(Parcel { task: Arc::new(task), replica, epoch, deliveries, redeliveries, since })
}

/// Of the copy of a dead letter: what the original had, where it was, and why it died.
pub(super) fn of_letter(letter: &DeadLetter, original: &Original, queue: &str) -> BasicProperties {
    let properties = match original {
        // Nothing expires twice.
        Original::Message(envelope) => described(envelope, None),
        Original::Task(task) => {
            let parcel = Parcel {
                task: Arc::clone(task),
                replica: "".into(),
                epoch: task.epoch,
                deliveries: letter.deliveries,
                redeliveries: 0,
                since: letter.created_at,
            };
            of_parcel(&parcel, letter.created_at)
        }
    };
    let mut headers = properties.headers().clone().unwrap_or_default();
    for (name, value) in [
        ("troupe-dead-letter", text(&letter.id)),
        ("troupe-reason", text(&letter.reason)),
        ("troupe-detail", text(&letter.detail)),
        ("troupe-deliveries", count(letter.deliveries)),
        ("troupe-queue", text(&queue)),
    ] {
        headers.insert(name.into(), value);
    }
    properties.with_headers(headers)
}
