//! `troupe run`: starts an execution, and with `--wait` follows it to its end.

use std::{path::PathBuf, process::ExitCode};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Context, Named, Outcome, follow, input};
use crate::client::{self, text};

/// Options of `troupe run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The workflow's name or id
    workflow: String,
    /// The input: a JSON or YAML file, or - for standard input
    #[arg(short, long, value_name = "FILE|-", conflicts_with = "data")]
    input: Option<PathBuf>,
    /// The input, as JSON on the command line
    #[arg(short, long, value_name = "JSON")]
    data: Option<String>,
    /// Follow the execution to its end, show its progress, and print its output
    #[arg(short, long)]
    wait: bool,
    /// A second call with the same key and input starts nothing, and answers with the first one's execution
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let input = input::value(args.data.as_deref(), args.input.as_ref())?.unwrap_or_else(|| json!({}));
    let workflow = context.named(Named::Workflow, &args.workflow).await?;
    let mut request = context
        .client
        .request(Method::POST, &["workflows", text(&workflow, "id"), "execute"])
        .json(&json!({ "input": input }));
    if let Some(key) = &args.idempotency_key {
        request = request.header("Idempotency-Key", key);
    }
    let accepted = context.client.send(request).await?;
    let execution = text(&accepted, "execution_id").to_owned();
    if args.wait {
        return wait(&workflow, &execution, context).await;
    }
    if context.output.is_json() {
        context.output.document(&accepted)?;
    } else {
        context.output.line(&execution)?;
        context.output.note(format!(
            "follow it with `troupe events {execution} --follow`, see it with `troupe show {execution}`"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait(workflow: &Value, execution: &str, context: &Context<'_>) -> Outcome {
    follow::to_the_end(execution, client::number(workflow, "step_count").max(step_count(workflow)), context).await?;
    let ended = context.client.get(&["executions", execution]).await?;
    let status = text(&ended, "status").to_owned();
    let output = ended.get("output").unwrap_or(&Value::Null);
    if context.output.is_json() {
        let failure = ended.get("failure").unwrap_or(&Value::Null);
        let result = json!({ "execution_id": execution, "status": status, "output": output, "failure": failure });
        context.output.document(&result)?;
    } else if status == "completed" {
        context.output.document(output)?;
    }
    Ok(if status == "completed" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many steps the definition has; answers hold the steps themselves.
fn step_count(workflow: &Value) -> u64 {
    let steps = workflow.get("steps").or_else(|| workflow.get("definition")?.get("steps"));
    steps.and_then(Value::as_array).map_or(0, |steps| steps.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_wherever_the_answer_holds_them() {
        assert_eq!(step_count(&json!({ "steps": [1, 2] })), 2);
        assert_eq!(step_count(&json!({ "definition": { "steps": [1] } })), 1);
        assert_eq!(step_count(&json!({})), 0);
    }
}
