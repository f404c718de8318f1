//! `decision`: scores candidates, applies rules, and votes.
//!
//! [`criteria`] weighs, [`rules`] matches, [`vote`] is a voter whose personality is its configuration. The same input and
//! configuration always give the same answer.

mod criteria;
mod rules;
mod vote;

use std::sync::Arc;

use agent_sdk::AgentBuilder;
use errors::Violation;
use serde_json::{Value, json};

/// The properties of the configuration, as JSON Schema.
pub(super) fn config_properties() -> Value {
    let text = json!({ "type": "string", "minLength": 1 });
    let choice = json!({
        "type": "object",
        "properties": { "choose": text, "because": { "type": "string" } },
        "required": ["choose"],
        "additionalProperties": false,
    });
    let rule = json!({
        "type": "object",
        "properties": { "when": text, "choose": text, "because": { "type": "string" } },
        "required": ["when", "choose"],
        "additionalProperties": false,
    });
    let criterion = json!({
        "type": "object",
        "properties": {
            "name": text, "field": text, "expression": text,
            "weight": { "type": "number", "minimum": 0 },
            "direction": { "enum": ["higher", "lower"] },
            "min": { "type": "number" }, "max": { "type": "number" },
        },
        "required": ["name"],
        "additionalProperties": false,
    });
    json!({
        "rules": { "type": "array", "items": rule },
        "otherwise": choice,
        "criteria": { "type": "array", "items": criterion },
    })
}

/// An agent with its personality compiled, or what is wrong with it.
pub(super) fn build(agent: AgentBuilder, config: &Value) -> Result<AgentBuilder, Vec<Violation>> {
    let voter = Arc::new(vote::Voter::new(config)?);
    Ok(agent
        .action("score", |task| async move { criteria::score(&task) })
        .action("rules", |task| async move { rules::apply(&task) })
        .action("vote", move |task| {
            let voter = Arc::clone(&voter);
            async move { voter.vote(&task) }
        }))
}
