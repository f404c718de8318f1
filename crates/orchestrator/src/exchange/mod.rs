//! The exchange with communication: tasks down, news of them up, over a stream to every replica of it.
//!
//! [`Router`] decides, without I/O, which replica gets a task, who hears of its end, and what the loss of a stream means;
//! [`streams`] keeps the streams open and carries what it says. Workers know nothing of streams: they say that a task is to be
//! done ([`Outgoing::Dispatch`]) or may be out since another life ([`Outgoing::Locate`]), and hear when it is nowhere any more
//! ([`News::Lost`]), upon which they dispatch it again (I3).

mod router;
mod streams;
mod wire;

use domain::{AgentId, ExecutionId, Payload};
use workflow::{Failure, Target, TaskOrder};

use self::router::{Router, Serving};
pub(crate) use self::streams::run;

/// What workers tell communication.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    /// A task that no replica has.
    Dispatch {
        task_id: String,
        execution: ExecutionId,
        namespace: String,
        step_id: String,
        traceparent: String,
        order: TaskOrder,
    },
    /// A task that may be out. News of where it is follows; [`News::Lost`] where it is nowhere.
    Locate { task_id: String, execution: ExecutionId, namespace: String, target: Target },
    /// The task is not wanted any more.
    Cancel { task_id: String, reason: &'static str },
    /// The task's result is in the log, or void.
    Ack { task_id: String },
    /// The task is another's: there is news of it, and its execution is not written here. Only the router says so.
    Disown { task_id: String },
}

impl Outgoing {
    /// About how many bytes it takes in a frame.
    fn size(&self) -> usize {
        const FIXED: usize = 256;
        match self {
            Self::Dispatch { order, .. } => FIXED + order.input.as_bytes().len(),
            Self::Locate { .. } | Self::Cancel { .. } | Self::Ack { .. } | Self::Disown { .. } => FIXED,
        }
    }
}

/// The same with the epoch under which the shard of the execution is held.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) epoch: i64,
    pub(crate) outgoing: Outgoing,
}

/// One hand-over of a task: the same again says nothing new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) session_id: String,
    /// 1 for the first.
    pub(crate) number: u32,
}

/// News of a task.
#[derive(Clone, Debug)]
pub(crate) struct TaskUpdate {
    pub(crate) execution: ExecutionId,
    pub(crate) task_id: String,
    pub(crate) agent_id: Option<AgentId>,
    /// The agent's; empty where there is none.
    pub(crate) namespace: String,
    pub(crate) news: News,
    /// Will it come again until it is acknowledged?
    pub(crate) needs_ack: bool,
    /// Of a result, what it goes on with; may be empty.
    pub(crate) traceparent: String,
}

impl TaskUpdate {
    /// What the router itself says of a task.
    fn of(execution: ExecutionId, task_id: &str, news: News) -> Self {
        let task_id = task_id.to_owned();
        Self {
            execution,
            task_id,
            agent_id: None,
            namespace: String::new(),
            news,
            needs_ack: false,
            traceparent: String::new(),
        }
    }
}

/// What happened to a task.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// No live agent fits.
    Waiting,
    /// A session has it.
    HandedOver(Delivery),
    Begun,
    Alive,
    Shown(Payload),
    Requeued,
    /// The message broker has it.
    Enqueued,
    /// The queue is full.
    Refused,
    Ended(Result<Payload, Failure>),
    /// A replica was asked for it, and does not have it.
    Unknown,
    /// The stream over which it was heard of has ended: whether its agent goes on is being found out.
    Unheard,
    /// No replica has it any more.
    Lost,
}

impl News {
    /// Does whoever says so have the task, and will say more of it? `needs_ack`: will this come again?
    pub(crate) const fn is_of_what_is_there(&self, needs_ack: bool) -> bool {
        match self {
            Self::Waiting
            | Self::HandedOver(_)
            | Self::Begun
            | Self::Alive
            | Self::Shown(_)
            | Self::Requeued
            | Self::Enqueued => true,
            Self::Ended(_) => needs_ack,
            Self::Refused | Self::Unknown | Self::Unheard | Self::Lost => false,
        }
    }
}
