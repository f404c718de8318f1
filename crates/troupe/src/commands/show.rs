//! `troupe show`: an execution with the timeline of its steps and attempts.

use std::process::ExitCode;

use serde_json::Value;

use super::{
    Context, Outcome,
    follow::failure_sentence,
    ps,
    timeline::{self, Drawing, Window},
};
use crate::{
    client::{Event, number, text},
    output::{Tone, age, now, printable, tone_of},
};

/// More events than a drawing needs; beyond it the latest attempts are missing.
const MOST_EVENTS: usize = 20_000;

/// Options of `troupe show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The execution's id
    #[arg(value_parser = super::id::<domain::ExecutionId>)]
    execution: String,
    /// Also every instance of a `for_each` and every voter; failed ones show anyway
    #[arg(short, long)]
    instances: bool,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let execution = context.client.get(&["executions", &args.execution]).await?;
    if context.output.is_json() {
        context.output.document(&execution)?;
        return Ok(ExitCode::SUCCESS);
    }
    heading(&execution, context)?;
    let steps = execution.get("steps").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some(window) = Window::of(&execution, now()) {
        let attempts =
            if steps.iter().any(was_tried_again) { attempts(&args.execution, context).await? } else { Vec::new() };
        let drawing = Drawing { window, attempts: timeline::attempts(&attempts), instances: args.instances, steps };
        context.output.line("")?;
        context.output.table(&Drawing::HEADINGS, &drawing.rows(), "no steps")?;
    }
    outcome(&execution, context)?;
    Ok(ExitCode::SUCCESS)
}

fn heading(execution: &Value, context: &Context<'_>) -> std::io::Result<()> {
    let status = text(execution, "status");
    let output = context.output;
    output.line(format!(
        "{}  {} v{}  {}",
        output.paint(Tone::Strong, ps::id(execution)),
        printable(text(execution, "workflow_name")),
        number(execution, "workflow_version"),
        output.paint(tone_of(status), status),
    ))?;
    let started = format!("started {}, took {}", age(text(execution, "created_at")), ps::took(execution));
    output.line(output.paint(Tone::Faint, &format!("{started}{}", bonds(execution))))
}

/// How many are before it, and whose child it is.
fn bonds(execution: &Value) -> String {
    let place = execution.get("queued_before").and_then(Value::as_u64);
    let place = place.map(|before| format!(", {before} are before it")).unwrap_or_default();
    let parent = execution.get("parent").map(|parent| format!(", a child of {}", text(parent, "execution_id")));
    format!("{place}{}", printable(&parent.unwrap_or_default()))
}

fn was_tried_again(step: &Value) -> bool {
    let instances = step.get("instances").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    number(step, "attempt") > 1 || instances.iter().any(|instance| number(instance, "attempt") > 1)
}

async fn attempts(execution: &str, context: &Context<'_>) -> anyhow::Result<Vec<Event>> {
    let documents = context.client.list(&["executions", execution, "events"], &[], MOST_EVENTS).await?;
    Ok(documents.into_iter().map(Event::from_document).collect::<Result<_, _>>()?)
}

fn outcome(execution: &Value, context: &Context<'_>) -> std::io::Result<()> {
    let output = context.output;
    if let Some(failure) = execution.get("failure").filter(|failure| failure.is_object()) {
        output.line("")?;
        return output.line(output.paint(Tone::Bad, &failure_sentence(failure)));
    }
    match execution.get("output").filter(|value| !value.is_null()) {
        Some(value) => {
            output.line("")?;
            output.document(value)
        }
        None if matches!(text(execution, "status"), "queued" | "running" | "paused" | "compensating") => {
            let hint = format!("what it waits for: troupe explain {}", ps::id(execution));
            output.line("")?;
            output.line(output.paint(Tone::Faint, &hint))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_place_in_a_queue_and_the_parent_are_told() {
        let child = json!({ "queued_before": 0, "parent": { "execution_id": "exe_1" } });
        assert_eq!(bonds(&child), ", 0 are before it, a child of exe_1");
        assert_eq!(bonds(&json!({})), "");
    }
}
