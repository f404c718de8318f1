//! `troupe events`: an execution's log.

use std::process::ExitCode;

use serde_json::Value;

use super::{Context, Outcome, follow};
use crate::{
    client::Event,
    output::{Output, Tone, shorten},
};

/// More events than anybody reads at once.
const MOST: usize = 1_000_000;

/// Options of `troupe events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The execution's id
    #[arg(value_parser = super::id::<domain::ExecutionId>)]
    execution: String,
    /// Go on with new events until the execution has ended
    #[arg(short, long)]
    follow: bool,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    if !args.follow {
        for document in context.client.list(&["executions", &args.execution, "events"], &[], MOST).await? {
            print(&Event::from_document(document)?, context.output)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut printed = Ok(());
    follow::watch(&args.execution, context, |event| {
        if printed.is_ok() {
            printed = print(event, context.output);
        }
    })
    .await?;
    printed?;
    Ok(ExitCode::SUCCESS)
}

fn print(event: &Event, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.json_line(&event.document);
    }
    let at = event.document.get("at").and_then(Value::as_str).unwrap_or_default();
    let data = event.document.get("data").filter(|data| !data.is_null()).map(|data| shorten(&data.to_string(), 160));
    let line = format!(
        "{:>6}  {}  {:<22} {}",
        event.sequence,
        output.paint(Tone::Faint, at),
        event.kind,
        data.unwrap_or_default()
    );
    output.line(line.trim_end())
}
