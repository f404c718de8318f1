//! What an agent is, and what makes a description of one valid.

use std::collections::BTreeSet;

use domain::{AgentId, Namespace, Payload, Timestamp, check_name};
use errors::Violation;

use crate::error::RegistryError;

/// Characters in a name.
const MAX_NAME: usize = 128;
/// Capabilities of one agent.
const MAX_CAPABILITIES: usize = 256;

/// A registered agent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) namespace: Namespace,
    pub(crate) agent_type: String,
    pub(crate) name: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) config: Payload,
    pub(crate) revision: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl Agent {
    /// Its share under the `weighted` strategy, and of its vote: `weight` in its configuration, 1 where there is none.
    pub(crate) fn weight(&self) -> f64 {
        #[derive(serde::Deserialize)]
        struct Weighted {
            weight: f64,
        }
        let weight = self.config.parse::<Weighted>().map_or(1.0, |config| config.weight);
        if weight.is_finite() && weight >= 0.0 { weight } else { 1.0 }
    }
}

/// An agent as a caller describes it.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) namespace: Namespace,
    pub(crate) id: Option<AgentId>,
    pub(crate) agent_type: String,
    pub(crate) name: String,
    pub(crate) capabilities: Vec<String>,
    /// Absent: `{}`, or what an attached agent has.
    pub(crate) config: Option<Vec<u8>>,
    pub(crate) attach: bool,
}

/// A registration that is in order.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) namespace: Namespace,
    pub(super) id: Option<AgentId>,
    pub(super) agent_type: String,
    pub(super) name: String,
    pub(super) capabilities: Vec<String>,
    pub(super) config: Option<Payload>,
    pub(super) attach: bool,
}

/// A change of an agent; what is absent stays.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) namespace: Namespace,
    pub(crate) id: AgentId,
    pub(crate) name: Option<String>,
    pub(crate) capabilities: Option<Vec<String>>,
    pub(crate) config: Option<Vec<u8>>,
    /// Zero: whatever is there.
    pub(crate) expected_revision: i64,
}

/// Collects every fault of a description.
pub(super) struct Check {
    max_config: usize,
    violations: Vec<Violation>,
}

impl Check {
    pub(super) fn new(max_config: usize) -> Self {
        Self { max_config, violations: Vec::new() }
    }

    pub(super) fn agent_type(&mut self, text: &str) {
        if let Err(error) = check_name(text) {
            self.fault("/agent_type", "invalid_name", error.to_string());
        }
    }

    pub(super) fn name(&mut self, text: &str) {
        let length = text.chars().count();
        let message = if text.trim().is_empty() {
            "must not be empty".to_owned()
        } else if length > MAX_NAME {
            format!("must be at most {MAX_NAME} characters long, not {length}")
        } else if text.chars().any(char::is_control) {
            "must not hold control characters".to_owned()
        } else {
            return;
        };
        self.fault("/name", "invalid_name", message);
    }

    /// Sorted, each once.
    pub(super) fn capabilities(&mut self, texts: Vec<String>) -> Vec<String> {
        if texts.len() > MAX_CAPABILITIES {
            let message = format!("must have at most {MAX_CAPABILITIES} entries, not {}", texts.len());
            self.fault("/capabilities", "too_many", message);
        }
        for (index, text) in texts.iter().enumerate().take(MAX_CAPABILITIES) {
            if let Err(error) = check_name(text) {
                self.fault(&format!("/capabilities/{index}"), "invalid_name", error.to_string());
            }
        }
        texts.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn config(&mut self, bytes: &[u8]) -> Payload {
        if bytes.len() > self.max_config {
            let message =
                format!("must have at most {} bytes (setting max_config), not {}", self.max_config, bytes.len());
            self.fault("/config", "too_large", message);
        } else if let Ok(config) = Payload::from_slice(bytes)
            && config.to_value().is_object()
        {
            return config;
        } else {
            self.fault("/config", "wrong_type", "must be a JSON object".to_owned());
        }
        Payload::empty_object()
    }

    fn fault(&mut self, field: &str, code: &str, message: String) {
        self.violations.push(Violation::new(field, code, message));
    }

    pub(super) fn finish(self) -> Result<(), RegistryError> {
        if self.violations.is_empty() { Ok(()) } else { Err(RegistryError::Invalid(self.violations)) }
    }
}
