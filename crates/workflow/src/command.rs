//! What is asked of an execution.

use domain::{AgentId, ExecutionId, Namespace, Payload, SignalId, Timestamp, WorkflowId};

use crate::{Failure, Holder, Parent, TaskKey, Unit, Voter};

/// Signals of one name that an execution keeps for steps that may come to wait for them.
pub(crate) const MOST_SIGNALS: usize = 1_000;
/// Executions above an execution, each the child of the next: a recursion that goes deeper has lost its way.
pub(crate) const MOST_DEPTH: u32 = 64;

/// What is asked of an execution, by a client, an agent, or time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Accept it: the first command, and only the first.
    Start(Start),
    /// Look at what is due and what is ready. Always allowed, and decides nothing where nothing is.
    Tick,
    /// An agent, or the shell, ended a task. Dropped where the attempt is no longer current.
    TaskEnded {
        /// The attempt.
        task: TaskKey,
        /// Who did it; absent where nobody did (a dead letter).
        agent_id: Option<AgentId>,
        /// When the agent began, where it said so.
        begun_at: Option<Timestamp>,
        /// Its output, or why it failed.
        outcome: Result<Payload, Failure>,
    },
    /// The shell found voters for an open decision: as many as wanted, or as many as there will be.
    VotersFound {
        /// The decision.
        unit: Unit,
        /// Distinct.
        voters: Vec<Voter>,
    },
    /// The shell has the lock that was asked for. Dropped where nobody waits for it.
    Granted {
        /// Who has it.
        holder: Holder,
    },
    /// An external input.
    Signal {
        /// Two signals with the same id count once.
        id: SignalId,
        /// Which signal.
        name: String,
        /// Any value.
        payload: Payload,
        /// Who gave it, for the record.
        sender: String,
    },
    /// Stop, and compensate.
    Cancel {
        /// For people.
        reason: String,
    },
    /// Start nothing new.
    Pause,
    /// End the pause.
    Resume,
    /// Run a failed execution again from its failed steps; or, where completed work could not be undone, try the undo again.
    Retry {
        /// The id of a task that was lost, where that is what it is retried for. Where a retry has followed the task already
        /// nothing is done, whatever became of that.
        lost: Option<String>,
    },
}

/// Everything about a new execution that its plan does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its id.
    pub execution_id: ExecutionId,
    /// Its namespace.
    pub namespace: Namespace,
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// The version.
    pub workflow_version: u32,
    /// Checked against the input schema by the shell.
    pub input: Payload,
    /// W3C trace context, or empty.
    pub traceparent: String,
    /// Whose child it is.
    pub parent: Option<Parent>,
}

/// Why a command was refused. Results of tasks are never refused, only dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It ended already.
    #[error("the execution has ended")]
    Ended,
    /// Only failed executions can be retried.
    #[error("the execution has not failed")]
    NotFailed,
    /// Its work was undone; there is nothing to go on from.
    #[error("the execution's completed steps were compensated; start a new one")]
    Compensated,
    /// No step of the workflow waits for such a signal.
    #[error("no step of the workflow waits for this signal")]
    UnknownSignal,
    /// As many signals of this name are kept as one execution keeps, and no step waits for another.
    #[error("{MOST_SIGNALS} signals of this name are kept already; no step waits for another")]
    TooManySignals,
    /// It is started twice, or something else came before the start.
    #[error("the execution was started already, or not yet")]
    AlreadyStarted,
}
