//! [`Error`] as a `tonic::Status` with `google.rpc` details, and back.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{LazyLock, Mutex},
};

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{Code, Error, Violation};

const DOMAIN: &str = "troupe";
/// What one text of an answer may have, in bytes. Many repeat what the caller has said, and that may be anything.
const MOST_TEXT: usize = 2_000;
/// What all faulty fields may have. They travel in the head of an answer, which clients bound: those of ours by 4 MiB.
const MOST_DETAILS: usize = 1 << 20;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        // An error is logged where it stops travelling; for an internal one that is here, since its cause stays inside.
        if error.code == Code::Internal {
            tracing::error!(reason = error.reason, error = crate::chain(&error), "internal error");
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(error.reason, DOMAIN, HashMap::new());
        let mut room = MOST_DETAILS;
        for violation in &error.violations {
            // `FieldViolation` has no field for a code; the part before the first ": " is it.
            let text = format!("{}: {}", violation.code, cut(&violation.message));
            let field = cut(&violation.field);
            let Some(rest) = room.checked_sub(field.len() + text.len()) else { break };
            room = rest;
            details.add_bad_request_violation(field, text);
        }
        if let Some(delay) = error.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(error.code.grpc(), cut(&error.message), details)
    }
}

/// The beginning of a text that is too long.
fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= MOST_TEXT {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(MOST_TEXT)]))
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let code = Code::from_grpc(status.code());
        let reason = details
            .error_info()
            .filter(|info| info.domain == DOMAIN)
            .map_or_else(|| default_reason(code), |info| intern(&info.reason));
        let violations = details.bad_request().map_or_else(Vec::new, |bad_request| {
            let split = |text: &str| match text.split_once(": ") {
                Some((code, message)) => (code.to_owned(), message.to_owned()),
                None => ("invalid".to_owned(), text.to_owned()),
            };
            let violation = |found: &tonic_types::FieldViolation| {
                let (code, message) = split(&found.description);
                Violation { field: found.field.clone(), code, message }
            };
            bad_request.field_violations.iter().map(violation).collect()
        });
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        let message = status.message().to_owned();
        Self { violations, retry_after, ..Error::new(code, reason, message).caused_by(status) }
    }
}

const fn default_reason(code: Code) -> &'static str {
    match code {
        Code::Invalid => "request_invalid",
        Code::Unauthenticated => "unauthenticated",
        Code::Forbidden => "forbidden",
        Code::NotFound => "not_found",
        Code::Exists => "exists",
        Code::Conflict => "conflict",
        Code::WrongState => "wrong_state",
        Code::Exhausted => "exhausted",
        Code::Unavailable => "unavailable",
        Code::Timeout => "timeout",
        Code::Internal => "internal",
    }
}

/// A reason that came over the wire as one that lives as long as the program.
///
/// Reasons are a small closed set; the bound keeps a misbehaving peer from growing it.
fn intern(reason: &str) -> &'static str {
    const MOST: usize = 1_000;
    static KNOWN: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(found) = known.get(reason) {
        return found;
    }
    if known.len() >= MOST {
        return "unknown";
    }
    let leaked: &'static str = Box::leak(reason.to_owned().into_boxed_str());
    known.insert(leaked);
    leaked
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_error_reads_back_from_its_status() {
        let error = Error {
            retry_after: Some(Duration::from_secs(2)),
            ..Error::invalid(
                "definition_invalid",
                "2 faults",
                vec![Violation::new("/steps/0/id", "duplicate_id", "twice: here")],
            )
        };
        let back = Error::from(Status::from(error.clone()));
        assert_eq!((back.code, back.reason, &back.message), (error.code, error.reason, &error.message));
        assert_eq!(back.violations, error.violations);
        assert_eq!(back.retry_after, error.retry_after);
    }

    #[test]
    fn what_is_told_fits_the_head_of_an_answer() {
        let long = "\u{e9}".repeat(1 << 20);
        let violations = vec![Violation::new(long.clone(), "unknown_field", long.clone()); 5_000];
        let status = Status::from(Error::invalid("definition_invalid", long, violations));
        assert!(status.message().len() < 3_000 && status.details().len() < (2 << 20), "{}", status.details().len());
        let back = Error::from(status);
        assert!(back.violations.len() > 200, "{}", back.violations.len());
        assert!(back.violations.iter().all(|violation| violation.code == "unknown_field"));
    }

    #[test]
    fn a_foreign_status_gets_the_reason_of_its_class() {
        let error = Error::from(Status::unavailable("connection refused"));
        assert_eq!((error.code, error.reason), (Code::Unavailable, "unavailable"));
    }

    #[test]
    fn the_cause_of_an_internal_error_stays_inside() {
        let status = Status::from(Error::internal(std::io::Error::other("secret")));
        assert!(!format!("{status:?}").contains("secret"));
    }
}
