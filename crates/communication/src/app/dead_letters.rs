//! Dead letters: looking at them, sending them again, removing them.

use std::{convert::Infallible, sync::Arc};

use domain::{Clock, Namespace};
use lifecycle::{OnExit, Tasks};
use store::Page;
use tokio::sync::oneshot;

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
    pub(crate) tasks: Tasks,
}

impl DeadLetters {
    /// One dead letter.
    pub(crate) async fn get(&self, namespace: &Namespace, id: &str) -> Result<DeadLetter, CommunicationError> {
        let found = self.store.letter(namespace, id).await.map_err(CommunicationError::Database)?;
        found.ok_or_else(|| CommunicationError::DeadLetterNotFound(id.to_owned()))
    }

    /// Dead letters, newest first, at most `limit`.
    pub(crate) async fn list(
        &self,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Page<DeadLetter>, CommunicationError> {
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
        if self.revive(namespace, id).await? || self.get(namespace, id).await?.replayed_at.is_some() {
            Ok(letter.subject_id)
        } else {
            Err(CommunicationError::MessageNotFound(letter.subject_id))
        }
    }

    /// Records the replay and takes the message back, as one: a caller that goes away in between must not leave a message
    /// that is queued in the record only.
    async fn revive(&self, namespace: &Namespace, id: &str) -> Result<bool, CommunicationError> {
        let (reply, revived) = oneshot::channel();
        let (store, transport, now) = (Arc::clone(&self.store), Arc::clone(&self.transport), self.clock.now());
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.tasks.spawn("communication.replay", OnExit::Continue, async move {
            let envelope = store.replay(&namespace, &id, now).await;
            let revived = envelope.map(|envelope| {
                let found = envelope.is_some();
                if let Some(envelope) = envelope {
                    transport.readmit(Arc::new(envelope), 0);
                }
                found
            });
            // Nobody has to listen.
            let _ = reply.send(revived);
            Ok::<_, Infallible>(())
        });
        revived.await.map_err(|_| CommunicationError::Stopping)?.map_err(CommunicationError::Database)
    }

    /// Removes one for good; false where there was none.
    pub(crate) async fn purge(&self, namespace: &Namespace, id: &str) -> Result<bool, CommunicationError> {
        self.store.purge(namespace, id, self.clock.now()).await.map_err(CommunicationError::Database)
    }
}
