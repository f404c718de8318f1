//! Why things fail.

use domain::Payload;
use serde::{Deserialize, Deserializer, Serialize};

/// Why an attempt, a step or an execution failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable and machine-readable: an agent's own code, or one of ours: `timeout`, `heartbeat_timeout`, `expression`,
    /// `execution_timeout`, `signal_timeout`, `invalid_decision`, `invalid_ballot`, `no_quorum`, `deadline`, `dead_lettered`.
    pub code: String,
    /// For people.
    pub message: String,
    /// May another attempt succeed?
    #[serde(default, skip_serializing_if = "is_false")]
    pub retryable: bool,
    /// Anything else.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub details: Option<Payload>,
    /// The step that caused it, where the failure is an execution's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_id: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Reads a field that is there, `null` included: for serde an `Option` of `null` is none, but `null` is a value that agents
/// give, and a log that loses it does not replay.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Payload>, D::Error> {
    Payload::deserialize(deserializer).map(Some)
}

impl Failure {
    /// A failure that trying again cannot mend.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false, details: None, step_id: None }
    }

    /// A failure that trying again may mend.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::fatal(code, message) }
    }

    /// An attempt that took longer than `timeout`.
    pub fn timeout(after: std::time::Duration) -> Self {
        Self::retryable("timeout", format!("no result within {}", humantime::format_duration(after)))
    }

    /// An attempt whose agent showed no sign of life for `heartbeat_timeout`.
    pub fn heartbeat_timeout(after: std::time::Duration) -> Self {
        Self::retryable("heartbeat_timeout", format!("no heartbeat within {}", humantime::format_duration(after)))
    }
}
