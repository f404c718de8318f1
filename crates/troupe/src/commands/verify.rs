//! `troupe verify`: is every log what it was when it was written, and does everything that lives go on?

use std::process::ExitCode;

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{Context, Outcome, ps};
use crate::{
    client::{self, number},
    output::{Tone, printable},
};

/// Executions checked at once.
const AT_ONCE: usize = 8;

/// Options of `troupe verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The execution's id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = super::id::<domain::ExecutionId>)]
    execution: Option<String>,
    /// Every execution of the namespace
    #[arg(long)]
    all: bool,
}

/// What was found out about one execution.
struct Verified {
    execution: String,
    events: u64,
    faults: Vec<String>,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let executions = match args.execution {
        Some(execution) => vec![execution],
        None => context
            .client
            .list(&["executions"], &[], usize::MAX)
            .await?
            .iter()
            .map(|found| ps::id(found).to_owned())
            .collect(),
    };
    let checks = executions.into_iter().map(|execution| verify(execution, context));
    let verified: Vec<_> = futures::stream::iter(checks).buffered(AT_ONCE).try_collect().await?;
    let liveness = context.client.get(&["liveness"]).await?;
    let faulty: Vec<_> = verified.iter().filter(|verified| !verified.faults.is_empty()).collect();
    let events: u64 = verified.iter().map(|verified| verified.events).sum();
    if context.output.is_json() {
        let faulty: Vec<_> =
            faulty.iter().map(|found| json!({ "execution_id": found.execution, "faults": found.faults })).collect();
        context.output.document(
            &json!({ "executions": verified.len(), "events": events, "faulty": faulty, "liveness": liveness }),
        )?;
    } else {
        print(&verified, &liveness, context)?;
    }
    let sound = faulty.is_empty() && number(&liveness, "stuck") == 0;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn verify(execution: String, context: &Context<'_>) -> Result<Verified, client::Error> {
    let found = context.client.get(&["executions", &execution, "verify"]).await?;
    let faults = found.get("faults").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let faults = faults.iter().filter_map(Value::as_str).map(printable).collect();
    Ok(Verified { execution, events: number(&found, "events"), faults })
}

fn print(verified: &[Verified], liveness: &Value, context: &Context<'_>) -> std::io::Result<()> {
    let output = context.output;
    for found in verified.iter().filter(|found| !found.faults.is_empty()) {
        output.line(format!("{} {}", output.paint(Tone::Bad, "✘"), found.execution))?;
        for fault in &found.faults {
            output.line(format!("    {fault}"))?;
        }
    }
    let events: u64 = verified.iter().map(|found| found.events).sum();
    let faulty = verified.iter().filter(|found| !found.faults.is_empty()).count();
    output.line(format!("{} executions, {events} events: {faulty} with faults", verified.len()))?;
    let (live, stuck, repaired) = (number(liveness, "live"), number(liveness, "stuck"), number(liveness, "repaired"));
    output.line(format!("{live} live executions: {stuck} owe no wake-up, {repaired} repaired since the start"))
}
