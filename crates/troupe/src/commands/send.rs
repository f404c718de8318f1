//! `troupe send`: a message into an agent's mailbox.

use std::{path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use super::{Context, Named, Outcome, input};
use crate::client::text;

/// Options of `troupe send`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("content").args(["payload", "input"]).required(true)))]
pub(crate) struct Args {
    /// The agent's name or id; or type:TYPE or capability:CAPABILITY for one that lives
    agent: String,
    /// What the agent gets, as JSON
    #[arg(short, long, value_name = "JSON")]
    payload: Option<String>,
    /// What the agent gets: a JSON or YAML file, or - for standard input
    #[arg(short, long, value_name = "FILE|-")]
    input: Option<PathBuf>,
    /// What kind of message it is; the agent knows the kinds
    #[arg(short = 't', long = "type")]
    message_type: Option<String>,
    /// Ties the messages of one conversation together
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// 0 to 9, 9 the most urgent
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let payload = input::value(args.payload.as_deref(), args.input.as_ref())?.unwrap_or(Value::Null);
    let is_group = args.agent.starts_with("type:") || args.agent.starts_with("capability:");
    let to = if is_group {
        args.agent.clone()
    } else {
        text(&context.named(Named::Agent, &args.agent).await?, "id").to_owned()
    };
    let mut body = json!({ "to": to, "payload": payload });
    let optional = [
        ("type", args.message_type.map(Value::from)),
        ("correlation_id", args.correlation_id.map(Value::from)),
        ("priority", args.priority.map(Value::from)),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            body[field] = value;
        }
    }
    let answer = context.client.post(&["messages"], &body).await?;
    if context.output.is_json() {
        context.output.document(&answer)?;
    } else {
        context.output.line(format!("{} {}", text(&answer, "message_id"), text(&answer, "status")))?;
    }
    Ok(ExitCode::SUCCESS)
}
