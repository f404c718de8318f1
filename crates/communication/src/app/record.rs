//! What is recorded of messages and dead letters.

use std::sync::Arc;

use bytes::Bytes;
use contracts::communication::v1 as proto;
use domain::{DeadLetterId, Timestamp};

/// The key of an agent, task or message; shared, since every index holds it.
pub(crate) type Id = Arc<str>;

/// Where a message is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Accepted,
    Queued,
    Delivered,
    Acked,
    Dead,
}

impl Status {
    pub(crate) const ALL: [Self; 5] = [Self::Accepted, Self::Queued, Self::Delivered, Self::Acked, Self::Dead];

    /// As the database spells it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Acked => "acked",
            Self::Dead => "dead",
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// A message as it was accepted: every field filled in, the recipient one agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Letter {
    pub(crate) id: Id,
    pub(crate) agent_id: Id,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
    pub(crate) message: proto::Message,
}

/// A message with what became of it.
#[derive(Clone, Debug)]
pub(crate) struct MessageRow {
    /// Its place in the order in which messages were accepted.
    pub(crate) sequence: i64,
    pub(crate) message: proto::Message,
    pub(crate) status: Status,
    pub(crate) deliveries: u32,
    pub(crate) delivered_at: Option<Timestamp>,
    pub(crate) acked_at: Option<Timestamp>,
}

/// One entry of a message's history.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transition {
    pub(crate) message_id: Id,
    pub(crate) status: Status,
    pub(crate) deliveries: u32,
    pub(crate) at: Timestamp,
    pub(crate) detail: String,
}

/// Why something died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadReason {
    DeliveryLimit,
    Expired,
    Rejected,
}

impl DeadReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::DeliveryLimit => "delivery_limit",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }
}

/// What died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Message,
    Task,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Task => "task",
        }
    }
}

/// A task or message that could not be delivered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeadLetter {
    pub(crate) id: DeadLetterId,
    pub(crate) namespace: String,
    pub(crate) kind: Kind,
    pub(crate) subject_id: String,
    pub(crate) target: String,
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) deliveries: u32,
    pub(crate) payload: Bytes,
    pub(crate) created_at: Timestamp,
    pub(crate) replayed_at: Option<Timestamp>,
}

/// A task that died: its orchestrator is told once the dead letter is recorded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeadTask {
    pub(crate) owner: Id,
    pub(crate) agent_id: Id,
}

/// What the hub wants recorded, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Moved(Transition),
    Died(Box<DeadLetter>, Option<DeadTask>),
}
