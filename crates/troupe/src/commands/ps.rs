//! `troupe ps`: executions, newest first.

use std::process::ExitCode;

use serde_json::Value;

use super::{Context, Outcome};
use crate::{
    client::{number, text},
    output::{Cell, Tone, age, between, duration, moment, now},
};

/// Options of `troupe ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those with this status
    #[arg(short, long, value_parser = ["queued", "running", "paused", "compensating", "completed", "failed", "cancelled"])]
    status: Option<String>,
    /// Only those of this workflow, by name or id
    #[arg(short, long)]
    workflow: Option<String>,
    /// At most this many
    #[arg(short, long, default_value_t = 20)]
    limit: usize,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let mut query = Vec::new();
    if let Some(status) = &args.status {
        query.push(("status", status.as_str()));
    }
    if let Some(workflow) = &args.workflow {
        query.push((if workflow.starts_with("wf_") { "workflow_id" } else { "workflow_name" }, workflow));
    }
    let found = context.client.list(&["executions"], &query, args.limit).await?;
    if context.output.is_json() {
        context.output.document(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = found.iter().map(row).collect();
    let headings = ["EXECUTION", "WORKFLOW", "STATUS", "STEPS", "STARTED", "TOOK"];
    context.output.table(&headings, &rows, "no executions; start one with `troupe run WORKFLOW`")?;
    Ok(ExitCode::SUCCESS)
}

fn row(execution: &Value) -> Vec<Cell> {
    let workflow = format!("{} v{}", text(execution, "workflow_name"), number(execution, "workflow_version"));
    vec![
        id(execution).into(),
        workflow.into(),
        Cell::status(text(execution, "status")),
        steps(execution.get("step_counts").unwrap_or(&Value::Null)).into(),
        Cell::new(age(text(execution, "created_at")), Tone::Faint),
        took(execution).into(),
    ]
}

/// The execution's id.
pub(super) fn id(execution: &Value) -> &str {
    match text(execution, "id") {
        "" => text(execution, "execution_id"),
        id => id,
    }
}

/// How many steps are through, of how many.
fn steps(counts: &Value) -> String {
    let Some(counts) = counts.as_object() else { return String::new() };
    let through = ["completed", "failed", "skipped", "cancelled", "compensated"];
    let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        counts.iter().filter(|(state, _)| wanted(state)).filter_map(|(_, count)| count.as_u64()).sum()
    };
    format!("{}/{}", sum(&|state| through.contains(&state)), sum(&|_| true))
}

/// How long it took, or has taken so far.
pub(super) fn took(execution: &Value) -> String {
    let ended = moment(text(execution, "ended_at"));
    moment(text(execution, "created_at"))
        .map_or_else(String::new, |created| duration(between(created, ended.unwrap_or_else(now))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_count_as_through_however_they_ended() {
        assert_eq!(steps(&json!({ "completed": 3, "skipped": 1, "running": 2, "pending": 4 })), "4/10");
        assert_eq!(steps(&Value::Null), "");
    }

    #[test]
    fn an_ended_execution_took_what_lies_between_its_times() {
        let execution = json!({ "created_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:02.5Z" });
        assert_eq!(took(&execution), "2.5s");
    }
}
