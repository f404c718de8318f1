//! Ordered rules: the first that holds, or all that hold, say the outcome.

use agent_sdk::{Failure, Task};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::expression::{Expression, to_cel};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: Option<String>,
    when: String,
    outcome: Value,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    First,
    All,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default)]
    context: Value,
    rules: Vec<Rule>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    otherwise: Value,
}

/// The action `rules`.
pub(super) fn apply(task: &Task) -> Result<Value, Failure> {
    let input: Input = super::super::input(task)?;
    let context = to_cel(&input.context);
    let conditions: Vec<_> =
        input.rules.iter().map(|rule| Expression::compile(&rule.when)).collect::<Result<_, _>>()?;
    let mut matches = Vec::new();
    for ((index, rule), condition) in input.rules.iter().enumerate().zip(&conditions) {
        if condition.is_true(&[("context", &context)])? {
            let name = rule.name.clone().unwrap_or_else(|| index.to_string());
            matches.push(json!({ "rule": name, "outcome": rule.outcome }));
            match input.mode {
                Mode::First => break,
                Mode::All => {}
            }
        }
    }
    let first = matches.first().map_or(&Value::Null, |first| &first["rule"]).clone();
    let outcome = match (input.mode, matches.is_empty()) {
        (Mode::First | Mode::All, true) => input.otherwise,
        (Mode::First, false) => matches[0]["outcome"].clone(),
        (Mode::All, false) => matches.iter().map(|found| found["outcome"].clone()).collect(),
    };
    Ok(json!({ "matched": !matches.is_empty(), "outcome": outcome, "rule": first, "matches": matches }))
}
