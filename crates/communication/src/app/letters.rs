//! Messages and dead letters, from the caller's side.

use std::sync::Arc;

use contracts::{
    communication::v1::{self as proto, message::Recipient},
    registry::v1::select_agents_request::Target,
};
use domain::{Clock, DeadLetterId, MessageId, Namespace, Timestamp, check_name};
use errors::Error;

use super::{
    agents::Agents,
    record::{DeadLetter, Kind, Letter, MessageRow, Status, Transition},
};
use crate::{
    error::CommunicationError,
    store::{DeadLetterFilter, MessageFilter, Store},
    transport::{Receipt, Transport},
};

/// Pages of the mailboxes that are read at the start.
const REFILL: i64 = 1000;

/// What became of a message that was sent.
pub(crate) enum Sent {
    /// It is on its way to the database.
    Publishing(String, Receipt),
    /// It was there already.
    Known(String, Status),
}

/// The use cases.
pub(crate) struct Letters {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) max_payload: usize,
}

impl Letters {
    /// Takes a message: its recipient is settled, and it waits to be recorded. `sender` is the agent whose session it is.
    pub(crate) async fn send(
        &self,
        mut message: proto::Message,
        sender: Option<&str>,
    ) -> Result<Sent, CommunicationError> {
        let invalid = CommunicationError::Invalid;
        let namespace = namespace(&message.namespace).map_err(invalid)?;
        message.namespace = namespace.to_string();
        if let Some(sender) = sender {
            sender.clone_into(&mut message.sender);
        }
        let expires_at = self.check(&message).map_err(invalid)?;
        if message.id.is_empty() {
            message.id = MessageId::generate(&*self.clock).to_string();
        } else {
            let id: Result<MessageId, _> = message.id.parse();
            id.map_err(|error| invalid(Error::invalid_field("message.id", "invalid_id", error)))?;
            if let Some(row) = self.store.message(&message.id).await? {
                return known(&namespace, row).map(|(id, status)| Sent::Known(id, status));
            }
        }
        let agent_id = self.recipient(&message).await?;
        let now = self.clock.now();
        message.recipient = Some(Recipient::AgentId(agent_id.clone()));
        message.priority.get_or_insert(5);
        if message.r#type.is_empty() {
            "message".clone_into(&mut message.r#type);
        }
        if message.payload.is_empty() {
            message.payload = bytes::Bytes::from_static(b"null");
        }
        let (seconds, nanos) = now.to_seconds_and_nanos();
        message.created_at = Some(prost_types::Timestamp { seconds, nanos });
        let id = message.id.clone();
        let letter = Letter { id: id.as_str().into(), agent_id: agent_id.into(), expires_at, created_at: now, message };
        Ok(Sent::Publishing(id, self.transport.publish(letter).await?))
    }

    /// Waits until a message is recorded: its id and its status by then.
    pub(crate) async fn recorded(&self, sent: Sent) -> Result<(String, Status), CommunicationError> {
        match sent {
            Sent::Known(id, status) => Ok((id, status)),
            Sent::Publishing(id, receipt) => {
                if receipt.recorded().await? {
                    return Ok((id, Status::Accepted));
                }
                // Another call with this id was faster.
                let row = self.store.message(&id).await?;
                row.map(|row| (id.clone(), row.status)).ok_or(CommunicationError::MessageNotFound(id))
            }
        }
    }

    fn check(&self, message: &proto::Message) -> Result<Option<Timestamp>, Error> {
        if message.payload.len() > self.max_payload {
            let text = format!("has {} bytes; at most {} are allowed", message.payload.len(), self.max_payload);
            return Err(Error::invalid_field("message.payload", "too_large", text));
        }
        if message.priority.is_some_and(|priority| priority > 9) {
            return Err(Error::invalid_field("message.priority", "out_of_range", "must be 0 to 9"));
        }
        if !message.r#type.is_empty() {
            check_name(&message.r#type).map_err(|error| Error::invalid_field("message.type", "invalid_name", error))?;
        }
        let expiry = message.expires_at.as_ref().map(|at| Timestamp::from_seconds_and_nanos(at.seconds, at.nanos));
        expiry.transpose().map_err(|error| Error::invalid_field("message.expires_at", "out_of_range", error))
    }

