//! What the shell must do after events are committed.

use std::time::Duration;

use domain::{ExecutionId, Payload, Timestamp};

use crate::{Holder, Parent, Target, TaskKey, Unit};

/// Something to do in the outside world. Effects come after the commit and may repeat; whoever consumes them removes
/// duplicates by the task's id. Durable timers are no effects: the shell asks for [`crate::Execution::next_due`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Give this task to an agent.
    Dispatch(TaskOrder),
    /// The agent's task is not wanted any more.
    Withdraw {
        /// The attempt.
        task: TaskKey,
        /// For people.
        reason: &'static str,
    },
    /// Do this, and say [`crate::Command::TaskEnded`] when it is done.
    Run(Errand),
    /// Cancel this child execution, whose parent does not want it any more.
    CancelChild {
        /// Which.
        child: ExecutionId,
        /// For people.
        reason: &'static str,
    },
    /// Find voters among live agents, then say [`crate::Command::VotersFound`]. While fewer than `quorum` are alive the shell
    /// keeps looking, and the decision shows as waiting for agents.
    FindVoters {
        /// The decision.
        unit: Unit,
        /// Who may vote.
        voters: Target,
        /// How many are wanted.
        count: u32,
        /// With fewer than this the decision cannot be made.
        quorum: u32,
    },
    /// Take a lock among all executions of the namespace, then say [`crate::Command::Granted`].
    Acquire {
        /// For whom.
        holder: Holder,
        /// Which.
        lock: Lock,
    },
    /// Give the lock back, or the place in its queue.
    Release {
        /// Whose.
        holder: Holder,
        /// Which.
        lock: Lock,
    },
    /// The execution ended. Where it has a parent, that is to be told.
    Ended,
}

/// A lock that executions share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lock {
    /// The kind of name, so that keys and mutexes of the same name are different locks.
    pub kind: LockKind,
    /// Which.
    pub name: String,
    /// How many hold it at once.
    pub limit: u32,
}

/// What a lock is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockKind {
    /// `config.concurrency_key`.
    Turn,
    /// A step's `mutex` with the scope `global`.
    Mutex,
}

/// A task to dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOrder {
    /// The attempt; `Plan::task_id` spells it out.
    pub task: TaskKey,
    /// Who may do it.
    pub target: Target,
    /// What to do.
    pub action: String,
    /// With what.
    pub input: Payload,
    /// 0 to 9, 9 the most urgent.
    pub priority: u8,
    /// From hand-over to result; the shell enforces it and then says the attempt failed with [`crate::Failure::timeout`].
    pub timeout: Option<Duration>,
    /// Between two signs of life from the agent; likewise.
    pub heartbeat_timeout: Option<Duration>,
}

/// What the shell itself does for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    /// The attempt; its id makes doing it twice the same as doing it once.
    pub task: TaskKey,
    /// What.
    pub what: ErrandKind,
}

/// What the shell itself does for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrandKind {
    /// Start a child execution. A detached one is done when it is accepted, with `{"execution_id": …}`; any other when it
    /// ends, with its output or its failure.
    Start {
        /// The id that it gets: the same each time.
        child: ExecutionId,
        /// The name of its workflow.
        name: String,
        /// Which version; absent: the newest.
        version: Option<u32>,
        /// With what.
        input: Payload,
        /// What it belongs to.
        parent: Parent,
    },
    /// Tell somebody something; done when that is accepted.
    Tell {
        /// Whom.
        to: Telling,
        /// What.
        payload: Payload,
        /// When it was to be told: the same each time.
        at: Timestamp,
    },
}

/// Whom a step tells something. The log keeps it, with its payload, as the input of the task.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Telling {
    /// Whoever subscribes to this topic.
    Topic(String),
    /// The agent with this id.
    Agent(String),
    /// The execution with this id, by a signal.
    Signal {
        /// Which execution.
        execution: String,
        /// Which signal.
        name: String,
    },
}
