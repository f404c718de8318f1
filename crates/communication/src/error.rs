//! What can go wrong, as callers see it.

use errors::{Code, Error};

/// Why communication cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be opened.
    #[error("the database of communication cannot be opened")]
    Database(#[from] store::OpenError),
    /// The mailboxes cannot be read.
    #[error("the mailboxes cannot be read")]
    Load(#[source] sqlx::Error),
}

/// Why a call or a session is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommunicationError {
    #[error("no live agent with {0}")]
    NoLiveAgent(String),
    #[error("the mailbox of agent {0} is full")]
    MailboxFull(String),
    #[error("there is no agent {0} in this namespace")]
    AgentNotFound(String),
    #[error("there is no message {0} in this namespace")]
    MessageNotFound(String),
    #[error("the id {0} belongs to another message")]
    MessageIdTaken(String),
    #[error("there is no dead letter {0} in this namespace")]
    DeadLetterNotFound(String),
    #[error("the dead letter {0} is a task: retry its execution instead")]
    NotReplayable(String),
    #[error("nothing was heard of the session within its lease")]
    LeaseLost,
    #[error("a newer stream of the same replica has taken over")]
    Replaced,
    #[error("the stream does not read what it is sent")]
    TooSlow,
    #[error("the server is stopping")]
    Stopping,
    #[error("the registry does not answer in time")]
    RegistryTimeout,
    #[error("the registry refuses: {0}")]
    Registry(Error),
    #[error("the request is invalid")]
    Invalid(Error),
    #[error("the database does not take the message now")]
    NotRecorded,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl From<CommunicationError> for Error {
    fn from(error: CommunicationError) -> Self {
        use CommunicationError as E;
        let message = error.to_string();
        match error {
            E::NoLiveAgent(_) => Self::unavailable("no_live_agent", message),
            E::MailboxFull(_) => Self::new(Code::Exhausted, "mailbox_full", message),
            E::AgentNotFound(_) => Self::not_found("agent_not_found", message),
            E::MessageNotFound(_) => Self::not_found("message_not_found", message),
            E::MessageIdTaken(_) => Self::new(Code::Exists, "message_id_taken", message),
            E::DeadLetterNotFound(_) => Self::not_found("dead_letter_not_found", message),
            E::NotReplayable(_) => Self::conflict("dead_letter_not_replayable", message),
            E::LeaseLost => Self::new(Code::Conflict, "session_lease_lost", message),
            E::Replaced => Self::new(Code::Conflict, "stream_replaced", message),
            E::TooSlow => Self::new(Code::Exhausted, "stream_too_slow", message),
            E::Stopping => Self::unavailable("stopping", message),
            E::RegistryTimeout => Self::unavailable("registry_unavailable", message),
            E::Registry(error) | E::Invalid(error) => error,
            E::NotRecorded => Self::unavailable("database_unavailable", message),
            E::Database(source) => store::error(source),
        }
    }
}

impl From<CommunicationError> for tonic::Status {
    fn from(error: CommunicationError) -> Self {
        Error::from(error).into()
    }
}
