//! The built-in kinds of agents: what each can do, how it is configured, and what all of them share.

mod coordinator;
mod data;
mod decision;
mod echo;
mod http;

use std::sync::Arc;

use agent_sdk::{Agent, AgentBuilder, Failure, Task};
use errors::Violation;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{Settings, StartError, error::HostError, files::Files};

/// A built-in kind of agent; its name is the `agent_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Coordinator,
    Data,
    Decision,
    Echo,
    Http,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Coordinator, Self::Data, Self::Decision, Self::Echo, Self::Http];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Data => "data",
            Self::Decision => "decision",
            Self::Echo => "echo",
            Self::Http => "http",
        }
    }

    pub(crate) fn find(agent_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == agent_type)
    }

    /// What every agent of the kind can do, for workflows that name a capability.
    pub(crate) const fn capabilities(self) -> &'static [&'static str] {
        match self {
            Self::Coordinator => &["coordinate", "report"],
            Self::Data => &["data.read", "data.transform", "data.write"],
            Self::Decision => &["decide", "score"],
            Self::Echo => &["echo"],
            Self::Http => &["http.request"],
        }
    }

    fn config_schema(self) -> Value {
        let properties = match self {
            Self::Coordinator | Self::Data | Self::Echo => json!({}),
            Self::Decision => decision::config_properties(),
            Self::Http => http::config_properties(),
        };
        // `weight` belongs to the registry's selection and to weighted decisions, for agents of every kind.
        let mut properties = properties;
        properties["weight"] = json!({ "type": "number", "exclusiveMinimum": 0 });
        json!({ "type": "object", "properties": properties, "additionalProperties": false })
    }
}

/// What the built-in agents share.
#[derive(Debug)]
pub(crate) struct Workshop {
    files: Files,
    http: http::Client,
    /// Bounds the work on rows and files.
    threads: Semaphore,
    max_rows: usize,
    max_in_flight: u32,
}

impl Workshop {
    pub(crate) fn new(settings: &Settings) -> Result<Self, StartError> {
        Ok(Self {
            files: Files::new(settings)?,
            http: http::Client::new(settings)?,
            threads: Semaphore::new(settings.worker_threads),
            max_rows: settings.max_rows,
            max_in_flight: settings.max_in_flight,
        })
    }

    /// An agent of a kind, or everything that is wrong with its configuration.
    pub(crate) fn build(self: &Arc<Self>, kind: Kind, name: &str, config: &[u8]) -> Result<AgentBuilder, HostError> {
        let config = check_config(kind, name, config)?;
        let agent = Agent::builder(kind.as_str()).max_in_flight(self.max_in_flight);
        let built = match kind {
            Kind::Coordinator => Ok(coordinator::build(agent)),
            Kind::Data => Ok(data::build(agent, self)),
            Kind::Decision => decision::build(agent, &config),
            Kind::Echo => Ok(echo::build(agent.max_in_flight(self.max_in_flight.saturating_mul(4)))),
            Kind::Http => http::build(agent, &config, self),
        };
        built.map_err(|violations| HostError::Config { name: name.to_owned(), violations })
    }

    /// Does work on a thread of its own, at most `worker_threads` at once, so that it blocks nobody.
    async fn on_thread<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Failure> + Send + 'static,
    {
        let _permit = self.threads.acquire().await.map_err(|_| Failure::transient("stopping", "the agent stops"))?;
        match tokio::task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            // The panic goes on where the session turns it into a failure.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Failure::transient("stopping", "the agent stops")),
        }
    }
}

/// The configuration as a value, checked against the kind's schema.
fn check_config(kind: Kind, name: &str, config: &[u8]) -> Result<Value, HostError> {
    let fault = |violations| HostError::Config { name: name.to_owned(), violations };
    let config = if config.is_empty() { b"{}" } else { config };
    let config: Value = serde_json::from_slice(config)
        .map_err(|error| fault(vec![Violation::new("/config", "invalid_json", format!("not JSON: {error}"))]))?;
    let validator =
        jsonschema::validator_for(&kind.config_schema()).expect("the kinds' schemas are valid, which a test checks");
    let violations: Vec<_> = validator
        .iter_errors(&config)
        .map(|error| Violation::new(format!("/config{}", error.instance_path()), "config_invalid", error.to_string()))
        .collect();
    if violations.is_empty() { Ok(config) } else { Err(fault(violations)) }
}

/// The input of a task as an owned `T`, or `invalid_input`.
fn input<T: DeserializeOwned>(task: &Task) -> Result<T, Failure> {
    task.input()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_can_be_built_without_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { files_dir: folder.path().to_owned(), ..Settings::default() };
        let workshop = Arc::new(Workshop::new(&settings).unwrap());
        for kind in Kind::ALL {
            drop(workshop.build(kind, "a", b"{}").unwrap());
            assert_eq!(Kind::find(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn a_faulty_configuration_is_told_field_by_field() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { files_dir: folder.path().to_owned(), ..Settings::default() };
        let workshop = Arc::new(Workshop::new(&settings).unwrap());
        let config = json!({ "rules": [{ "when": "true", "choose": 1 }], "wieght": 2 }).to_string();
        let Err(HostError::Config { violations, .. }) = workshop.build(Kind::Decision, "a", config.as_bytes()) else {
            panic!("it is faulty")
        };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert!(fields.contains(&"/config/rules/0/choose"), "{violations:?}");
        let config = json!({ "rules": [{ "when": "1 +", "choose": "a" }] }).to_string();
        let Err(HostError::Config { violations, .. }) = workshop.build(Kind::Decision, "a", config.as_bytes()) else {
            panic!("it is faulty")
        };
        assert_eq!(violations[0].field, "/config/rules/0/when");
    }
}
