//! Why a call failed, and what to do about it.

use domain::NameError;
use serde::Deserialize;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server's address is none.
    #[error("{0:?} is not the URL of a server")]
    Url(String),
    /// No header can carry the API key.
    #[error("the API key has characters that no key has")]
    ApiKey,
    /// The namespace cannot exist.
    #[error("{namespace:?} is not a namespace")]
    Namespace {
        namespace: String,
        #[source]
        source: NameError,
    },
    /// This machine has no way to make calls.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// No answer.
    #[error("no answer from {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// The answer was a problem document.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// An error that no Troupe gives.
    #[error("{url} answered with status {status}, and not as a Troupe server does")]
    Foreign { url: String, status: u16 },
    /// An answer that is no JSON.
    #[error("{url} did not answer in JSON")]
    NotJson {
        url: String,
        #[source]
        source: serde_json::Error,
    },
    /// A live stream ended in the middle.
    #[error("the stream of events was cut")]
    Cut(#[source] reqwest::Error),
    /// A live stream that holds something else.
    #[error("the stream of events holds something else: {0}")]
    NotAnEvent(String),
    /// There is none of this name.
    #[error("there is no {kind} {name:?} in the namespace {namespace:?}")]
    Unknown { kind: &'static str, name: String, namespace: String },
    /// An agent of this name is there, and is something else.
    #[error("the agent {name:?} exists, with the type {agent_type:?}, and what an agent is cannot change")]
    OtherType { name: String, agent_type: String },
}

impl Error {
    /// The faulty fields, one line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        match self {
            Self::Problem(problem) => problem.errors.iter().map(Fault::to_string).collect(),
            Self::Url(_)
            | Self::ApiKey
            | Self::Namespace { .. }
            | Self::Client(_)
            | Self::Unreachable { .. }
            | Self::Foreign { .. }
            | Self::NotJson { .. }
            | Self::Cut(_)
            | Self::NotAnEvent(_)
            | Self::Unknown { .. }
            | Self::OtherType { .. } => Vec::new(),
        }
    }

    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Url(_) => Some("it looks like http://127.0.0.1:8080; give it with --url or TROUPE_URL".to_owned()),
            Self::Unreachable { source, .. } if source.is_connect() => {
                Some("start it with `troupe dev`, or name another server with --url or TROUPE_URL".to_owned())
            }
            Self::Unreachable { source, .. } if source.is_timeout() => {
                Some("the server is there but does not answer; look into its log".to_owned())
            }
            Self::Foreign { .. } | Self::NotJson { .. } => {
                Some("is something else listening there? Name the server with --url or TROUPE_URL".to_owned())
            }
            Self::Problem(problem) => problem.hint(),
            Self::Unknown { kind, .. } => {
                Some(format!("`troupe {kind}s` lists what there is; -n names another namespace"))
            }
            Self::OtherType { name, .. } => {
                Some(format!("delete it first with `troupe agents delete {name}`, or choose another name"))
            }
            Self::ApiKey
            | Self::Namespace { .. }
            | Self::Client(_)
            | Self::Unreachable { .. }
            | Self::Cut(_)
            | Self::NotAnEvent(_) => None,
        }
    }

    /// May the same call succeed a little later?
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut(_) => true,
            Self::Problem(problem) => matches!(problem.status, 429 | 503 | 504),
            Self::Url(_)
            | Self::ApiKey
            | Self::Namespace { .. }
            | Self::Client(_)
            | Self::Foreign { .. }
            | Self::NotJson { .. }
            | Self::NotAnEvent(_)
            | Self::Unknown { .. }
            | Self::OtherType { .. } => false,
        }
    }
}

/// A problem document (RFC 9457) as the gateway writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    pub(crate) title: String,
    pub(crate) detail: String,
    pub(crate) code: String,
    pub(crate) request_id: String,
    pub(crate) errors: Vec<Fault>,
}

/// One faulty field.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Fault {
    /// A place in the body; absent where a parameter or header is at fault.
    pointer: Option<String>,
    /// The parameter or header.
    field: Option<String>,
    code: String,
    message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(formatter, "{text}")?;
        if self.code.is_empty() { Ok(()) } else { write!(formatter, " ({})", self.code) }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.pointer.as_deref().or(self.field.as_deref()).filter(|place| !place.is_empty()).unwrap_or("/");
        write!(formatter, "{place}: {}", self.message)?;
        if self.code.is_empty() { Ok(()) } else { write!(formatter, " ({})", self.code) }
    }
}

impl Problem {
    fn hint(&self) -> Option<String> {
        let hint = match self.code.as_str() {
            "definition_invalid" => "docs/workflows.md describes every field",
            "workflow_not_found" => "`troupe workflows` lists what there is; `troupe apply -f` adds to it",
            "workflow_archived" => "apply its definition again to have an active one",
            "agent_not_found" => "`troupe agents` lists what there is",
            "execution_not_found" => "`troupe ps` lists what there is; -n names another namespace",
            "execution_not_failed" => "only a failed execution is retried; `troupe show` tells how it stands",
            "execution_compensated" => "its work was undone; start a new execution with `troupe run`",
            "signal_unknown" => "`troupe explain` names the signals that it waits for",
            "dead_letter_not_replayable" => "it is a task: `troupe retry` its execution instead",
            _ if self.status == 500 => {
                return Some(format!("this is our fault; the server's log has more under request {}", self.request_id));
            }
            _ if matches!(self.status, 429 | 503 | 504) => "try again in a moment",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_every_faulty_field_and_what_to_do() {
        let problem = r#"{"status": 400, "title": "Bad Request", "detail": "2 faults", "code": "definition_invalid",
            "errors": [{"pointer": "/steps/0/id", "code": "duplicate_step", "message": "taken"}, {"pointer": "", "message": "x"},
            {"field": "limit", "code": "out_of_range", "message": "at most 500"}]}"#;
        let error = Error::Problem(Box::new(serde_json::from_str(problem).unwrap()));
        assert_eq!(error.to_string(), "2 faults (definition_invalid)");
        assert_eq!(
            error.faults(),
            ["/steps/0/id: taken (duplicate_step)", "/: x", "limit: at most 500 (out_of_range)"]
        );
        assert!(error.hint().unwrap().contains("docs/workflows.md"));
        assert!(!error.is_passing());
    }
}
