//! A voter: rules first, then weighted criteria over the options, then what is chosen otherwise.

use agent_sdk::{Failure, Task};
use errors::Violation;
use expressions::Cel;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::criteria::{Criteria, Criterion};
use crate::{
    expression::{Expression, to_cel},
    template,
};

#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    rules: Vec<Rule>,
    otherwise: Option<Choice>,
    #[serde(default)]
    criteria: Vec<Criterion>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    when: String,
    choose: String,
    #[serde(default)]
    because: String,
}

#[derive(Debug, Deserialize)]
struct Choice {
    choose: String,
    #[serde(default)]
    because: String,
}

/// What a voter is asked.
#[derive(Debug, Deserialize)]
struct Question {
    #[serde(default, rename = "question")]
    text: String,
    options: Vec<String>,
    #[serde(default)]
    context: Value,
    #[serde(default)]
    strategy: String,
}

/// A voter's answer.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Ballot {
    choice: String,
    /// From best to worst; every option once.
    ranking: Vec<String>,
    rationale: String,
}

/// A voter's personality, compiled.
#[derive(Debug)]
pub(super) struct Voter {
    rules: Vec<(Expression, Choice)>,
    otherwise: Option<Choice>,
    criteria: Option<Criteria>,
}

impl Voter {
    /// From the agent's configuration.
    pub(super) fn new(config: &Value) -> Result<Self, Vec<Violation>> {
        let config = Config::deserialize(config)
            .map_err(|error| vec![Violation::new("/config", "config_invalid", error.to_string())])?;
        let mut violations = Vec::new();
        let mut rules = Vec::with_capacity(config.rules.len());
        for (index, rule) in config.rules.into_iter().enumerate() {
            match Expression::parse(&rule.when) {
                Ok(condition) => rules.push((condition, Choice { choose: rule.choose, because: rule.because })),
                Err(why) => {
                    violations.push(Violation::new(format!("/config/rules/{index}/when"), "expression_invalid", why));
                }
            }
        }
        let criteria = if config.criteria.is_empty() { Ok(None) } else { Criteria::compile(config.criteria).map(Some) };
        match criteria {
            Ok(criteria) if violations.is_empty() => Ok(Self { rules, otherwise: config.otherwise, criteria }),
            Ok(_) => Err(violations),
            Err(failure) => {
                violations.push(Violation::new("/config/criteria", "criteria_invalid", failure.message));
                Err(violations)
            }
        }
    }

    /// The action `vote`.
    pub(super) fn vote(&self, task: &Task) -> Result<Ballot, Failure> {
        let question: Question = super::super::input(task)?;
        if question.options.is_empty() {
            return Err(Failure::invalid_input("needs at least one option"));
        }
        let context = to_cel(&question.context);
        let options = to_cel(&json!(question.options));
        let asked = Cel::from(question.text.clone());
        let variables = [("context", &context), ("options", &options), ("question", &asked)];
        for (condition, choice) in &self.rules {
            if condition.is_true(&variables)? {
                return chosen(choice, &question);
            }
        }
        if let Some(criteria) = &self.criteria {
            return weighed(criteria, &question, &variables);
        }
        match &self.otherwise {
            Some(choice) => chosen(choice, &question),
            None => Err(Failure::fatal(
                "undecided",
                "no rule of the voter holds, and it has neither `criteria` nor `otherwise`",
            )),
        }
    }
}

/// The choice first, the other options in their order.
fn chosen(choice: &Choice, question: &Question) -> Result<Ballot, Failure> {
    if !question.options.contains(&choice.choose) {
        let message =
            format!("the voter would choose {:?}, which is none of {}", choice.choose, question.options.join(", "));
        return Err(Failure::fatal("not_an_option", message));
    }
    let seen = json!({ "context": question.context, "question": question.text, "strategy": question.strategy });
    let rationale = template::render(&choice.because, &seen)?;
    let mut ranking = vec![choice.choose.clone()];
    ranking.extend(question.options.iter().filter(|option| **option != choice.choose).cloned());
    Ok(Ballot { choice: choice.choose.clone(), ranking, rationale })
}

fn weighed(criteria: &Criteria, question: &Question, variables: &[(&str, &Cel)]) -> Result<Ballot, Failure> {
    let candidates: Vec<Value> = question.options.iter().map(|option| json!(option)).collect();
    let scores = criteria.score("option", &candidates, variables)?;
    let mut ranked: Vec<_> = question.options.iter().zip(scores).collect();
    ranked.sort_by(|(_, left), (_, right)| right.score.total_cmp(&left.score));
    let texts: Vec<_> = ranked.iter().map(|(option, score)| format!("{option} {}", score.score)).collect();
    let ranking: Vec<_> = ranked.into_iter().map(|(option, _)| option.clone()).collect();
    Ok(Ballot { choice: ranking[0].clone(), ranking, rationale: format!("weighed: {}", texts.join(", ")) })
}
