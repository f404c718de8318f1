//! `echo`: gives back what it gets; for tests, demonstrations and benchmarks.

use std::time::Duration;

use agent_sdk::{AgentBuilder, Context, Failure, Message, Outgoing, Output, Refusal, Task};
use serde::Deserialize;
use serde_json::json;

/// How often a sleeping task says that it lives.
const BEAT: Duration = Duration::from_millis(500);

pub(super) fn build(agent: AgentBuilder) -> AgentBuilder {
    agent.action("fail", fail).action("sleep", sleep).any_action(echo).on_message(on_message)
}

/// The input's bytes go back as they came; nothing is parsed.
async fn echo(task: Task) -> Result<Output, Failure> {
    Ok(Output::from_json(task.input_bytes().clone()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fail {
    #[serde(default = "default_code")]
    code: String,
    #[serde(default = "default_message")]
    message: String,
    #[serde(default)]
    retryable: bool,
    /// From this attempt on it succeeds.
    until_attempt: Option<u32>,
}

fn default_code() -> String {
    "failed".to_owned()
}

fn default_message() -> String {
    "failed on request".to_owned()
}

async fn fail(task: Task) -> Result<serde_json::Value, Failure> {
    let input: Fail = super::input(&task)?;
    match input.until_attempt {
        Some(first_good) if task.attempt >= first_good => Ok(json!({ "attempt": task.attempt })),
        Some(_) | None if input.retryable => Err(Failure::transient(input.code, input.message)),
        Some(_) | None => Err(Failure::fatal(input.code, input.message)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sleep {
    ms: u64,
}

async fn sleep(task: Task) -> Result<serde_json::Value, Failure> {
    let Sleep { ms } = super::input(&task)?;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(ms);
    while tokio::time::timeout_at(deadline, tokio::time::sleep(BEAT)).await.is_ok() {
        task.heartbeat();
    }
    Ok(json!({ "slept_ms": ms }))
}

/// Every message is fine; one that says where to answer gets its payload back.
async fn on_message(context: Context, message: Message) -> Result<(), Refusal> {
    if message.reply_to.is_empty() {
        return Ok(());
    }
    if let Some(reply) = Outgoing::reply(&message, message.payload_bytes().clone()) {
        context.send(reply).await.map_err(Failure::from)?;
    }
    Ok(())
}
