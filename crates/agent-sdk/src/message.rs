//! Messages between agents.

use std::time::Duration;

use bytes::Bytes;
use contracts::communication::v1 as proto;
use domain::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The type of a message that wants an action done and its outcome sent back.
pub(crate) const REQUEST: &str = "request";
/// The type of a message that answers a request.
pub(crate) const REPLY: &str = "reply";

/// A message that was delivered to this agent.
#[derive(Clone, Debug)]
pub struct Message {
    /// `msg_…`; the same on every delivery.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// The sending agent; empty where a client sent it.
    pub sender: String,
    /// What kind of message this is; `message` unless said otherwise.
    pub kind: String,
    /// Ties an answer to its question; may be empty.
    pub correlation_id: String,
    /// The agent that answers should go to; may be empty.
    pub reply_to: String,
    /// 1 for the first delivery.
    pub delivery: u32,
    /// W3C trace context to pass on; may be empty. Where deliveries are traced, theirs, which links to the sender.
    pub traceparent: String,
    payload: Bytes,
}

impl Message {
    pub(crate) fn from_proto(message: proto::Message, delivery: u32) -> Self {
        Self {
            id: message.id,
            namespace: message.namespace,
            sender: message.sender,
            kind: message.r#type,
            correlation_id: message.correlation_id,
            reply_to: message.reply_to,
            delivery,
            traceparent: message.traceparent,
            payload: message.payload,
        }
    }

    /// The payload as `T`. Failure: `invalid_input`, not retryable.
    pub fn payload<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        let fault = |error| Failure::invalid_input(format!("the payload of the message does not fit: {error}"));
        serde_json::from_slice(&self.payload).map_err(fault)
    }

    /// The payload's JSON text.
    pub const fn payload_bytes(&self) -> &Bytes {
        &self.payload
    }

    /// Where an answer goes: `reply_to`, or the sender where that is empty.
    pub fn answer_to(&self) -> Option<&str> {
        [self.reply_to.as_str(), self.sender.as_str()].into_iter().find(|agent| !agent.is_empty())
    }
}

/// To whom a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// One agent's mailbox.
    Agent(String),
    /// Any one live agent with this capability, chosen when the message is accepted.
    Capability(String),
    /// Any one live agent of this type, chosen when the message is accepted.
    AgentType(String),
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub(crate) to: Recipient,
    pub(crate) kind: String,
    pub(crate) payload: Bytes,
    pub(crate) correlation_id: String,
    pub(crate) reply_to: String,
    pub(crate) priority: Option<u32>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) traceparent: String,
}

impl Outgoing {
    /// A message of the type `message`. Fails where `payload` has no JSON.
    pub fn new(to: Recipient, payload: &impl Serialize) -> Result<Self, Failure> {
        let payload = serde_json::to_vec(payload);
        let payload =
            payload.map_err(|error| Failure::fatal("invalid_output", format!("the payload is no JSON: {error}")))?;
        Ok(Self::from_json(to, payload.into()))
    }

    /// A message whose payload is JSON text already.
    pub fn from_json(to: Recipient, payload: Bytes) -> Self {
        Self {
            to,
            kind: "message".to_owned(),
            payload,
            correlation_id: String::new(),
            reply_to: String::new(),
            priority: None,
            expires_at: None,
            traceparent: String::new(),
        }
    }

    /// The answer to `message`; `None` where it says nobody to answer to.
    pub fn reply(message: &Message, payload: Bytes) -> Option<Self> {
        let to = Recipient::Agent(message.answer_to()?.to_owned());
        let reply = Self::from_json(to, payload).kind(REPLY).correlation_id(&message.correlation_id);
        Some(Self { traceparent: message.traceparent.clone(), ..reply })
    }

    /// What kind of message it is, for the receiver.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = kind.into();
        self
    }

    /// What ties it to others.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = id.into();
        self
    }

    /// The agent that answers should go to.
    #[must_use]
    pub fn reply_to(mut self, agent_id: impl Into<String>) -> Self {
        self.reply_to = agent_id.into();
        self
    }

    /// 0 to 9, 9 the most urgent.
    #[must_use]
    pub const fn priority(mut self, priority: u32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// A dead letter when it was not delivered `within` this long after `now`.
    #[must_use]
    pub fn expires(mut self, now: Timestamp, within: Duration) -> Self {
        self.expires_at = Some(now + within);
        self
    }

    /// W3C trace context to go on with; unless said otherwise that of the span in which it is sent.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = traceparent.into();
        self
    }

    pub(crate) fn into_proto(self) -> proto::Message {
        use proto::message::Recipient as To;
        let recipient = match self.to {
            Recipient::Agent(id) => To::AgentId(id),
            Recipient::Capability(name) => To::Capability(name),
            Recipient::AgentType(name) => To::AgentType(name),
        };
        let expires_at = self.expires_at.map(|at| {
            let (seconds, nanos) = at.to_seconds_and_nanos();
            prost_types::Timestamp { seconds, nanos }
        });
        proto::Message {
            recipient: Some(recipient),
            r#type: self.kind,
            payload: self.payload,
            correlation_id: self.correlation_id,
            reply_to: self.reply_to,
            priority: self.priority,
            expires_at,
            traceparent: self.traceparent,
            ..proto::Message::default()
        }
    }
}
