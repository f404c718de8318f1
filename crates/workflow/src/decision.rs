//! How ballots become an outcome.

use serde::{Deserialize, Serialize};

/// A voter's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ballot {
    /// The option chosen; for a ranked ballot the first of the ranking.
    pub choice: String,
    /// Options from best to worst, under the `ranked` strategy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<String>,
    /// Why, in the voter's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rationale: String,
}

impl Eq for Ballot {}
