//! What people write: a definition, checked whole.

use crate::Plan;

/// One fault of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer (RFC 6901) to the culprit.
    pub pointer: String,
    /// Stable and machine-readable, such as `unknown_step`.
    pub code: &'static str,
    /// For people: what is wrong and what would be right.
    pub message: String,
}

/// How large definitions may be; refusals say which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the JSON text.
    pub max_bytes: usize,
    /// Number of steps.
    pub max_steps: usize,
}

/// A definition that has been checked: the text as given, and the plan made of it.
#[derive(Debug)]
pub struct Definition {
    /// The workflow's name.
    pub name: String,
    /// For people.
    pub description: String,
    /// The compiled steps.
    pub plan: Plan,
}

impl Definition {
    /// Checks a definition whole, and compiles it; on failure every fault, in the order of the document.
    pub fn parse(json: &[u8], limits: Limits) -> Result<Self, Vec<Fault>> {
        let _ = (json, limits);
        todo!()
    }
}
