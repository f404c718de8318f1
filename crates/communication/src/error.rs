//! What can go wrong, as callers see it.

use errors::{Code, Error, Violation};

use crate::{app::DeadLetter, transport::LiveError};

/// Why communication cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be opened.
    #[error("communication's database cannot be opened")]
    Database(#[from] store::OpenError),
    /// The settings of Redis are faulty.
    #[error("Redis cannot be used")]
    Redis(#[from] store::RedisError),
    /// The unfinished messages cannot be read.
    #[error("the unfinished messages cannot be read")]
    Load(#[source] sqlx::Error),
}

/// Why a call is refused or a stream ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommunicationError {
    #[error("the request is invalid: {}: {}", .0.field, .0.message)]
    Invalid(Violation),
    #[error("there is no agent {0} in this namespace")]
    AgentNotFound(String),
    #[error("no live agent fits {0}")]
    NoLiveAgent(String),
    #[error("the mailbox of {0} is full")]
    MailboxFull(String),
    #[error("there is no message {0} in this namespace")]
    MessageNotFound(String),
    #[error("there is no dead letter {0} in this namespace")]
    DeadLetterNotFound(String),
    #[error(
        "dead letter {} is of a task: call RetryExecution of {} with the task id {:?}, then replay it with execution_retried",
        .0.id, .0.execution_id(), .0.subject_id
    )]
    NotReplayable(Box<DeadLetter>),
    #[error("nothing was heard within the lease")]
    LeaseLost,
    #[error("a newer stream of the same replica has replaced this one")]
    Replaced,
    #[error("the reader is too far behind")]
    TooSlow,
    #[error("live events cannot be carried now; Redis is away")]
    LiveUnavailable(#[source] Option<store::RedisError>),
    #[error("as many subscriptions are open here as may be")]
    TooManySubscriptions,
    #[error("too much waits for the database")]
    Congested,
    #[error("the database does not answer now")]
    NotRecorded,
    #[error("the server stops")]
    Stopping,
    #[error("the registry does not answer")]
    Registry(#[source] Box<Error>),
    #[error("{}", .0.message)]
    Forbidden(Box<Error>),
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

impl CommunicationError {
    /// One faulty field.
    pub(crate) fn field(field: impl std::fmt::Display, code: &str, message: impl std::fmt::Display) -> Self {
        Self::Invalid(Violation::new(field.to_string(), code, message.to_string()))
    }
}

impl From<LiveError> for CommunicationError {
    fn from(error: LiveError) -> Self {
        match error {
            LiveError::Unavailable(source) => Self::LiveUnavailable(source),
            LiveError::TooMany => Self::TooManySubscriptions,
        }
    }
}

impl From<CommunicationError> for Error {
    fn from(error: CommunicationError) -> Self {
        let message = error.to_string();
        match error {
            CommunicationError::Invalid(violation) => Self::invalid("request_invalid", message, vec![violation]),
            CommunicationError::AgentNotFound(_) => Self::not_found("agent_not_found", message),
            CommunicationError::NoLiveAgent(_) => Self::unavailable("no_live_agent", message),
            CommunicationError::MailboxFull(_) => {
                let mut error = Self::new(Code::Exhausted, "mailbox_full", message);
                error.retry_after = Some(std::time::Duration::from_secs(1));
                error
            }
            CommunicationError::MessageNotFound(_) => Self::not_found("message_not_found", message),
            CommunicationError::DeadLetterNotFound(_) => Self::not_found("dead_letter_not_found", message),
            CommunicationError::NotReplayable(_) => Self::conflict("dead_letter_not_replayable", message),
            CommunicationError::LeaseLost => Self::new(Code::Conflict, "session_lease_lost", message),
            CommunicationError::Replaced => Self::new(Code::Conflict, "stream_replaced", message),
            CommunicationError::TooSlow => Self::new(Code::Exhausted, "reader_too_slow", message),
            CommunicationError::LiveUnavailable(source) => {
                let error = Self::unavailable("live_unavailable", message);
                match source {
                    Some(source) => error.caused_by(source),
                    None => error,
                }
            }
            CommunicationError::TooManySubscriptions => Self::new(Code::Exhausted, "too_many_subscriptions", message),
            CommunicationError::Congested | CommunicationError::NotRecorded => {
                Self::unavailable("database_unavailable", message)
            }
            CommunicationError::Stopping => Self::unavailable("stopping", message),
            // What the registry itself says (a name that is taken, a faulty field) is for the caller.
            CommunicationError::Registry(source) => match source.code {
                Code::Unavailable | Code::Timeout | Code::Internal => {
                    Self::unavailable("registry_unavailable", message).caused_by(*source)
                }
                _ => *source,
            },
            CommunicationError::Forbidden(error) => *error,
            CommunicationError::Database(source) => store::error(source),
        }
    }
}

impl From<CommunicationError> for tonic::Status {
    fn from(error: CommunicationError) -> Self {
        Error::from(error).into()
    }
}
