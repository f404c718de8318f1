//! How a handler says that it did not work.
//!
//! [`Failure`] is not itself a `std::error::Error`, so that `?` can turn every error into one.

use std::{borrow::Cow, fmt, time::Duration};

use contracts::communication::v1 as proto;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a task failed: what the workflow's retry policy, its `on_failure` and people see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable and machine-readable, such as `file_not_found`.
    pub code: Cow<'static, str>,
    /// For people: what is wrong, and what would be right.
    pub message: String,
    /// False where trying again cannot help.
    pub retryable: bool,
    /// Anything more that a program may want to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Value>>,
}

impl Failure {
    /// A failure that the same attempt would meet again.
    pub fn fatal(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false, details: None }
    }

    /// A failure that may pass.
    pub fn transient(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::fatal(code, message) }
    }

    /// An input that the action cannot work with: `invalid_input`.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::fatal("invalid_input", message)
    }

    /// With more for programs.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub(crate) fn panic(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned());
        Self::transient("panic", format!("the agent's handler panicked: {text}"))
    }

    pub(crate) fn into_proto(self) -> proto::TaskFailure {
        /// A failure goes into the log: what explains it is short, what is longer belongs into a file.
        const MOST_MESSAGE: usize = 16 * 1024;
        const MOST_DETAILS: usize = 1 << 20;
        let details = self.details.map_or_else(Vec::new, |details| details.to_string().into_bytes());
        let details = if details.len() > MOST_DETAILS { Vec::new() } else { details };
        let mut message = self.message;
        message.truncate(message.floor_char_boundary(MOST_MESSAGE));
        proto::TaskFailure { code: self.code.into_owned(), message, retryable: self.retryable, details: details.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

/// Any error becomes a failure with the code `error` that may be tried again.
impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::transient("error", errors::chain(&error))
    }
}

/// Why a message was not dealt with.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Not now: deliver it again later. The delivery counts towards the limit after which it is a dead letter.
    Retry {
        /// For people.
        reason: String,
        /// Not before this long.
        delay: Duration,
    },
    /// Never: it becomes a dead letter at once.
    Reject {
        /// For people.
        reason: String,
    },
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let reason = failure.to_string();
        if failure.retryable { Self::Retry { reason, delay: Duration::from_secs(1) } } else { Self::Reject { reason } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_explains_a_failure_is_bounded() {
        let long = Failure {
            details: Some(Box::new(serde_json::json!("x".repeat(2 << 20)))),
            ..Failure::fatal("a", "é".repeat(10_000))
        };
        let sent = long.into_proto();
        assert!(sent.details.is_empty() && sent.message.len() == 16 * 1024, "{}", sent.message.len());
    }

    #[test]
    fn any_error_becomes_a_failure_with_its_causes() {
        fn broken() -> Result<(), Failure> {
            Err(std::io::Error::other("disk on fire"))?;
            Ok(())
        }
        let failure = broken().unwrap_err();
        assert_eq!(
            (failure.code.as_ref(), failure.message.as_str(), failure.retryable),
            ("error", "disk on fire", true)
        );
    }
}
