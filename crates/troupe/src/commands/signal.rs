//! `troupe signal`: gives an execution what it waits for.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Context, Outcome, input};

/// Options of `troupe signal`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The execution's id
    #[arg(value_parser = super::id::<domain::ExecutionId>)]
    execution: String,
    /// The signal's name
    name: String,
    /// What the step gets as its output, as JSON
    #[arg(short, long, value_name = "JSON")]
    payload: Option<String>,
    /// Who gives it, for the record
    #[arg(long, env = "USER", default_value = "")]
    sender: String,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let payload = args.payload.as_deref().map(input::json).transpose()?.unwrap_or(Value::Null);
    let mut body = json!({ "payload": payload });
    if !args.sender.is_empty() {
        body["sender"] = args.sender.into();
    }
    let answer = context.client.post(&["executions", &args.execution, "signals", &args.name], &body).await?;
    if context.output.is_json() {
        context.output.document(&answer)?;
    } else {
        context.output.line(format!("signal {} given to {}", args.name, args.execution))?;
    }
    Ok(ExitCode::SUCCESS)
}
