//! `troupe explain`: what an execution waits for, in words.

use std::process::ExitCode;

use serde_json::Value;

use super::{Context, Outcome};
use crate::{
    client::text,
    output::{Cell, Tone, age},
};

/// Options of `troupe explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The execution's id
    #[arg(value_parser = super::id::<domain::ExecutionId>)]
    execution: String,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let found = context.client.get(&["executions", &args.execution, "explain"]).await?;
    if context.output.is_json() {
        context.output.document(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    context.output.line(text(&found, "summary"))?;
    let waits = found.get("waits").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !waits.is_empty() {
        let rows: Vec<_> = waits.iter().map(row).collect();
        context.output.line("")?;
        context.output.table(&["STEP", "WAITS FOR", "SINCE", ""], &rows, "")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(wait: &Value) -> Vec<Cell> {
    let index = wait.get("index").and_then(Value::as_u64).map(|index| format!("[{index}]")).unwrap_or_default();
    vec![
        format!("{}{index}", text(wait, "step_id")).into(),
        Cell::new(text(wait, "kind"), Tone::Busy),
        Cell::new(age(text(wait, "since")), Tone::Faint),
        text(wait, "text").into(),
    ]
}
