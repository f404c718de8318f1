//! The durable way of messages: what makes a message survive, and brings it to its mailbox.

mod direct;

use async_trait::async_trait;
use tokio::sync::oneshot;

pub(crate) use self::direct::Direct;
use crate::{app::record::Letter, error::CommunicationError};

/// Answers once a message is recorded: true where it is new.
#[derive(Debug)]
pub(crate) struct Receipt(pub(crate) oneshot::Receiver<Result<bool, CommunicationError>>);

impl Receipt {
    /// Waits for the record. Whoever records answers always, so the wait ends with the service at the latest.
    pub(crate) async fn recorded(self) -> Result<bool, CommunicationError> {
        self.0.await.unwrap_or(Err(CommunicationError::Stopping))
    }
}

/// A way for messages. Messages for one agent arrive in the order of the calls.
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// Takes a message. It is on its way once the receipt says so; a message whose id is known is left alone.
    async fn publish(&self, letter: Letter) -> Result<Receipt, CommunicationError>;

    /// Brings a message to its mailbox that is recorded already.
    fn replay(&self, letter: Letter);
}
