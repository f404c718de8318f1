//! What can go wrong, as callers see it.

use std::path::PathBuf;

use errors::{Code, Error, Violation};

/// Why a runner cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder for files is not there.
    #[error("files_dir {path:?} cannot be used")]
    FilesDir {
        /// As configured.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `write_dir` leaves the folder for files.
    #[error("write_dir {0:?} must be a relative path without `..`")]
    WriteDir(PathBuf),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
}

/// Why an agent cannot be hosted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// No kind of that name.
    #[error("there is no built-in kind of agent {0:?}")]
    UnknownKind(String),
    /// The configuration does not fit the kind.
    #[error("the configuration of agent {name:?} is invalid: {}", describe(.violations))]
    Config { name: String, violations: Vec<Violation> },
}

fn describe(violations: &[Violation]) -> String {
    let texts: Vec<_> =
        violations.iter().map(|violation| format!("{}: {}", violation.field, violation.message)).collect();
    texts.join("; ")
}

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        let message = error.to_string();
        match error {
            HostError::UnknownKind(_) => Self::new(Code::Invalid, "unknown_agent_kind", message),
            HostError::Config { violations, .. } => Self::invalid("agent_config_invalid", message, violations),
        }
    }
}
