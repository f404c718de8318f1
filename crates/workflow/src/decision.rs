//! How ballots become an outcome.
//!
//! What voters get is evaluated once, when the decision opens, and kept in the log; [`Question`] reads it back. [`tally`] is
//! pure and does not depend on the order of the votes.
//!
//! | strategy | an option's points | it wins with |
//! | --- | --- | --- |
//! | `majority` | ballots | more than half of them |
//! | `plurality` | ballots | more than any other option |
//! | `unanimous` | ballots | all of them |
//! | `weighted` | weight of its voters | more than half of the weight |
//! | `ranked` | of n options, n for each first place, n - 1 for each second, and so on; 0 where not ranked (Borda) | more than any other |
//!
//! Where no option wins, the decision is made all the same: its `winner` is `null` and its `tie` is true, and the workflow
//! goes on from there (`when: "steps.vote.output.tie"`). With fewer ballots than the quorum it fails with `no_quorum`.

use std::collections::HashSet;

use domain::{AgentId, Payload};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Failure, Voter,
    expression::Scope,
    plan::{Decision, Strategy},
};

/// What a voter is asked to do: the action of its task.
pub const VOTE: &str = "vote";

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

impl Ballot {
    /// Reads the result of a voter's task: `{"choice": "...", "ranking": [...], "rationale": "..."}`, of which `choice` or
    /// `ranking` must be there. A ranking may leave options out; under `ranked` a choice alone is a ranking of one. Fails with
    /// `invalid_ballot`, which another attempt may mend.
    pub fn from_payload(result: &Payload, options: &[String], strategy: Strategy) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            choice: Option<String>,
            ranking: Option<Vec<String>>,
            rationale: Option<String>,
        }
        let invalid = |message: String| Failure::retryable("invalid_ballot", message);
        let answer: Answer = result.parse().map_err(|_| {
            invalid("a ballot is an object like {\"choice\": \"…\", \"rationale\": \"…\"}, with \"ranking\": […] where options are ranked".to_owned())
        })?;
        let mut ranking = answer.ranking.unwrap_or_default();
        let choice = answer
            .choice
            .or_else(|| ranking.first().cloned())
            .ok_or_else(|| invalid("a ballot needs a `choice`".to_owned()))?;
        if !options.contains(&choice) {
            return Err(invalid(format!("{} is not one of the options {}", quoted(&choice), listed(options))));
        }
        let mut seen = HashSet::new();
        for option in &ranking {
            if !options.contains(option) {
                return Err(invalid(format!(
                    "the ranking has {}, which is not one of the options {}",
                    quoted(option),
                    listed(options)
                )));
            }
            if !seen.insert(option.as_str()) {
                return Err(invalid(format!("the ranking has {} twice", quoted(option))));
            }
        }
        if ranking.first().is_some_and(|first| *first != choice) {
            return Err(invalid(format!("the choice {} is not the first of the ranking", quoted(&choice))));
        }
        if strategy == Strategy::Ranked && ranking.is_empty() {
            ranking.push(choice.clone());
        }
        Ok(Self { choice, ranking, rationale: answer.rationale.unwrap_or_default() })
    }
}

/// The start of a text from outside, for messages.
fn quoted(text: &str) -> String {
    let start: String = text.chars().take(64).collect();
    format!("{start:?}")
}

fn listed(options: &[String]) -> String {
    options.iter().take(10).map(|option| quoted(option)).collect::<Vec<_>>().join(", ")
}

/// What is asked: the part of a voter's input that the tally needs again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Question {
    /// What the voters are asked.
    pub question: String,
    /// What can be chosen: at least one, all different.
    pub options: Vec<String>,
}

/// Options of one decision: a full ranking of them is compared with each.
const MOST_OPTIONS: usize = 1_000;

