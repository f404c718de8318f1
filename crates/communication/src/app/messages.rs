//! Sending messages, and telling what became of them.

use std::sync::Arc;

use bytes::Bytes;
use domain::{AgentId, Clock, InstanceId, MessageId, Namespace, Timestamp};
use store::Page;
use tokio::sync::oneshot;

use super::{
    directory::Directory,
    journal::{Journal, Recorded},
    model::{Message, Status, Target, awaited_by, instance_of},
};
use crate::{
    error::CommunicationError,
    store::{MessageFilter, Record, Store},
    transport::Transport,
};

/// A message of this kind asks for an answer.
const REQUEST: &str = "request";

/// A message before it is accepted.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// Chosen by the sender to make sending idempotent.
    pub(crate) id: Option<MessageId>,
    pub(crate) namespace: Namespace,
    pub(crate) sender: Option<AgentId>,
    pub(crate) to: Target,
    pub(crate) kind: String,
    pub(crate) payload: Bytes,
    pub(crate) correlation_id: String,
    pub(crate) reply_to: Option<AgentId>,
    pub(crate) priority: u8,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) traceparent: String,
}

impl Draft {
    /// Does its sender wait for an answer?
    pub(crate) fn is_question(&self) -> bool {
        self.sender.is_some() && (self.reply_to == self.sender || self.kind == REQUEST)
    }

    /// The instance of its sender that waits for an answer.
    pub(crate) fn asker(&self) -> Option<InstanceId> {
        if self.is_question() { instance_of(&self.correlation_id) } else { None }
    }
}

/// A message on its way into the record.
pub(crate) struct Submitted {
    id: MessageId,
    progress: Progress,
}

enum Progress {
    /// The writer will tell.
    Waits(oneshot::Receiver<Recorded>),
    /// It was recorded by an earlier send with the same id.
    Done(Status),
}

impl Submitted {
    /// Waits until it is recorded. The writer answers every send, also where its commit fails.
    pub(crate) async fn recorded(self) -> Result<(MessageId, Status), CommunicationError> {
        let status = match self.progress {
            Progress::Done(status) => status,
            Progress::Waits(recorded) => recorded.await.unwrap_or(Err(CommunicationError::Stopping))?,
        };
        Ok((self.id, status))
    }
}

/// The use cases of messages.
pub(crate) struct Messages {
    pub(crate) directory: Arc<Directory>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Bytes.
    pub(crate) max_payload: usize,
}

impl Messages {
    /// Accepts a message: answers when it is recorded.
    pub(crate) async fn send(&self, draft: Draft) -> Result<(MessageId, Status), CommunicationError> {
        self.submit(draft).await?.recorded().await
    }

    /// Queues a message to be recorded; the order of submissions is the order in a mailbox.
    pub(crate) async fn submit(&self, draft: Draft) -> Result<Submitted, CommunicationError> {
        let chosen = draft.id.map(|id| (draft.namespace.clone(), id));
        match (self.queue(draft).await, chosen) {
            // What was accepted once is not refused when it is said again, full mailbox or not.
            (Err(error), Some((namespace, id))) => match self.get(&namespace, &id.to_string()).await {
                Ok(record) => Ok(Submitted { id, progress: Progress::Done(record.status) }),
                Err(_) => Err(error),
            },
            (submitted, _) => submitted,
        }
    }

    async fn queue(&self, draft: Draft) -> Result<Submitted, CommunicationError> {
        if draft.payload.len() > self.max_payload {
            let message = format!("is larger than {} bytes (setting max_payload)", self.max_payload);
            return Err(CommunicationError::field("message.payload", "too_large", message));
        }
        let agent = self.directory.resolve(&draft.namespace, &draft.to).await?;
        let message = self.complete(draft, agent);
        let (id, mailbox, bytes) = (message.id, message.mailbox(), message.payload.len());
        if self.transport.reserve(&mailbox, bytes).is_err() {
            return Err(CommunicationError::MailboxFull(agent.to_string()));
        }
        match self.journal.send(message) {
            Ok(recorded) => Ok(Submitted { id, progress: Progress::Waits(recorded) }),
            Err(error) => {
                self.transport.release(&mailbox, bytes);
                Err(error)
            }
        }
    }

    fn complete(&self, draft: Draft, agent: AgentId) -> Message {
        let id = draft.id.unwrap_or_else(|| MessageId::generate(&*self.clock));
        let asks = draft.kind == REQUEST;
        // An agent that asks need not say who it is: the answer comes back to it, under the question's id.
        let reply_to = draft.reply_to.or(if asks { draft.sender } else { None });
        let correlation_id =
            if asks && draft.correlation_id.is_empty() { id.to_string() } else { draft.correlation_id };
        let kind = if draft.kind.is_empty() { "message".to_owned() } else { draft.kind };
        Message {
            id,
            namespace: draft.namespace,
            sender: draft.sender,
            agent,
            instance: awaited_by(&kind, &correlation_id),
            kind,
            payload: draft.payload,
            correlation_id,
            reply_to,
            priority: draft.priority,
            expires_at: draft.expires_at,
            created_at: self.clock.now(),
            traceparent: draft.traceparent,
        }
    }

    /// A message with its history.
    pub(crate) async fn get(&self, namespace: &Namespace, id: &str) -> Result<Record, CommunicationError> {
        let found = self.store.message(namespace, id).await.map_err(CommunicationError::Database)?;
        found.ok_or_else(|| CommunicationError::MessageNotFound(id.to_owned()))
    }

    /// Messages, newest first, at most `limit`.
    pub(crate) async fn list(&self, filter: &MessageFilter, limit: usize) -> Result<Page<Record>, CommunicationError> {
        self.store.messages(filter, limit).await.map_err(CommunicationError::Database)
    }
}
