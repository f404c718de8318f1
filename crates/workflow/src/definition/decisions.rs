//! What a decision may say.

use std::collections::HashSet;

use domain::{AgentId, Payload};
use serde_json::Value;

use super::{
    Faults, did_you_mean,
    fields::{Fields, kind},
};
use crate::{
    Target,
    expression::{Found, Template, Visible},
    plan::{Decision, Strategy, Voters},
};

/// More voters than any decision has.
const MAX_VOTERS: u32 = 1_000;

/// The decision of a step; `None` only with faults.
pub(super) fn read(step: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<Decision> {
    const KNOWN: [&str; 7] = ["question", "options", "context", "voters", "strategy", "quorum", "deadline"];
    let fields = step.object("decision", &mut found.faults)?;
    fields.only(&KNOWN, &mut found.faults);
    let question = question(&fields, visible, found);
    let options = options(&fields, visible, found);
    let context = match fields.value("context") {
        Some(value) => Template::compile(value, &fields.at("context"), visible, found),
        None => Template::literal(Payload::null()),
    };
    let voters = voters(&fields, &mut found.faults);
    let strategy = strategy(&fields, &mut found.faults);
    let count = voters.as_ref().map(Voters::count);
    let quorum = fields.integer("quorum", 1..=MAX_VOTERS, &mut found.faults);
    if let (Some(quorum), Some(count)) = (quorum, count)
        && quorum > count
    {
        let message = format!("a quorum of {quorum} cannot be met by {count} voters");
        found.faults.push(&fields.at("quorum"), "out_of_range", message);
    }
    let deadline = fields.duration("deadline", &mut found.faults);
    // More than half, where nothing is said.
    let quorum = quorum.or(count.map(|count| count / 2 + 1));
    Some(Decision {
        question: question?,
        options: options?,
        context,
        voters: voters?,
        strategy,
        quorum: quorum?,
        deadline,
    })
}

fn question(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<Template> {
    if !fields.has("question") {
        fields.missing("question", "what the voters are asked", &mut found.faults);
    }
    let text = fields.text("question", &mut found.faults)?;
    Some(Template::compile(&Value::String(text.to_owned()), &fields.at("question"), visible, found))
}

/// A list of distinct texts, or an expression that gives one when the decision opens.
fn options(fields: &Fields<'_>, visible: Visible<'_>, found: &mut Found) -> Option<Template> {
    let Some(value) = fields.value("options") else {
        fields.missing("options", "a list of what can be chosen", &mut found.faults);
        return None;
    };
    let pointer = fields.at("options");
    match value {
        Value::String(text) if text.contains("${{") => {}
        Value::Array(options) => check_options(options, &pointer, &mut found.faults),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            found.faults.push(
                &pointer,
                "wrong_type",
                format!("must be a list of texts, or an expression that gives one, not {}", kind(value)),
            );
            return None;
        }
    }
    Some(Template::compile(value, &pointer, visible, found))
}

fn check_options(options: &[Value], pointer: &str, faults: &mut Faults) {
    if options.is_empty() {
        faults.push(pointer, "out_of_range", "needs at least one option");
    }
    let mut seen = HashSet::new();
    for (index, option) in options.iter().enumerate() {
        let at = || format!("{pointer}/{index}");
        match option.as_str() {
            None => faults.push(&at(), "wrong_type", format!("an option is a text, not {}", kind(option))),
            Some("") => faults.push(&at(), "invalid_name", "an option must not be empty"),
            Some(text) if text.contains("${{") => {}
            Some(text) if !seen.insert(text) => {
                faults.push(&at(), "duplicate_option", format!("`{text}` is an option already"));
            }
            Some(_) => {}
        }
    }
}

fn voters(fields: &Fields<'_>, faults: &mut Faults) -> Option<Voters> {
    if !fields.has("voters") {
        fields.missing("voters", "who may vote: agent_type or capability with count, or agents", faults);
    }
    let voters = fields.object("voters", faults)?;
    voters.only(&["agent_type", "capability", "agents", "count"], faults);
    let named: Vec<_> = ["agent_type", "capability", "agents"].into_iter().filter(|field| voters.has(field)).collect();
    let target = match named.as_slice() {
        [] => {
            faults.push(voters.pointer(), "missing_field", "needs one of agent_type, capability and agents");
            return None;
        }
        ["agents"] => return these(&voters, faults),
        ["agent_type"] => voters.name("agent_type", "invalid_name", faults).map(Target::AgentType),
        [_] => voters.name("capability", "invalid_name", faults).map(Target::Capability),
        several => {
            faults.push(
                voters.pointer(),
                "ambiguous_target",
                format!("needs one of {}, not several", several.join(", ")),
            );
            None
        }
    };
    if !voters.has("count") {
        voters.missing("count", "how many vote", faults);
    }
    let count = voters.integer("count", 1..=MAX_VOTERS, faults);
    Some(Voters::Any { target: target?, count: count? })
}

fn these(voters: &Fields<'_>, faults: &mut Faults) -> Option<Voters> {
    let list = voters.list("agents", faults)?;
    let pointer = voters.at("agents");
    if list.is_empty() || list.len() > MAX_VOTERS as usize {
        faults.push(&pointer, "out_of_range", format!("needs 1 to {MAX_VOTERS} agents, not {}", list.len()));
    }
    let mut agents: Vec<AgentId> = Vec::with_capacity(list.len());
    let mut seen = HashSet::new();
    for (index, entry) in list.iter().enumerate() {
        let at = || format!("{pointer}/{index}");
        let Some(text) = entry.as_str() else {
            faults.push(&at(), "wrong_type", format!("must be the id of an agent, not {}", kind(entry)));
            continue;
        };
        match text.parse::<AgentId>() {
            Ok(agent) if seen.insert(agent) => agents.push(agent),
            Ok(agent) => {
                faults.push(&at(), "duplicate_voter", format!("{agent} votes already; everybody has one vote"));
            }
            Err(error) => faults.push(&at(), "invalid_id", error.to_string()),
        }
    }
    if let Some(count) = voters.integer("count", 1..=MAX_VOTERS, faults)
        && count as usize != list.len()
    {
        faults.push(
            &voters.at("count"),
            "out_of_range",
            format!("these are {} agents, and all of them vote; leave `count` out", list.len()),
        );
    }
    (agents.len() == list.len()).then_some(Voters::These(agents))
}

fn strategy(fields: &Fields<'_>, faults: &mut Faults) -> Strategy {
    let Some(text) = fields.text("strategy", faults) else { return Strategy::Majority };
    Strategy::ALL.into_iter().find(|strategy| strategy.as_str() == text).unwrap_or_else(|| {
        let known = Strategy::ALL.map(Strategy::as_str);
        let message =
            format!("there is no strategy `{text}`{}; known are {}", did_you_mean(text, known), known.join(", "));
        faults.push(&fields.at("strategy"), "unknown_strategy", message);
        Strategy::Majority
    })
}