impl Question {
    /// Reads back what [`Decision::voter_input`] made.
    pub fn from_payload(input: &Payload) -> Result<Self, Failure> {
        input
            .parse()
            .map_err(|_| Failure::fatal("invalid_decision", "the input of the voters has no question and options"))
    }
}

impl Decision {
    /// The input of every voter's task, evaluated once, when the decision opens:
    /// `{"question", "options", "context", "strategy"}`. Fails with `expression`, or with `invalid_decision` where the
    /// options are not a list of at least one text, all different.
    pub fn voter_input(&self, scope: &dyn Scope) -> Result<Payload, Failure> {
        let invalid = |message: String| Failure::fatal("invalid_decision", message);
        let question = self.question.evaluate(scope)?;
        // A question that is one expression may give any value; what is asked is a text.
        let question = question.parse::<String>().unwrap_or_else(|_| question.as_str().to_owned());
        let mut options: Vec<String> = Vec::new();
        let mut seen = HashSet::new();
        let given = self.options.evaluate_list(scope)?;
        if given.len() > MOST_OPTIONS {
            return Err(invalid(format!("a decision has at most {MOST_OPTIONS} options, not {}", given.len())));
        }
        for option in given {
            let text = option
                .parse::<String>()
                .map_err(|_| invalid(format!("an option is a text, not {}", quoted(option.as_str()))))?;
            if !seen.insert(text.clone()) {
                return Err(invalid(format!("the option {} comes twice", quoted(&text))));
            }
            options.push(text);
        }
        if options.is_empty() {
            return Err(invalid("there is no option to choose".to_owned()));
        }
        let context = self.context.evaluate(scope)?;
        let input = Input { question, options, context, strategy: self.strategy };
        let json = serde_json::to_vec(&input).map_err(|error| invalid(error.to_string()))?;
        Payload::from_slice(&json).map_err(|error| invalid(error.to_string()))
    }
}

#[derive(Serialize)]
struct Input {
    question: String,
    options: Vec<String>,
    context: Payload,
    strategy: Strategy,
}

/// What was decided, and how: the output of the step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// What the voters were asked.
    pub question: String,
    /// What could be chosen.
    pub options: Vec<String>,
    /// How the outcome was found.
    pub strategy: Strategy,
    /// The option that won; absent where none did.
    pub winner: Option<String>,
    /// How far the best option is before the second, from 0 to 1 of all points that were given.
    pub margin: f64,
    /// Did no option win?
    pub tie: bool,
    /// The points of each option, in the order of the options.
    pub counts: Map<String, Value>,
    /// Who voted what.
    pub ballots: Vec<RecordedBallot>,
    /// Who did not vote.
    pub missing: Vec<Missing>,
    /// How many ballots were needed.
    pub quorum: u32,
    /// How many there are.
    pub votes: u32,
}

/// A ballot in a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordedBallot {
    /// Who.
    pub agent_id: AgentId,
    /// The voter's name then.
    pub name: String,
    /// What it chose.
    pub choice: String,
    /// Options from best to worst.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<String>,
    /// Why.
    pub rationale: String,
    /// How much it counted, under `weighted`; otherwise 1.
    pub weight: f64,
}

/// A voter without a ballot in a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    /// Who.
    pub agent_id: AgentId,
    /// The voter's name then.
    pub name: String,
    /// Why there is no ballot, as a failure's message.
    pub reason: String,
}

impl Record {
    /// As the output of the step.
    pub fn to_payload(&self) -> Payload {
        let value = serde_json::to_value(self).expect("a record has text keys and finite numbers only");
        Payload::from_value(&value)
    }
}

/// Weights count in millionths, so that sums are exact and their order does not matter.
const UNIT: u128 = 1_000_000;
/// Beyond it a weight is cut: the sum of all stays exact.
const HEAVIEST: f64 = 1e12;

