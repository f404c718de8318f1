//! One thing to publish.

use std::sync::Arc;

use crate::{
    app::{DeadLetter, Envelope, Mailbox, Task, TaskId},
    transport::{
        Parcel,
        rabbitmq::{held::Life, properties::Identity},
    },
};

/// What a dead letter was.
#[derive(Clone, Debug)]
pub(in crate::transport::rabbitmq) enum Original {
    Message(Arc<Envelope>),
    Task(Arc<Task>),
}

/// One thing to publish.
#[derive(Clone, Debug)]
pub(in crate::transport::rabbitmq) enum Item {
    /// Into its mailbox; it may have been there before, and died.
    Message { envelope: Arc<Envelope>, life: Life, refusals: u32 },
    /// Into its work queue.
    Task(Parcel),
    /// A copy into the dead-letter queue.
    Letter { letter: Arc<DeadLetter>, original: Original },
}

impl Item {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Message { envelope, .. } => envelope.message.payload.len(),
            Self::Task(parcel) => parcel.task.input.len(),
            Self::Letter { letter, .. } => letter.payload.len(),
        }
    }

    /// What a returned one is known by; of copies nobody asks.
    pub(in crate::transport::rabbitmq) fn identity(&self) -> Option<Identity> {
        match self {
            Self::Message { envelope, .. } => Some(Identity::Message(envelope.sequence)),
            Self::Task(parcel) => Some(Identity::Task(parcel.task.id.to_string())),
            Self::Letter { .. } => None,
        }
    }

    /// Where it goes, of a message.
    pub(super) fn mailbox(&self) -> Option<Mailbox> {
        match self {
            Self::Message { envelope, .. } => Some(envelope.message.mailbox()),
            Self::Task(_) | Self::Letter { .. } => None,
        }
    }

    /// The task that it is.
    pub(in crate::transport::rabbitmq) fn task(&self) -> Option<TaskId> {
        match self {
            Self::Task(parcel) => Some(Arc::clone(&parcel.task.id)),
            Self::Message { .. } | Self::Letter { .. } => None,
        }
    }
}
