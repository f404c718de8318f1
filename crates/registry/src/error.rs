//! What can go wrong, as callers see it.

use errors::{Code, Error, Violation};

/// Why a registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be opened.
    #[error("the registry's database cannot be opened")]
    Database(#[from] store::OpenError),
    /// The agents cannot be read.
    #[error("the registry's agents cannot be read")]
    Load(#[source] sqlx::Error),
}

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("the agent is invalid: {}", describe(.0))]
    Invalid(Vec<Violation>),
    #[error("there is no agent {0} in this namespace")]
    NotFound(String),
    #[error("another agent of this namespace has the name {0:?}")]
    NameTaken(String),
    #[error("the id {0} belongs to another agent")]
    IdTaken(String),
    #[error("the agent is at revision {found}, not {expected}")]
    Changed { expected: i64, found: i64 },
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
}

fn describe(violations: &[Violation]) -> String {
    let texts: Vec<_> =
        violations.iter().map(|violation| format!("{}: {}", violation.field, violation.message)).collect();
    texts.join("; ")
}

impl From<RegistryError> for Error {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::Invalid(violations) => Self::invalid("agent_invalid", message, violations),
            RegistryError::NotFound(_) => Self::not_found("agent_not_found", message),
            RegistryError::NameTaken(_) => Self::new(Code::Exists, "agent_name_taken", message),
            RegistryError::IdTaken(_) => Self::new(Code::Exists, "agent_id_taken", message),
            RegistryError::Changed { .. } => Self::new(Code::Conflict, "agent_changed", message),
            RegistryError::Database(source) => store::error(source),
        }
    }
}

impl From<RegistryError> for tonic::Status {
    fn from(error: RegistryError) -> Self {
        Error::from(error).into()
    }
}