/// Finds the outcome. Fails with `no_quorum`, the record so far in its details, where there are fewer ballots than `quorum`.
pub fn tally(
    question: &Question,
    strategy: Strategy,
    quorum: u32,
    votes: &[(&Voter, &Ballot)],
    missing: &[(&Voter, &Failure)],
) -> Result<Record, Failure> {
    let points = points(question, strategy, votes);
    let given = given(question, strategy, votes);
    let best = points.iter().copied().enumerate().max_by_key(|(index, points)| (*points, std::cmp::Reverse(*index)));
    let (leader, most) = best.unwrap_or_default();
    let second =
        points.iter().enumerate().filter(|(index, _)| *index != leader).map(|(_, points)| *points).max().unwrap_or(0);
    let won = most > 0
        && match strategy {
            Strategy::Majority | Strategy::Weighted => most * 2 > given,
            Strategy::Plurality | Strategy::Ranked => most > second,
            Strategy::Unanimous => most == given,
        };
    let options = question.options.iter();
    let record = Record {
        question: question.question.clone(),
        options: question.options.clone(),
        strategy,
        winner: question.options.get(leader).filter(|_| won).cloned(),
        margin: if given == 0 { 0.0 } else { (most - second) as f64 / given as f64 },
        tie: !won,
        counts: options.zip(&points).map(|(option, points)| (option.clone(), shown(*points))).collect(),
        ballots: votes.iter().map(|(voter, ballot)| recorded(voter, ballot, strategy)).collect(),
        missing: missing.iter().map(|(voter, failure)| absent(voter, failure)).collect(),
        quorum,
        votes: votes.len() as u32,
    };
    if record.votes < quorum {
        let message =
            format!("{} of {} voters voted; the quorum is {quorum}", record.votes, votes.len() + missing.len());
        return Err(Failure { details: Some(record.to_payload()), ..Failure::fatal("no_quorum", message) });
    }
    Ok(record)
}

/// The points of each option.
fn points(question: &Question, strategy: Strategy, votes: &[(&Voter, &Ballot)]) -> Vec<u128> {
    let mut points = vec![0_u128; question.options.len()];
    let place = |option: &String| question.options.iter().position(|known| known == option);
    for (voter, ballot) in votes {
        match strategy {
            Strategy::Majority | Strategy::Plurality | Strategy::Unanimous | Strategy::Weighted => {
                if let Some(option) = place(&ballot.choice) {
                    points[option] += weight(voter, strategy);
                }
            }
            Strategy::Ranked => {
                let ranked =
                    if ballot.ranking.is_empty() { std::slice::from_ref(&ballot.choice) } else { &ballot.ranking };
                for (rank, option) in ranked.iter().enumerate() {
                    if let Some(option) = place(option) {
                        points[option] += question.options.len().saturating_sub(rank) as u128 * UNIT;
                    }
                }
            }
        }
    }
    points
}

/// The most points that one option could have from these ballots.
fn given(question: &Question, strategy: Strategy, votes: &[(&Voter, &Ballot)]) -> u128 {
    let each = match strategy {
        Strategy::Majority | Strategy::Plurality | Strategy::Unanimous | Strategy::Weighted => 1,
        Strategy::Ranked => question.options.len() as u128,
    };
    votes.iter().map(|(voter, _)| weight(voter, strategy) * each).sum()
}

/// A weight that counts and prints: negative weights and what is not a number count nothing.
pub(crate) fn sound(weight: f64) -> f64 {
    if weight.is_nan() { 0.0 } else { weight.clamp(0.0, HEAVIEST) }
}

fn weight(voter: &Voter, strategy: Strategy) -> u128 {
    match strategy {
        Strategy::Weighted => (sound(voter.weight) * UNIT as f64).round() as u128,
        Strategy::Majority | Strategy::Plurality | Strategy::Unanimous | Strategy::Ranked => UNIT,
    }
}

/// Whole numbers as such: a count of ballots is 3, not 3.0.
fn shown(points: u128) -> Value {
    if points.is_multiple_of(UNIT) { json!((points / UNIT) as u64) } else { json!(points as f64 / UNIT as f64) }
}

