//! Rows as values.

use bytes::Bytes;
use domain::Timestamp;
use sqlx::{Row as _, sqlite::SqliteRow};

use crate::{
    app::{DeadLetter, Envelope, Message, Status, awaited_by},
    store::{
        Record,
        rows::{history, kind, optional_agent, parsed, status, task},
    },
};

fn moment(row: &SqliteRow, column: &str) -> sqlx::Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_micros))
}

/// The columns that [`envelope`] reads.
pub(super) const ENVELOPE: &str = "sequence, namespace, id, agent_id, sender, kind, payload, correlation_id, reply_to, \
                                   priority, traceparent, created_at, expires_at, deliveries";

pub(super) fn envelope(row: &SqliteRow) -> sqlx::Result<(Envelope, u32)> {
    let (kind, correlation_id): (String, String) = (row.try_get("kind")?, row.try_get("correlation_id")?);
    let message = Message {
        id: parsed(row.try_get("id")?)?,
        namespace: parsed(row.try_get("namespace")?)?,
        sender: optional_agent(row.try_get("sender")?)?,
        agent: parsed(row.try_get("agent_id")?)?,
        instance: awaited_by(&kind, &correlation_id),
        kind,
        payload: Bytes::from(row.try_get::<Vec<u8>, _>("payload")?),
        correlation_id,
        reply_to: optional_agent(row.try_get("reply_to")?)?,
        priority: row.try_get("priority")?,
        expires_at: moment(row, "expires_at")?,
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        traceparent: row.try_get("traceparent")?,
    };
    Ok((Envelope { sequence: row.try_get("sequence")?, message }, row.try_get("deliveries")?))
}

/// Besides those of an envelope, `revived_at`.
pub(super) fn relayed(row: &SqliteRow) -> sqlx::Result<(Envelope, Option<Timestamp>)> {
    Ok((envelope(row)?.0, moment(row, "revived_at")?))
}

/// Besides those of an envelope, `status`.
pub(super) fn found(row: &SqliteRow) -> sqlx::Result<(Envelope, u32, Status)> {
    let (envelope, deliveries) = envelope(row)?;
    Ok((envelope, deliveries, status(row.try_get("status")?)?))
}

/// The columns that [`record`] reads besides those of an envelope.
pub(super) const RECORD: &str = "status, delivered_at, acked_at, history";

pub(super) fn record(row: &SqliteRow) -> sqlx::Result<Record> {
    let (Envelope { sequence, message }, deliveries) = envelope(row)?;
    let history = history(message.created_at, row.try_get("history")?)?;
    Ok(Record {
        sequence,
        message,
        status: status(row.try_get("status")?)?,
        deliveries,
        delivered_at: moment(row, "delivered_at")?,
        acked_at: moment(row, "acked_at")?,
        history,
    })
}

pub(super) fn letter(row: &SqliteRow) -> sqlx::Result<DeadLetter> {
    Ok(DeadLetter {
        id: parsed(row.try_get("id")?)?,
        namespace: parsed(row.try_get("namespace")?)?,
        kind: kind(row.try_get("kind")?)?,
        subject_id: row.try_get("subject_id")?,
        target: row.try_get("target")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        deliveries: row.try_get("deliveries")?,
        payload: Bytes::from(row.try_get::<Vec<u8>, _>("payload")?),
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        replayed_at: moment(row, "replayed_at")?,
        task: task(row.try_get("task")?)?,
    })
}
