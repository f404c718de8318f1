//! One error at every edge: a small [`Code`] decides the gRPC code, the HTTP status, the log level and whether a caller may
//! try again; a stable reason tells programs what happened; violations name the faulty fields.
//!
//! Services map their own enums to [`Error`] in one exhaustive function each; [`Error`] travels as a `tonic::Status` with
//! `google.rpc` details and reads back from it without loss. What only the log may see goes into the source.

mod code;
mod wire;

use std::{fmt, sync::Arc, time::Duration};

pub use code::Code;

/// One fault in one field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// A JSON pointer into the request's document, or the name of a parameter; empty for the document as a whole.
    pub field: String,
    /// Stable and machine-readable, such as `unknown_step`.
    pub code: String,
    /// For people: what is wrong and what would be right.
    pub message: String,
}

impl Violation {
    /// A fault in `field`.
    pub fn new(field: impl Into<String>, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), code: code.into(), message: message.into() }
    }
}

/// What a caller may know of a failure, and for the log its cause.
#[derive(Clone, Debug)]
pub struct Error {
    /// The class.
    pub code: Code,
    /// Stable and machine-readable, such as `agent_not_found`; listed in `docs/errors.md`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The faulty fields.
    pub violations: Vec<Violation>,
    /// When to try again, where that is known.
    pub retry_after: Option<Duration>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without further details.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), violations: Vec::new(), retry_after: None, source: None }
    }

    /// A faulty request.
    pub fn invalid(reason: &'static str, message: impl Into<String>, violations: Vec<Violation>) -> Self {
        Self { violations, ..Self::new(Code::Invalid, reason, message) }
    }

    /// One faulty field.
    pub fn invalid_field(field: impl Into<String>, code: impl Into<String>, message: impl fmt::Display) -> Self {
        let violation = Violation::new(field, code, message.to_string());
        Self::invalid(
            "request_invalid",
            match violation.field.as_str() {
                "" => format!("the request is invalid: {}", violation.message),
                field => format!("the request is invalid: {field}: {}", violation.message),
            },
            vec![violation],
        )
    }

    /// Something that is not there.
    pub fn not_found(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, reason, message)
    }

    /// A state that forbids the call.
    pub fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::WrongState, reason, message)
    }

    /// Our own fault; the caller sees nothing of the cause.
    pub fn internal(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(Code::Internal, "internal", "internal error").caused_by(source)
    }

    /// Something outside that does not answer now; the caller sees nothing of the cause.
    pub fn unavailable(reason: &'static str, message: impl Into<String>) -> Self {
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(Code::Unavailable, reason, message) }
    }

    /// With a cause for the log.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// A lower-level failure with its causes, for the log: `a: b: c`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
