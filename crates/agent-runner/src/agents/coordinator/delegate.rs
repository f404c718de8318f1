//! Work for others, by message: each part goes to an agent, and the answers come back or the deadline does.

use std::time::Duration;

use agent_sdk::{Failure, Recipient, Task};
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};

/// Parts of one task, at most.
const MOST_PARTS: usize = 10_000;
/// Requests at once, at most: each answer takes one of the agent's own credits for a moment.
const MOST_PARALLEL: usize = 32;

#[derive(Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
enum To {
    AgentId(String),
    AgentType(String),
    Capability(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    to: To,
    action: String,
    parts: Vec<Value>,
    #[serde(default = "default_deadline")]
    deadline: String,
    #[serde(default = "default_parallel")]
    max_parallel: usize,
    /// How many parts must succeed; all where absent.
    require: Option<usize>,
}

fn default_deadline() -> String {
    "30s".to_owned()
}

const fn default_parallel() -> usize {
    8
}

/// The action `delegate`.
pub(super) async fn delegate(task: &Task) -> Result<Value, Failure> {
    let input: Input = super::super::input(task)?;
    let deadline = humantime::parse_duration(&input.deadline)
        .map_err(|_| Failure::invalid_input(format!("deadline {:?} is no duration such as 30s", input.deadline)))?;
    if input.parts.len() > MOST_PARTS {
        return Err(Failure::invalid_input(format!("{} parts are more than {MOST_PARTS}", input.parts.len())));
    }
    let required = input.require.unwrap_or(input.parts.len());
    if required > input.parts.len() {
        return Err(Failure::invalid_input(format!("`require` is {required}, of {} parts", input.parts.len())));
    }
    let end = tokio::time::Instant::now().checked_add(deadline);
    let end = end.ok_or_else(|| Failure::invalid_input(format!("deadline {:?} is too far away", input.deadline)))?;
    let (to, action) = (&input.to, input.action.as_str());
    let ask = |(index, part): (usize, &Value)| {
        let (to, part) = (recipient(to), part.clone());
        async move {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let outcome = one(task, to, action, &part, left).await;
            task.heartbeat();
            match outcome {
                Ok(output) => json!({ "index": index, "output": output }),
                Err(failure) => json!({ "index": index, "failure": failure }),
            }
        }
    };
    let parallel = input.max_parallel.clamp(1, MOST_PARALLEL);
    let results: Vec<Value> = stream::iter(input.parts.iter().enumerate().map(ask)).buffered(parallel).collect().await;
    let succeeded = results.iter().filter(|result| result.get("failure").is_none()).count();
    let outputs: Vec<_> = results.iter().filter_map(|result| result.get("output").cloned()).collect();
    let summary = json!({ "count": results.len(), "succeeded": succeeded, "failed": results.len() - succeeded, "outputs": outputs, "results": results });
    if succeeded < required {
        let message = format!("{succeeded} of {} parts succeeded, {required} are required", results.len());
        // A part that may be tried again makes the whole worth another attempt.
        let passes = results.iter().any(|result| result["failure"]["retryable"] == json!(true));
        let failure = if passes {
            Failure::transient("delegation_failed", message)
        } else {
            Failure::fatal("delegation_failed", message)
        };
        return Err(failure.with_details(summary));
    }
    Ok(summary)
}

async fn one(task: &Task, to: Recipient, action: &str, part: &Value, left: Duration) -> Result<Value, Failure> {
    if left.is_zero() {
        return Err(Failure::transient("request_deadline", "the deadline came before its turn"));
    }
    task.context().call(to, action, part, left).await.map(|output| output.to_value())
}

fn recipient(to: &To) -> Recipient {
    match to.clone() {
        To::AgentId(id) => Recipient::Agent(id),
        To::AgentType(name) => Recipient::AgentType(name),
        To::Capability(name) => Recipient::Capability(name),
    }
}
