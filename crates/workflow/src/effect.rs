//! What the shell must do after events are committed.

use std::time::Duration;

use domain::Payload;

use crate::{StepIndex, Target, TaskKey};

/// Something to do in the outside world. Effects come after the commit and may repeat; whoever consumes them removes
/// duplicates by the task's id. Durable timers are no effects: the shell asks for [`crate::Execution::next_due`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Give this task to an agent.
    Dispatch(TaskOrder),
    /// The task is not wanted any more.
    Withdraw {
        /// The attempt.
        task: TaskKey,
        /// For people.
        reason: &'static str,
    },
    /// Find voters among live agents, then say [`crate::Command::VotersFound`]. While fewer than `quorum` are alive the shell
    /// keeps looking, and the decision shows as waiting for agents.
    FindVoters {
        /// The decision.
        step: StepIndex,
        /// Who may vote.
        voters: Target,
        /// How many are wanted.
        count: u32,
        /// With fewer than this the decision cannot be made.
        quorum: u32,
    },
    /// The execution ended.
    Ended,
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
