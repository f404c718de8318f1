//! Rows read.

use contracts::communication::v1 as proto;
use domain::Timestamp;
use prost::Message as _;
use sqlx::{Row as _, sqlite::SqliteRow};

use crate::app::record::{DeadLetter, Kind, Letter, MessageRow, Status, Transition};

#[derive(Debug, thiserror::Error)]
#[error("the column {0} holds what no release wrote")]
struct Foreign(&'static str);

fn faulty(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

fn status(row: &SqliteRow) -> sqlx::Result<Status> {
    Status::from_text(row.try_get("status")?).ok_or_else(|| faulty(Foreign("status")))
}

fn body(row: &SqliteRow) -> sqlx::Result<proto::Message> {
    // One buffer for the row: the payload inside shares it.
    let body = bytes::Bytes::from(row.try_get::<Vec<u8>, _>("body")?);
    proto::Message::decode(body).map_err(faulty)
}

fn time(row: &SqliteRow, column: &str) -> sqlx::Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_micros))
}

pub(super) fn message(row: &SqliteRow) -> sqlx::Result<MessageRow> {
    Ok(MessageRow {
        sequence: row.try_get("sequence")?,
        message: body(row)?,
        status: status(row)?,
        deliveries: row.try_get("deliveries")?,
        delivered_at: time(row, "delivered_at")?,
        acked_at: time(row, "acked_at")?,
    })
}

pub(super) fn letter(row: &SqliteRow) -> sqlx::Result<(i64, Letter, u32)> {
    let letter = Letter {
        id: row.try_get::<&str, _>("id")?.into(),
        agent_id: row.try_get::<&str, _>("agent_id")?.into(),
        expires_at: time(row, "expires_at")?,
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        message: body(row)?,
    };
    Ok((row.try_get("sequence")?, letter, row.try_get("deliveries")?))
}

pub(super) fn transition(row: &SqliteRow) -> sqlx::Result<Transition> {
    Ok(Transition {
        message_id: row.try_get::<&str, _>("message_id")?.into(),
        status: status(row)?,
        deliveries: 0,
        at: Timestamp::from_micros(row.try_get("at")?),
        detail: row.try_get("detail")?,
    })
}

pub(super) fn dead_letter(row: &SqliteRow) -> sqlx::Result<DeadLetter> {
    let kind = match row.try_get("kind")? {
        "message" => Kind::Message,
        "task" => Kind::Task,
        _ => return Err(faulty(Foreign("kind"))),
    };
    Ok(DeadLetter {
        id: row.try_get::<&str, _>("id")?.parse().map_err(faulty)?,
        namespace: row.try_get("namespace")?,
        kind,
        subject_id: row.try_get("subject_id")?,
        target: row.try_get("target")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        deliveries: row.try_get("deliveries")?,
        payload: row.try_get::<Vec<u8>, _>("payload")?.into(),
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        replayed_at: time(row, "replayed_at")?,
    })
}