    /// The one agent whose mailbox it goes to.
    async fn recipient(&self, message: &proto::Message) -> Result<String, CommunicationError> {
        let named = |field: &str, name: &str| {
            let checked = check_name(name).map_err(|error| Error::invalid_field(field, "invalid_name", error));
            checked.map_err(CommunicationError::Invalid)
        };
        match &message.recipient {
            Some(Recipient::AgentId(id)) => {
                let parsed: Result<domain::AgentId, _> = id.parse();
                parsed.map_err(|error| {
                    CommunicationError::Invalid(Error::invalid_field("message.agent_id", "invalid_id", error))
                })?;
                self.agents.check(&message.namespace, id).await?;
                Ok(id.clone())
            }
            Some(Recipient::AgentType(name)) => {
                named("message.agent_type", name)?;
                self.agents.select(&message.namespace, Target::AgentType(name.clone())).await
            }
            Some(Recipient::Capability(name)) => {
                named("message.capability", name)?;
                self.agents.select(&message.namespace, Target::Capability(name.clone())).await
            }
            None => {
                let error = Error::invalid_field("message.recipient", "missing_field", "must name who it is for");
                Err(CommunicationError::Invalid(error))
            }
        }
    }

    /// A message with its history.
    pub(crate) async fn get(
        &self,
        namespace: &Namespace,
        id: &str,
    ) -> Result<(MessageRow, Vec<Transition>), CommunicationError> {
        let row = self.store.message(id).await?.filter(|row| row.message.namespace == namespace.as_str());
        let row = row.ok_or_else(|| CommunicationError::MessageNotFound(id.to_owned()))?;
        Ok((row, self.store.history(id).await?))
    }

    pub(crate) async fn list(&self, filter: &MessageFilter) -> Result<Vec<MessageRow>, CommunicationError> {
        Ok(self.store.messages(filter).await?)
    }

    pub(crate) async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetter>, CommunicationError> {
        Ok(self.store.dead_letters(filter).await?)
    }

    pub(crate) async fn dead_letter(
        &self,
        namespace: &Namespace,
        id: DeadLetterId,
    ) -> Result<DeadLetter, CommunicationError> {
        let found = self.store.dead_letter(namespace, id).await?;
        found.ok_or_else(|| CommunicationError::DeadLetterNotFound(id.to_string()))
    }

    /// Queues a dead message again: its id. A second call changes nothing.
    pub(crate) async fn replay(&self, namespace: &Namespace, id: DeadLetterId) -> Result<String, CommunicationError> {
        let letter = self.dead_letter(namespace, id).await?;
        if letter.kind == Kind::Task {
            return Err(CommunicationError::NotReplayable(id.to_string()));
        }
        if let Some(replayed) = self.store.replay(&letter, self.clock.now()).await? {
            self.transport.replay(replayed);
        }
        Ok(letter.subject_id)
    }

    pub(crate) async fn purge(&self, namespace: &Namespace, id: DeadLetterId) -> Result<bool, CommunicationError> {
        Ok(self.store.purge(namespace, id).await?)
    }
}

/// Reads every message that is not dealt with.
pub(crate) async fn pending(store: &dyn Store) -> sqlx::Result<Vec<(Letter, u32)>> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = store.pending(after, REFILL).await?;
        let Some((last, ..)) = page.last() else { return Ok(found) };
        after = *last;
        found.extend(page.into_iter().map(|(_, letter, deliveries)| (letter, deliveries)));
    }
}

fn known(namespace: &Namespace, row: MessageRow) -> Result<(String, Status), CommunicationError> {
    if row.message.namespace == namespace.as_str() {
        Ok((row.message.id, row.status))
    } else {
        Err(CommunicationError::MessageIdTaken(row.message.id))
    }
}

/// From a request's field.
pub(crate) fn namespace(field: &str) -> Result<Namespace, Error> {
    Namespace::from_field(field).map_err(|error| Error::invalid_field("namespace", "invalid_name", error))
}
