//! What can go wrong, as callers see it.

use std::time::Duration;

use domain::ExecutionId;
use errors::{Code, Error, Violation};
use workflow::{Fault, Rejected};

/// Why an orchestrator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be opened.
    #[error("the orchestrator's database cannot be opened")]
    Database(#[from] store::OpenError),
    /// The settings of Redis are faulty.
    #[error("Redis cannot be used")]
    Redis(#[from] store::RedisError),
    /// The shards cannot be taken.
    #[error("the shards cannot be taken over")]
    Shards(#[from] sqlx::Error),
    /// What has not ended in them cannot be read.
    #[error("what has not ended cannot be read")]
    Unread(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrchestratorError {
    #[error("there is no workflow {0} in this namespace")]
    WorkflowNotFound(String),
    #[error("the workflow {workflow} has no version {version}")]
    VersionNotFound { workflow: domain::WorkflowId, version: u32 },
    #[error("the workflow {0} is archived")]
    WorkflowArchived(String),
    #[error("the definition is invalid: {}", describe(.0))]
    DefinitionInvalid(Vec<Fault>),
    #[error("another workflow of this namespace has the name {0:?}")]
    NameTaken(String),
    #[error("the id {0} belongs to something else")]
    IdTaken(String),
    #[error("the workflow is at version {found}, not {expected}")]
    WorkflowChanged { expected: u32, found: u32 },
    #[error("there is no execution {0} in this namespace")]
    ExecutionNotFound(ExecutionId),
    #[error("the input does not fit the workflow's input_schema")]
    InputInvalid(Vec<Violation>),
    #[error("{0} executions have not ended; that is the limit `max_executions`")]
    TooManyExecutions(usize),
    #[error("{0}")]
    Rejected(Rejected),
    #[error("the execution is being handed over to another replica")]
    Moved,
    #[error("too many calls wait for the orchestrator")]
    Overloaded,
    #[error("the orchestrator is stopping")]
    Stopping,
    #[error("the log could not be written, so nothing of the call is known to have happened")]
    NotCommitted,
    #[error("the orchestrator did not answer in time; the call may still take effect")]
    TimedOut,
    #[error("the log of {0} cannot be replayed: {1}")]
    Unreadable(ExecutionId, String),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The same, told to all who waited for one answer.
    #[error("what was to be read could not be")]
    Unread(#[source] Error),
}

impl OrchestratorError {
    /// May the same be read a moment later? What is wrong is then the way to the data, not the data.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => ::store::is_transient(error),
            Self::Unread(_) | Self::TimedOut => true,
            _ => false,
        }
    }

    /// What is wrong with reading the log of an execution: the way to it, or the log.
    pub(crate) fn of_log(id: ExecutionId, error: sqlx::Error) -> Self {
        if ::store::is_transient(&error) { Self::Database(error) } else { Self::Unreadable(id, errors::chain(&error)) }
    }
}

fn describe(faults: &[Fault]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> =
        faults.iter().take(SHOWN).map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect();
    let more = if faults.len() > SHOWN { format!("; and {} more", faults.len() - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

impl From<OrchestratorError> for Error {
    fn from(error: OrchestratorError) -> Self {
        use OrchestratorError as E;
        let message = error.to_string();
        match error {
            E::WorkflowNotFound(_) => Self::not_found("workflow_not_found", message),
            E::VersionNotFound { .. } => Self::not_found("workflow_version_not_found", message),
            E::WorkflowArchived(_) => Self::conflict("workflow_archived", message),
            E::DefinitionInvalid(faults) => {
                let violations =
                    faults.into_iter().map(|fault| Violation::new(fault.pointer, fault.code, fault.message));
                Self::invalid("definition_invalid", message, violations.collect())
            }
            E::NameTaken(_) => Self::new(Code::Exists, "workflow_name_taken", message),
            E::IdTaken(_) => Self::new(Code::Exists, "id_taken", message),
            E::WorkflowChanged { .. } => Self::new(Code::Conflict, "workflow_changed", message),
            E::ExecutionNotFound(_) => Self::not_found("execution_not_found", message),
            E::InputInvalid(violations) => Self::invalid("input_invalid", message, violations),
            E::TooManyExecutions(_) => later(Code::Exhausted, "too_many_executions", message),
            E::Rejected(Rejected::Ended) => Self::conflict("execution_ended", message),
            E::Rejected(Rejected::NotFailed) => Self::conflict("execution_not_failed", message),
            E::Rejected(Rejected::Compensated) => Self::conflict("execution_compensated", message),
            E::Rejected(Rejected::TooManySignals) => later(Code::Exhausted, "too_many_signals", message),
            E::Rejected(Rejected::UnknownSignal) => Self::not_found("signal_unknown", message),
            E::Rejected(Rejected::AlreadyStarted) => Self::conflict("execution_started", message),
            E::Overloaded => later(Code::Exhausted, "overloaded", message),
            E::Stopping => Self::unavailable("stopping", message),
            E::Moved => later(Code::Unavailable, "shard_moving", message),
            E::NotCommitted => Self::unavailable("not_committed", message),
            E::TimedOut => Self::new(Code::Timeout, "timeout", message),
            E::Unreadable(..) => Self::internal(error),
            E::Database(source) => store::error(source),
            E::Unread(error) => error,
        }
    }
}

fn later(code: Code, reason: &'static str, message: String) -> Error {
    let mut error = Error::new(code, reason, message);
    error.retry_after = Some(Duration::from_secs(1));
    error
}

impl From<OrchestratorError> for tonic::Status {
    fn from(error: OrchestratorError) -> Self {
        Error::from(error).into()
    }
}
