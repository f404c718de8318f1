//! Dead letters: looking at them, sending them again, removing them.

use std::sync::Arc;

use domain::{Clock, Namespace};

use super::model::{DeadLetter, Kind};
use crate::{
    error::CommunicationError,
    store::{LetterFilter, Store},
    transport::Transport,
};

/// The use cases of dead letters.
pub(crate) struct DeadLetters {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl DeadLetters {
    /// One dead letter.
    pub(crate) async fn get(&self, namespace: &Namespace, id: &str) -> Result<DeadLetter, CommunicationError> {
        let found = self.store.letter(namespace, id).await.map_err(CommunicationError::Database)?;
        found.ok_or_else(|| CommunicationError::DeadLetterNotFound(id.to_owned()))
    }

    /// Dead letters, newest first, at most `limit`.
    pub(crate) async fn list(&self, filter: &LetterFilter, limit: i64) -> Result<Vec<DeadLetter>, CommunicationError> {
        self.store.letters(filter, limit).await.map_err(CommunicationError::Database)
    }

    /// Queues the message again, with a fresh count and without its expiry (which may have been what killed it); answers
    /// with the message's id. A second replay changes nothing.
    pub(crate) async fn replay(&self, namespace: &Namespace, id: &str) -> Result<String, CommunicationError> {
        let letter = self.get(namespace, id).await?;
        match letter.kind {
            Kind::Task => return Err(CommunicationError::NotReplayable(id.to_owned())),
            Kind::Message => {}
        }
        let now = self.clock.now();
        let revived = self.store.replay(namespace, id, now).await.map_err(CommunicationError::Database)?;
        if let Some(envelope) = revived {
            self.transport.readmit(Arc::new(envelope), 0);
        }
        Ok(letter.subject_id)
    }

    /// Removes one for good; false where there was none.
    pub(crate) async fn purge(&self, namespace: &Namespace, id: &str) -> Result<bool, CommunicationError> {
        self.store.purge(namespace, id, self.clock.now()).await.map_err(CommunicationError::Database)
    }
}
