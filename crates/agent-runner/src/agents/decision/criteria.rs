//! Weighted scoring: each criterion gives every candidate a share from 0 to 1, and weights add them up.

use agent_sdk::{Failure, Task};
use expressions::Cel;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::expression::{Expression, to_cel};

/// One criterion, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Criterion {
    pub(super) name: String,
    field: Option<String>,
    pub(super) expression: Option<String>,
    #[serde(default = "one")]
    weight: f64,
    #[serde(default)]
    direction: Direction,
    /// What counts as nothing and what as everything; where absent, the least and the most among the candidates.
    min: Option<f64>,
    max: Option<f64>,
}

const fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Direction {
    #[default]
    Higher,
    Lower,
}

#[derive(Debug)]
enum Of {
    Field(String),
    Expression(Expression),
}

/// Criteria with their expressions compiled.
#[derive(Debug)]
pub(super) struct Criteria(Vec<(Criterion, Of)>);

/// A candidate's score.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Score {
    /// From 0 to 1.
    pub(super) score: f64,
    /// By criterion: its part of the score.
    pub(super) contributions: Map<String, Value>,
}

impl Criteria {
    pub(super) fn compile(criteria: Vec<Criterion>) -> Result<Self, Failure> {
        if criteria.iter().map(|criterion| criterion.weight).sum::<f64>() <= 0.0
            || criteria.iter().any(|criterion| criterion.weight < 0.0)
        {
            return Err(Failure::invalid_input(
                "criteria need weights that are not negative, at least one of them above zero",
            ));
        }
        let is_upside_down =
            |criterion: &&Criterion| matches!((criterion.min, criterion.max), (Some(min), Some(max)) if min > max);
        if let Some(criterion) = criteria.iter().find(is_upside_down) {
            return Err(Failure::invalid_input(format!(
                "the criterion {:?} has a `min` above its `max`",
                criterion.name
            )));
        }
        let compile = |criterion: Criterion| {
            let of = match (&criterion.field, &criterion.expression) {
                (None, Some(source)) => Of::Expression(Expression::compile(source)?),
                (Some(field), None) => Of::Field(field.clone()),
                (None, None) => Of::Field(criterion.name.clone()),
                (Some(_), Some(_)) => {
                    return Err(Failure::invalid_input(format!(
                        "the criterion {:?} takes `field` or `expression`, not both",
                        criterion.name
                    )));
                }
            };
            Ok((criterion, of))
        };
        criteria.into_iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// The scores of candidates, in their order. Expressions see each candidate under `name`, besides `others`.
    pub(super) fn score(
        &self,
        name: &str,
        candidates: &[Value],
        others: &[(&str, &Cel)],
    ) -> Result<Vec<Score>, Failure> {
        let total: f64 = self.0.iter().map(|(criterion, _)| criterion.weight).sum();
        let mut scores = vec![Score { score: 0.0, contributions: Map::new() }; candidates.len()];
        for (criterion, of) in &self.0 {
            let values = candidates.iter().map(|candidate| value(criterion, of, name, candidate, others));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            let least = criterion.min.unwrap_or_else(|| values.iter().copied().fold(f64::INFINITY, f64::min));
            let most = criterion.max.unwrap_or_else(|| values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            for (score, value) in scores.iter_mut().zip(values) {
                // Where all candidates are alike the criterion says nothing against any of them.
                let share = if most > least { ((value - least) / (most - least)).clamp(0.0, 1.0) } else { 1.0 };
                let share = match criterion.direction {
                    Direction::Lower if most > least => 1.0 - share,
                    Direction::Lower | Direction::Higher => share,
                };
                let part = rounded(share * criterion.weight / total);
                score.score = rounded(score.score + part);
                score.contributions.insert(criterion.name.clone(), json!(part));
            }
        }
        Ok(scores)
    }
}

/// To nine digits, so that 0.1 + 0.2 shows as 0.3.
fn rounded(number: f64) -> f64 {
    (number * 1e9).round() / 1e9
}

fn value(
    criterion: &Criterion,
    of: &Of,
    name: &str,
    candidate: &Value,
    others: &[(&str, &Cel)],
) -> Result<f64, Failure> {
    let found = match of {
        Of::Field(field) => candidate.get(field).cloned().unwrap_or_default(),
        Of::Expression(expression) => {
            let candidate = to_cel(candidate);
            let mut variables = vec![(name, &candidate)];
            variables.extend_from_slice(others);
            expression.evaluate(&variables)?
        }
    };
    match found {
        Value::Number(number) => Ok(number.as_f64().unwrap_or(0.0)),
        Value::Bool(truth) => Ok(f64::from(u8::from(truth))),
        other => {
            Err(Failure::fatal("not_a_number", format!("the criterion {:?} is a number, not {other}", criterion.name)))
        }
    }
}

/// The action `score`.
pub(super) fn score(task: &Task) -> Result<Value, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Input {
        items: Option<Vec<Value>>,
        item: Option<Value>,
        criteria: Vec<Criterion>,
    }
    let input: Input = super::super::input(task)?;
    let criteria = Criteria::compile(input.criteria)?;
    match (input.items, input.item) {
        (None, Some(item)) => {
            let scores = criteria.score("item", std::slice::from_ref(&item), &[])?;
            let score = scores.into_iter().next().ok_or_else(|| Failure::invalid_input("needs an item"))?;
            Ok(json!({ "item": item, "score": score.score, "contributions": score.contributions }))
        }
        (Some(items), None) => {
            let scores = criteria.score("item", &items, &[])?;
            let mut ranked: Vec<_> = items.into_iter().zip(scores).collect();
            // Stable: of equals the earlier comes first.
            ranked.sort_by(|(_, left), (_, right)| right.score.total_cmp(&left.score));
            let ranked: Vec<_> = (1..)
                .zip(ranked)
                .map(|(rank, (item, score))| json!({ "rank": rank, "item": item, "score": score.score, "contributions": score.contributions }))
                .collect();
            Ok(
                json!({ "best": ranked.first().map_or(Value::Null, |first: &Value| first["item"].clone()), "ranked": ranked }),
            )
        }
        (None, None) | (Some(_), Some(_)) => Err(Failure::invalid_input("needs one of `items` and `item`")),
    }
}
