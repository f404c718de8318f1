//! The words of this service: tasks, messages, dead letters, and what goes over a stream.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use domain::{AgentId, DeadLetterId, InstanceId, MessageId, Namespace, SessionId, Timestamp};
use serde::{Deserialize, Serialize};

/// `execution/step[index]/attempt`; whoever consumes a task removes duplicates by it.
pub(crate) type TaskId = Arc<str>;

/// The most urgent priority; 0 is the least.
pub(crate) const MAX_PRIORITY: u8 = 9;

/// Who may take something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Target {
    /// Any live agent of this type.
    AgentType(Arc<str>),
    /// Any live agent with this capability.
    Capability(Arc<str>),
    /// This agent.
    Agent(AgentId),
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentType(name) => write!(formatter, "type:{name}"),
            Self::Capability(name) => write!(formatter, "capability:{name}"),
            Self::Agent(id) => id.fmt(formatter),
        }
    }
}

/// A unit of work; payload bytes are shared, never parsed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) namespace: Namespace,
    pub(crate) execution_id: String,
    pub(crate) step_id: String,
    pub(crate) index: Option<u32>,
    pub(crate) attempt: u32,
    pub(crate) target: Target,
    pub(crate) action: String,
    pub(crate) input: Bytes,
    /// 0 to 9.
    pub(crate) priority: u8,
    pub(crate) timeout_ms: u64,
    pub(crate) heartbeat_timeout_ms: u64,
    pub(crate) traceparent: String,
    /// Under which the dispatcher writes the execution.
    pub(crate) epoch: i64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Output(Bytes),
    Failure { code: String, message: String, retryable: bool, details: Bytes },
}

impl Outcome {
    /// Bytes that somebody else chose.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Output(output) => output.len(),
            Self::Failure { code, message, details, .. } => code.len() + message.len() + details.len(),
        }
    }

    /// The same, or a failure where it is larger than that: it would not fit into a frame upwards, and end the
    /// orchestrator's stream again and again.
    pub(crate) fn within(self, most: usize) -> Self {
        let size = self.size();
        if size <= most {
            return self;
        }
        Self::Failure {
            code: "output_too_large".to_owned(),
            message: format!("the result has {size} bytes; at most {most} are allowed"),
            retryable: false,
            details: Bytes::new(),
        }
    }
}

/// A message; its recipient is resolved to one agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    pub(crate) namespace: Namespace,
    /// Absent where a client sent it.
    pub(crate) sender: Option<AgentId>,
    /// Whose mailbox it goes to.
    pub(crate) agent: AgentId,
    /// The agent's instance that waits for it: it goes to the mailbox of that.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) kind: String,
    pub(crate) payload: Bytes,
    pub(crate) correlation_id: String,
    pub(crate) reply_to: Option<AgentId>,
    /// 0 to 9.
    pub(crate) priority: u8,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
    pub(crate) traceparent: String,
}

/// A message of this kind is the answer to another.
const REPLY: &str = "reply";

/// The instance that asks, or has asked, by a correlation id: what that begins with, before the first dot.
pub(crate) fn instance_of(correlation_id: &str) -> Option<InstanceId> {
    let (instance, _) = correlation_id.split_once('.')?;
    if instance.starts_with(InstanceId::PREFIX) { instance.parse().ok() } else { None }
}

/// The instance that waits for a message: that has asked for it.
pub(crate) fn awaited_by(kind: &str, correlation_id: &str) -> Option<InstanceId> {
    if kind == REPLY { instance_of(correlation_id) } else { None }
}

impl Message {
    /// Is it an answer that somebody may be waiting for while using up all of its credit?
    pub(crate) fn is_reply(&self) -> bool {
        self.kind == REPLY
    }

    /// The mailbox that it goes to.
    pub(crate) fn mailbox(&self) -> Mailbox {
        Mailbox { namespace: self.namespace.clone(), agent: self.agent, instance: self.instance }
    }
}

/// A recorded message.
#[derive(Debug, PartialEq)]
pub(crate) struct Envelope {
    /// The order of acceptance.
    pub(crate) sequence: i64,
    pub(crate) message: Message,
}

/// An agent's mailbox, or that of one of its instances, which has answers that only that one waits for. What is left there by
/// one that is gone goes into the agent's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mailbox {
    pub(crate) namespace: Namespace,
    pub(crate) agent: AgentId,
    pub(crate) instance: Option<InstanceId>,
}

