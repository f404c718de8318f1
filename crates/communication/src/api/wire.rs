//! Between the contract's types and ours.

use contracts::communication::v1 as proto;
use domain::{DeadLetterId, Timestamp};
use errors::Error;

use crate::app::record::{DeadLetter, Kind, MessageRow, Status, Transition};

/// Absent where empty: protobuf does not tell an empty text from none.
pub(super) fn non_empty(field: String) -> Option<String> {
    if field.is_empty() { None } else { Some(field) }
}

pub(super) fn dead_letter_id(field: &str) -> Result<DeadLetterId, Error> {
    field.parse().map_err(|error| Error::invalid_field("dead_letter_id", "invalid_id", error))
}

fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = at.to_seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
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
pub(super) fn wanted_status(field: i32) -> Result<Option<Status>, Error> {
    match proto::MessageStatus::try_from(field) {
        Ok(proto::MessageStatus::Unspecified) => Ok(None),
        Ok(wanted) => Ok(Status::ALL.into_iter().find(|found| status(*found) == wanted)),
        Err(_) => Err(Error::invalid_field("status", "unknown_value", "is no status of a message")),
    }
}

/// Absent: any.
pub(super) fn wanted_kind(field: i32) -> Result<Option<Kind>, Error> {
    match proto::DeadLetterKind::try_from(field) {
        Ok(proto::DeadLetterKind::Unspecified) => Ok(None),
        Ok(proto::DeadLetterKind::Message) => Ok(Some(Kind::Message)),
        Ok(proto::DeadLetterKind::Task) => Ok(Some(Kind::Task)),
        Err(_) => Err(Error::invalid_field("kind", "unknown_value", "is no kind of dead letter")),
    }
}

pub(super) fn record(row: MessageRow, history: Vec<Transition>) -> proto::MessageRecord {
    let event = |transition: Transition| proto::MessageEvent {
        status: status(transition.status).into(),
        at: Some(timestamp(transition.at)),
        detail: transition.detail,
    };
    proto::MessageRecord {
        message: Some(row.message),
        status: status(row.status).into(),
        deliveries: row.deliveries,
        delivered_at: row.delivered_at.map(timestamp),
        acked_at: row.acked_at.map(timestamp),
        history: history.into_iter().map(event).collect(),
    }
}

pub(super) fn dead_letter(letter: DeadLetter) -> proto::DeadLetter {
    let kind = match letter.kind {
        Kind::Message => proto::DeadLetterKind::Message,
        Kind::Task => proto::DeadLetterKind::Task,
    };
    proto::DeadLetter {
        id: letter.id.to_string(),
        namespace: letter.namespace,
        kind: kind.into(),
        subject_id: letter.subject_id,
        target: letter.target,
        reason: letter.reason,
        detail: letter.detail,
        deliveries: letter.deliveries,
        payload: letter.payload,
        created_at: Some(timestamp(letter.created_at)),
        replayed_at: letter.replayed_at.map(timestamp),
    }
}
