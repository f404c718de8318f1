//! Rows as values, and back.

use std::{fmt::Write as _, str::FromStr};

use bytes::Bytes;
use domain::{AgentId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::{HistoryEvent, Record};
use crate::app::{DeadLetter, Envelope, Kind, Message, Status};

/// A line of `messages.history`.
#[derive(Serialize, Deserialize)]
struct Line {
    status: String,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
}

pub(super) fn history_lines(events: &[HistoryEvent]) -> String {
    let mut lines = String::new();
    for event in events {
        let line = Line { status: event.status.as_str().to_owned(), at: event.at, detail: event.detail.clone() };
        // Texts and a number always print as JSON, and writing to a text never fails.
        if let Ok(line) = serde_json::to_string(&line) {
            let _ = writeln!(lines, "{line}");
        }
    }
    lines
}

fn faulty(source: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(source))
}

#[derive(Debug, thiserror::Error)]
#[error("unknown word {0:?} in the database")]
struct UnknownWord(String);

fn status(text: &str) -> sqlx::Result<Status> {
    let found = Status::ALL.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| faulty(UnknownWord(text.to_owned())))
}

fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> sqlx::Result<T> {
    text.parse().map_err(faulty)
}

fn optional_agent(text: &str) -> sqlx::Result<Option<AgentId>> {
    if text.is_empty() { Ok(None) } else { parsed(text).map(Some) }
}

fn moment(row: &SqliteRow, column: &str) -> sqlx::Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_micros))
}

/// The columns that [`envelope`] reads.
pub(super) const ENVELOPE: &str = "sequence, namespace, id, agent_id, sender, kind, payload, correlation_id, reply_to, \
                                   priority, traceparent, created_at, expires_at, deliveries";

pub(super) fn envelope(row: &SqliteRow) -> sqlx::Result<(Envelope, u32)> {
    let message = Message {
        id: parsed(row.try_get("id")?)?,
        namespace: parsed(row.try_get("namespace")?)?,
        sender: optional_agent(row.try_get("sender")?)?,
        agent: parsed(row.try_get("agent_id")?)?,
        kind: row.try_get("kind")?,
        payload: Bytes::from(row.try_get::<Vec<u8>, _>("payload")?),
        correlation_id: row.try_get("correlation_id")?,
        reply_to: optional_agent(row.try_get("reply_to")?)?,
        priority: row.try_get("priority")?,
        expires_at: moment(row, "expires_at")?,
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        traceparent: row.try_get("traceparent")?,
    };
    Ok((Envelope { sequence: row.try_get("sequence")?, message }, row.try_get("deliveries")?))
}

/// The columns that [`record`] reads besides those of an envelope.
pub(super) const RECORD: &str = "status, delivered_at, acked_at, history";

pub(super) fn record(row: &SqliteRow) -> sqlx::Result<Record> {
    let (Envelope { sequence, message }, deliveries) = envelope(row)?;
    let accepted = HistoryEvent { status: Status::Accepted, at: message.created_at, detail: String::new() };
    let mut history = vec![accepted];
    for line in row.try_get::<&str, _>("history")?.lines() {
        let line: Line = serde_json::from_str(line).map_err(faulty)?;
        history.push(HistoryEvent { status: status(&line.status)?, at: line.at, detail: line.detail });
    }
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
    let kind: &str = row.try_get("kind")?;
    Ok(DeadLetter {
        id: parsed(row.try_get("id")?)?,
        namespace: parsed(row.try_get("namespace")?)?,
        kind: Kind::ALL
            .into_iter()
            .find(|one| one.as_str() == kind)
            .ok_or_else(|| faulty(UnknownWord(kind.to_owned())))?,
        subject_id: row.try_get("subject_id")?,
        target: row.try_get("target")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        deliveries: row.try_get("deliveries")?,
        payload: Bytes::from(row.try_get::<Vec<u8>, _>("payload")?),
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        replayed_at: moment(row, "replayed_at")?,
    })
}