impl Mailbox {
    /// The agent's, from which any of its sessions takes.
    pub(crate) const fn of_agent(namespace: Namespace, agent: AgentId) -> Self {
        Self { namespace, agent, instance: None }
    }

    /// That of the same agent.
    pub(crate) fn agents(&self) -> Self {
        Self { instance: None, ..self.clone() }
    }
}

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

    /// As it is stored.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Acked => "acked",
            Self::Dead => "dead",
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
    pub(crate) const ALL: [Self; 2] = [Self::Message, Self::Task];

    /// As it is stored, and as a metric's label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Task => "task",
        }
    }
}

/// Why it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    DeliveryLimit,
    Expired,
    Rejected,
    AgentDeleted,
}

impl Reason {
    /// As it is stored and shown.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::DeliveryLimit => "delivery_limit",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::AgentDeleted => "agent_deleted",
        }
    }
}

/// A task or message that could not be delivered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeadLetter {
    pub(crate) id: DeadLetterId,
    pub(crate) namespace: Namespace,
    pub(crate) kind: Kind,
    pub(crate) subject_id: String,
    pub(crate) target: String,
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) deliveries: u32,
    pub(crate) payload: Bytes,
    pub(crate) created_at: Timestamp,
    pub(crate) replayed_at: Option<Timestamp>,
    /// What the task was; absent for a message, whose record tells it.
    pub(crate) task: Option<DeadTask>,
}

impl DeadLetter {
    /// The execution of a task; it is the first part of the task's id.
    pub(crate) fn execution_id(&self) -> &str {
        match self.kind {
            Kind::Task => self.subject_id.split('/').next().unwrap_or_default(),
            Kind::Message => "",
        }
    }
}

/// What a person wants to know of a task that died.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeadTask {
    pub(crate) execution_id: String,
    pub(crate) step_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u32>,
    pub(crate) attempt: u32,
    pub(crate) action: String,
    /// Oldest first.
    pub(crate) hand_overs: Vec<HandOver>,
}

/// One delivery of a task that came to nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HandOver {
    pub(crate) agent: AgentId,
    pub(crate) session: SessionId,
    pub(crate) at: Timestamp,
    pub(crate) ended_at: Timestamp,
    /// Why it came back, for people.
    pub(crate) reason: String,
}

/// What a session is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ToAgent {
    Welcome(Welcome),
    Task { task: Arc<Task>, delivery: u32 },
    Message { envelope: Arc<Envelope>, delivery: u32 },
    Cancel { task: TaskId, reason: String },
    ResultAck(TaskId),
    Receipt { reference: u64, outcome: Result<MessageId, String> },
    Drain(&'static str),
}

/// A session is accepted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Welcome {
    pub(crate) session: SessionId,
    pub(crate) agent: AgentId,
    pub(crate) credits: u32,
    pub(crate) config: Bytes,
}

/// What an orchestrator is told about a task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Update {
    pub(crate) task: TaskId,
    /// The agent that is or was at it.
    pub(crate) agent: Option<AgentId>,
    /// The agent's namespace, where it was not compared with the task's: the task is not known here.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) what: What,
    /// Of a result, in whose span it was made: what comes of it goes on with that. Empty elsewhere.
    pub(crate) traceparent: String,
}

impl Update {
    /// News of a task that is known here.
    pub(crate) fn new(task: TaskId, agent: Option<AgentId>, what: What) -> Self {
        let traceparent = if matches!(what, What::Ended(_)) { trace::traceparent() } else { String::new() };
        Self { task, agent, namespace: None, what, traceparent }
    }
}

/// For how many deliveries there are sessions here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Served {
    pub(crate) namespace: Namespace,
    pub(crate) target: Target,
    /// Deliveries that the sessions which take from the target's queue can hold together.
    pub(crate) capacity: u32,
}

/// What goes over an orchestrator's stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ToOrchestrator {
    /// Who is served: everybody at first, then changes.
    Serving(Vec<Served>),
    Update(Update),
}

/// What happened to a task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    Waiting,
    /// It is in a work queue of the message broker.
    Enqueued,
    HandedOver {
        session: SessionId,
        delivery: u32,
    },
    Begun,
    Alive,
    Shown(Bytes),
    Ended(Outcome),
    DeadLettered {
        letter: DeadLetterId,
        reason: &'static str,
    },
    Refused(String),
    Requeued(String),
    /// It is not here.
    Unknown,
}

/// What a delivery's id names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MessageOrTask {
    Message(MessageId),
    Task(TaskId),
}