fn recorded(voter: &Voter, ballot: &Ballot, strategy: Strategy) -> RecordedBallot {
    RecordedBallot {
        agent_id: voter.agent_id,
        name: voter.name.clone(),
        choice: ballot.choice.clone(),
        ranking: ballot.ranking.clone(),
        rationale: ballot.rationale.clone(),
        weight: weight(voter, strategy) as f64 / UNIT as f64,
    }
}

fn absent(voter: &Voter, failure: &Failure) -> Missing {
    Missing { agent_id: voter.agent_id, name: voter.name.clone(), reason: failure.message.clone() }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, strategy::Strategy as _};

    use super::*;
    use crate::plan::Strategy;

    const ALL: [Strategy; 5] = Strategy::ALL;

    fn question(options: &[&str]) -> Question {
        Question { question: "which?".to_owned(), options: options.iter().map(|option| (*option).to_owned()).collect() }
    }

    fn vote(number: u64, weight: f64, ranking: &[&str]) -> (Voter, Ballot) {
        let ranking: Vec<String> = ranking.iter().map(|option| (*option).to_owned()).collect();
        let voter = Voter { agent_id: AgentId::from_parts(number, 0), name: format!("voter {number}"), weight };
        (voter, Ballot { choice: ranking[0].clone(), ranking, rationale: String::new() })
    }

    fn decide(strategy: Strategy, options: &[&str], votes: &[(Voter, Ballot)]) -> Record {
        let votes: Vec<_> = votes.iter().map(|(voter, ballot)| (voter, ballot)).collect();
        tally(&question(options), strategy, 1, &votes, &[]).unwrap()
    }

    fn choices(choices: &[&str]) -> Vec<(Voter, Ballot)> {
        choices.iter().enumerate().map(|(number, choice)| vote(number as u64, 1.0, &[choice])).collect()
    }

    #[test]
    fn a_majority_is_more_than_half() {
        let won = decide(Strategy::Majority, &["a", "b"], &choices(&["a", "a", "b"]));
        assert_eq!((won.winner.as_deref(), won.tie), (Some("a"), false));
        assert!((won.margin - 1.0 / 3.0).abs() < 1e-9);
        let half = decide(Strategy::Majority, &["a", "b", "c"], &choices(&["a", "a", "b", "c"]));
        assert_eq!((half.winner, half.tie), (None, true));
    }

    #[test]
    fn a_plurality_is_more_than_any_other() {
        assert_eq!(
            decide(Strategy::Plurality, &["a", "b", "c"], &choices(&["a", "a", "b", "c"])).winner.as_deref(),
            Some("a")
        );
        assert!(decide(Strategy::Plurality, &["a", "b"], &choices(&["a", "b"])).tie);
    }

    #[test]
    fn unanimity_is_broken_by_one() {
        assert_eq!(decide(Strategy::Unanimous, &["a", "b"], &choices(&["b", "b"])).winner.as_deref(), Some("b"));
        assert_eq!(decide(Strategy::Unanimous, &["a", "b"], &choices(&["b", "b", "a"])).winner, None);
    }

    #[test]
    fn weights_count_and_odd_ones_do_not() {
        let votes = [
            vote(1, 3.0, &["a"]),
            vote(2, 1.0, &["b"]),
            vote(3, 1.5, &["b"]),
            vote(4, f64::NAN, &["b"]),
            vote(5, -9.0, &["b"]),
        ];
        let record = decide(Strategy::Weighted, &["a", "b"], &votes);
        assert_eq!(record.winner.as_deref(), Some("a"));
        assert_eq!(Value::Object(record.counts), json!({"a": 3, "b": 2.5}));
    }

    #[test]
    fn ranks_add_up() {
        let votes = [vote(1, 1.0, &["a", "b", "c"]), vote(2, 1.0, &["b", "c", "a"]), vote(3, 1.0, &["b"])];
        let record = decide(Strategy::Ranked, &["a", "b", "c"], &votes);
        assert_eq!(Value::Object(record.counts), json!({"a": 4, "b": 8, "c": 3}));
        assert_eq!(record.winner.as_deref(), Some("b"));
    }

    #[test]
    fn too_few_ballots_are_no_quorum_and_say_who_is_missing() {
        let (voter, ballot) = vote(1, 1.0, &["a"]);
        let silent = vote(2, 1.0, &["a"]).0;
        let why = Failure::fatal("timeout", "no result within 1m");
        let failure =
            tally(&question(&["a"]), Strategy::Majority, 2, &[(&voter, &ballot)], &[(&silent, &why)]).unwrap_err();
        assert_eq!(failure.code, "no_quorum");
        assert_eq!(failure.details.unwrap().to_value()["missing"][0]["reason"], "no result within 1m");
    }

    #[test]
    fn ballots_are_read_and_checked() {
        let options = ["a".to_owned(), "b".to_owned()];
        let read = |json: &str, strategy| {
            Ballot::from_payload(&Payload::from_slice(json.as_bytes()).unwrap(), &options, strategy)
        };
        assert_eq!(
            read(r#"{"choice": "a", "rationale": "why", "x": 1}"#, Strategy::Majority).unwrap().rationale,
            "why"
        );
        assert_eq!(read(r#"{"choice": "a"}"#, Strategy::Ranked).unwrap().ranking, ["a"]);
        assert_eq!(read(r#"{"ranking": ["b", "a"]}"#, Strategy::Ranked).unwrap().choice, "b");
        let wrong = [
            r#""a""#,
            "{}",
            r#"{"choice": "c"}"#,
            r#"{"choice": 1}"#,
            r#"{"ranking": []}"#,
            r#"{"ranking": ["a", "a"]}"#,
            r#"{"ranking": ["a", "c"]}"#,
            r#"{"choice": "b", "ranking": ["a", "b"]}"#,
        ];
        for json in wrong {
            assert_eq!(read(json, Strategy::Ranked).unwrap_err().code, "invalid_ballot", "{json}");
        }
    }

    const OPTIONS: [&str; 4] = ["a", "b", "c", "d"];

    fn any_votes() -> impl proptest::strategy::Strategy<Value = Vec<(Voter, Ballot)>> {
        let ranking = (1..=4_usize, Just(OPTIONS.to_vec()).prop_shuffle());
        let votes = prop::collection::vec((0.0..10.0, ranking), 1..20);
        votes.prop_map(|votes| {
            votes
                .into_iter()
                .enumerate()
                .map(|(number, (weight, (length, options)))| vote(number as u64, weight, &options[..length]))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_order_of_votes_does_not_matter((votes, shuffled) in any_votes().prop_flat_map(|votes| (Just(votes.clone()), Just(votes).prop_shuffle()))) {
            for strategy in ALL {
                let (one, other) = (decide(strategy, &OPTIONS, &votes), decide(strategy, &OPTIONS, &shuffled));
                prop_assert_eq!(one.winner, other.winner);
                prop_assert_eq!(one.counts, other.counts);
                prop_assert_eq!(one.margin.to_bits(), other.margin.to_bits());
            }
        }

        #[test]
        fn the_winner_has_more_than_any_other(votes in any_votes()) {
            for strategy in ALL {
                let record = decide(strategy, &OPTIONS, &votes);
                prop_assert!((0.0..=1.0).contains(&record.margin));
                prop_assert_eq!(record.tie, record.winner.is_none());
                let Some(winner) = record.winner else { continue };
                let most = record.counts[&winner].as_f64().unwrap();
                let others = record.counts.iter().filter(|(option, _)| **option != winner);
                prop_assert!(others.map(|(_, points)| points.as_f64().unwrap()).all(|points| points < most));
            }
        }
    }
}
