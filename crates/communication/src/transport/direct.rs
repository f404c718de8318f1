//! In one process: recorded in the database, then straight into the mailbox in memory, which is refilled from the database
//! after a restart.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{Receipt, Transport};
use crate::{
    app::{hub::Hub, record::Letter},
    error::CommunicationError,
    workers::Accept,
};

/// The way through this process.
pub(crate) struct Direct {
    pub(crate) hub: Arc<Hub>,
    pub(crate) accepts: mpsc::Sender<Accept>,
}

#[async_trait]
impl Transport for Direct {
    async fn publish(&self, letter: Letter) -> Result<Receipt, CommunicationError> {
        let permit = self.accepts.reserve().await.map_err(|_| CommunicationError::Stopping)?;
        // From here on nothing waits: a place that is promised is used or given back by the writer.
        if !self.hub.reserve(&letter.agent_id) {
            return Err(CommunicationError::MailboxFull(letter.agent_id.to_string()));
        }
        let (done, recorded) = oneshot::channel();
        permit.send(Accept { letter, done });
        Ok(Receipt(recorded))
    }

    fn replay(&self, letter: Letter) {
        self.hub.refill(vec![(letter, 0)]);
    }
}
