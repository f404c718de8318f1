//! Every failure as an RFC 9457 problem document.
//!
//! A handler answers with a [`Problem`]; it travels as a response without body, and one middleware writes the document,
//! since only there the request's id is known. What axum itself refuses (405 for one) is turned into a problem there too.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use errors::{Code, Error, Violation};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::Check;

/// The media type of a problem document.
pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// A failure, told in a way that programs and people can use.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "urn:troupe:problem:request_invalid", "title": "Bad Request", "status": 400, "code": "request_invalid",
    "detail": "the request is invalid: /name: missing field `name`", "request_id": "req_01jx4q3nd8e5r0cawm6n8gs3kt",
    "errors": [{ "pointer": "/name", "code": "missing_field", "message": "missing field `name`" }],
}))]
pub(crate) struct Document<'a> {
    /// A URN that ends with the code.
    #[serde(rename = "type")]
    kind: String,
    /// The meaning of the status.
    title: &'a str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What went wrong this time.
    detail: &'a str,
    /// Stable and machine-readable.
    code: &'a str,
    /// Names the request in the server's log.
    request_id: &'a str,
    /// The faulty fields, all that were found.
    errors: &'a [Fault],
    /// What the server needs and how it does; only where the server is not ready.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    checks: &'a [Check],
}

/// One faulty field: `pointer` into the body, or `field` for a parameter or header.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Fault {
    /// JSON pointer (RFC 6901) into the body; empty for the body as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pointer: Option<String>,
    /// Name of a parameter or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// Stable and machine-readable.
    code: String,
    /// What is wrong and what would be right.
    message: String,
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Self {
        let Violation { field, code, message } = violation;
        let in_body = field.is_empty() || field.starts_with('/');
        let (pointer, field) = if in_body { (Some(field), None) } else { (None, Some(field)) };
        Self { pointer, field, code, message }
    }
}

/// A failure on its way to the client.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    // Slices, so that the results which carry a problem stay small.
    faults: Box<[Fault]>,
    checks: Box<[Check]>,
    retry_after: Option<Duration>,
    cause: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            faults: Box::default(),
            checks: Box::default(),
            retry_after: None,
            cause: None,
        }
    }

    /// One faulty field of the body (a JSON pointer, or empty) or one faulty parameter (its name).
    pub(crate) fn field(field: impl Into<String>, code: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Error::invalid_field(field, code, message).into()
    }

    /// Something that does not have room now.
    pub(crate) fn overloaded(detail: &'static str) -> Self {
        let retry_after = Some(Duration::from_secs(1));
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail) }
    }

    /// One request too many of this caller's; there is room for one more after so long.
    pub(crate) fn rate_limited(retry_after: Duration) -> Self {
        let detail = "too many requests (setting rate_limit); `RateLimit-Policy` says how many there may be";
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail) }
    }

    /// Our own fault, or that of a service behind; the client sees nothing of the cause.
    pub(crate) fn internal(cause: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error");
        Self { cause: Some(cause.into()), ..problem }
    }

    /// A refusal of what came in the body: the fields that the service names are places in it.
    pub(crate) fn in_body(mut error: Error) -> Self {
        for violation in &mut error.violations {
            let is_pointer = violation.field.is_empty() || violation.field.starts_with('/');
            if !is_pointer {
                violation.field = format!("/{}", violation.field.replace('.', "/"));
            }
        }
        error.into()
    }

    /// What axum refused by itself.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("route_not_found", "there is nothing at this path; /docs shows what there is"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "this path does not know the method; `Allow` names those that it knows")
            }
            _ if status.is_server_error() => ("internal", "internal error"),
            _ => ("request_invalid", "the request cannot be understood"),
        };
        Self::new(status, code, detail)
    }

    /// With every fault.
    pub(crate) fn with_violations(mut self, violations: Vec<Violation>) -> Self {
        self.faults = violations.into_iter().map(Fault::from).collect();
        self
    }

    /// With how everything does that is needed.
    pub(crate) fn with_checks(self, checks: Vec<Check>) -> Self {
        Self { checks: checks.into(), ..self }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// Stable and machine-readable.
    pub(crate) const fn code(&self) -> &'static str {
        self.code
    }

    /// For the log only.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Seconds after which it may be tried again, rounded up: a client that comes back too early is refused again.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.retry_after.map(|delay| (delay.as_secs() + u64::from(delay.subsec_nanos() > 0)).max(1))
    }

    /// The document.
    pub(crate) fn document<'a>(&'a self, request_id: &'a str) -> Document<'a> {
        Document {
            kind: format!("urn:troupe:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id,
            errors: &self.faults,
            checks: &self.checks,
        }
    }

    /// Writes the document into the response that carried this problem; other headers (`Allow`) stay.
    pub(crate) fn render(&self, response: Response, request_id: &str) -> Response {
        let (mut parts, _) = response.into_parts();
        let body = serde_json::to_vec(&self.document(request_id)).unwrap_or_default();
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        parts.headers.remove(header::CONTENT_LENGTH);
        if let Some(seconds) = self.retry_after() {
            parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        Response::from_parts(parts, axum::body::Body::from(body))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let cause = std::error::Error::source(&error).map(errors::chain);
        let mut detail = error.message;
        let mut violations = error.violations;
        // Lists call it a cursor here.
        for violation in violations.iter_mut().filter(|violation| violation.field == "page_token") {
            "cursor".clone_into(&mut violation.field);
            detail = format!("the request is invalid: cursor: {}", violation.message);
        }
        let retry_after = match error.code {
            Code::Unavailable | Code::Exhausted | Code::Timeout => {
                Some(error.retry_after.unwrap_or(Duration::from_secs(1)))
            }
            Code::Invalid
            | Code::Unauthenticated
            | Code::Forbidden
            | Code::NotFound
            | Code::Exists
            | Code::Conflict
            | Code::WrongState
            | Code::Internal => None,
        };
        if error.code == Code::Internal {
            return Self::internal(cause.unwrap_or(detail));
        }
        let problem = Self { retry_after, cause, ..Self::new(error.code.http(), error.reason, detail) };
        problem.with_violations(violations)
    }
}

impl From<tonic::Status> for Problem {
    fn from(status: tonic::Status) -> Self {
        Error::from(status).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
