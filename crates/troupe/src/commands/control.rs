//! `troupe cancel`, `pause`, `resume` and `retry`.

use std::process::ExitCode;

use serde_json::json;

use super::{Context, Outcome};

/// Options of `troupe pause`, `resume` and `retry`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The execution's id
    #[arg(value_parser = super::id::<domain::ExecutionId>)]
    execution: String,
}

/// Options of `troupe cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// The execution's id
    #[arg(value_parser = super::id::<domain::ExecutionId>)]
    execution: String,
    /// Why, for the record
    #[arg(short, long, default_value = "")]
    reason: String,
}

/// What is done to the execution.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verb {
    Pause,
    Resume,
    Retry,
}

impl Verb {
    const fn path(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Pause => "is paused",
            Self::Resume => "goes on",
            Self::Retry => "runs again from its failed steps",
        }
    }
}

pub(crate) async fn run(args: Args, verb: Verb, context: &Context<'_>) -> Outcome {
    change(&args.execution, verb.path(), &json!({}), verb.done(), context).await
}

pub(crate) async fn cancel(args: CancelArgs, context: &Context<'_>) -> Outcome {
    let body = if args.reason.is_empty() { json!({}) } else { json!({ "reason": args.reason }) };
    change(&args.execution, "cancel", &body, "is being cancelled", context).await
}

async fn change(execution: &str, path: &str, body: &serde_json::Value, done: &str, context: &Context<'_>) -> Outcome {
    let answer = context.client.post(&["executions", execution, path], body).await?;
    if context.output.is_json() {
        context.output.document(&answer)?;
    } else {
        context.output.line(format!("{execution} {done}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
