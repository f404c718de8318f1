//! From the record to the broker: many messages are on their way at once, and each is with the broker when it confirms.
//!
//! A message that was not confirmed is published again, so it may be there twice; whoever consumes it sees that. The waves
//! keep the order: what one leaves behind comes first in the next.

use std::{collections::HashSet, sync::Arc, time::Duration};

use domain::Timestamp;
use lapin::{
    BasicProperties, Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{sync::watch, time::timeout};

use super::{
    RabbitMq,
    link::{DEAD_LETTERS, Link, LinkError, queue_of},
    outgoing::Item,
};
use crate::app::{DeadLetter, Envelope, Mailbox};

/// Header: the order of acceptance.
pub(super) const SEQUENCE: &str = "troupe-sequence";
/// Header: the message had died, and was replayed.
pub(super) const REVIVED: &str = "troupe-revived";
/// How much later than at its expiry the broker drops a message: until then whoever fetches it says so.
const GRACE: Duration = Duration::from_mins(1);
/// Pause before what was refused is tried again.
const AFTER_REFUSAL: Duration = Duration::from_millis(250);
/// Pauses between connections.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(3)];

/// Until `over` turns true.
pub(super) async fn run(transport: Arc<RabbitMq>, mut over: watch::Receiver<bool>) {
    let mut pause = PAUSES[0];
    loop {
        // Both arms are cancel-safe: what was not confirmed is still recorded as accepted, and is published by another life.
        let ended = tokio::select! {
            ended = publish(&transport, &mut pause) => ended,
            _ = over.wait_for(|over| *over) => return,
        };
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "messages wait: they cannot be published now");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

async fn publish(transport: &RabbitMq, pause: &mut Duration) -> Result<(), LinkError> {
    let mut link = Link::open(transport, "publishes").await?;
    link.declare_dead_letters().await?;
    link.channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut declared = HashSet::new();
    loop {
        let wave = transport.outgoing.next(transport.settings.publish_window).await;
        let patience = transport.settings.timeout;
        let confirmed = match timeout(patience, send(&mut link, &mut declared, &wave)).await {
            Ok(Ok(confirmed)) => confirmed,
            Ok(Err(error)) => {
                transport.outgoing.put_back(wave);
                return Err(error);
            }
            Err(_) => {
                transport.outgoing.put_back(wave);
                return Err(LinkError::Silent(patience));
            }
        };
        *pause = PAUSES[0];
        if settle(transport, &mut declared, wave, confirmed) {
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
    }
}

/// How the broker took something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirmed {
    Taken,
    /// There is no such queue any more.
    Returned,
    /// There is no room.
    Refused,
}

/// Publishes a wave and waits for the confirmation of all of it, in its order.
async fn send(
    link: &mut Link<'_>,
    declared: &mut HashSet<Mailbox>,
    wave: &[Item],
) -> Result<Vec<Confirmed>, LinkError> {
    let mut confirms = Vec::with_capacity(wave.len());
    for item in wave {
        confirms.push(send_one(link, declared, item).await?);
    }
    let mut confirmed = Vec::with_capacity(wave.len());
    // The library may hand a returned message to another's confirmation, so they are told apart by what is in them.
    let mut returned = HashSet::new();
    for confirm in confirms {
        let confirmation = confirm.await?;
        confirmed.push(if confirmation.is_nack() { Confirmed::Refused } else { Confirmed::Taken });
        if let Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message)) = confirmation {
            returned.extend(sequence_of(&message.delivery.properties));
        }
    }
    for (item, confirmed) in wave.iter().zip(&mut confirmed) {
        if let Item::Message { envelope, .. } = item
            && returned.contains(&envelope.sequence)
        {
            *confirmed = Confirmed::Returned;
        }
    }
    Ok(confirmed)
}

async fn send_one(
    link: &mut Link<'_>,
    declared: &mut HashSet<Mailbox>,
    item: &Item,
) -> Result<PublisherConfirm, LinkError> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key, payload, properties) = match item {
        Item::Message { envelope, is_revived, .. } => {
            let mailbox = envelope.message.mailbox();
            if !declared.contains(&mailbox) {
                link.declare_mailbox(&mailbox).await?;
                declared.insert(mailbox.clone());
            }
            ("", queue_of(&mailbox), &envelope.message.payload, of_message(envelope, *is_revived, link.now()))
        }
        Item::Letter(letter) => (DEAD_LETTERS, letter.kind.as_str().to_owned(), &letter.payload, of_letter(letter)),
    };
    Ok(link.channel.basic_publish(exchange.into(), key.into(), options, payload, properties).await?)
}

/// True where something is to be tried again.
fn settle(transport: &RabbitMq, declared: &mut HashSet<Mailbox>, wave: Vec<Item>, confirmed: Vec<Confirmed>) -> bool {
    let mut again = Vec::new();
    for (item, confirmed) in wave.into_iter().zip(confirmed) {
        match (confirmed, &item) {
            (Confirmed::Taken, Item::Message { envelope, .. }) => {
                transport.queued(envelope);
                transport.outgoing.done(&item);
            }
            (Confirmed::Taken | Confirmed::Returned, Item::Letter(_)) => transport.outgoing.done(&item),
            (Confirmed::Returned, Item::Message { envelope, .. }) => {
                declared.remove(&envelope.message.mailbox());
                again.push(item);
            }
            (Confirmed::Refused, _) => again.extend(transport.outgoing.refused(item)),
        }
    }
    let is_left = !again.is_empty();
    if is_left {
        transport.outgoing.put_back(again);
    }
    is_left
}

/// Where a message stands in the order of acceptance, as its headers say.
pub(super) fn sequence_of(properties: &BasicProperties) -> Option<i64> {
    match properties.headers().as_ref()?.inner().get(SEQUENCE)? {
        AMQPValue::LongLongInt(sequence) => Some(*sequence),
        _ => None,
    }
}

fn headers(pairs: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &impl ToString) -> AMQPValue {
    AMQPValue::LongString(value.to_string().into())
}

fn persistent(at: Timestamp) -> BasicProperties {
    const PERSISTENT: u8 = 2;
    let seconds = at.as_micros().unsigned_abs() / 1_000_000;
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_timestamp(seconds)
}

fn of_message(envelope: &Envelope, is_revived: bool, now: Timestamp) -> BasicProperties {
    let message = &envelope.message;
    let headers = headers([
        (SEQUENCE, AMQPValue::LongLongInt(envelope.sequence)),
        (REVIVED, AMQPValue::Boolean(is_revived)),
        ("troupe-namespace", text(&message.namespace)),
        ("troupe-agent", text(&message.agent)),
        ("troupe-sender", text(&message.sender.map(|sender| sender.to_string()).unwrap_or_default())),
        ("traceparent", text(&message.traceparent)),
    ]);
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
    if let Some(at) = message.expires_at {
        let left = at.since(now) + GRACE;
        properties = properties.with_expiration(left.as_millis().to_string().into());
    }
    properties
}

fn of_letter(letter: &DeadLetter) -> BasicProperties {
    let headers = headers([
        ("troupe-dead-letter", text(&letter.id)),
        ("troupe-reason", text(&letter.reason)),
        ("troupe-detail", text(&letter.detail)),
        ("troupe-deliveries", AMQPValue::LongLongInt(letter.deliveries.into())),
        ("troupe-target", text(&letter.target)),
        ("troupe-namespace", text(&letter.namespace)),
    ]);
    let properties = persistent(letter.created_at).with_headers(headers);
    match ShortString::try_new(letter.subject_id.as_str()) {
        Ok(id) => properties.with_message_id(id),
        Err(_) => properties,
    }
}
