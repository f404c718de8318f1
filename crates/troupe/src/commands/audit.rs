//! `troupe audit`: what was done, and by whom.

use std::process::ExitCode;

use serde_json::Value;

use super::{Context, Outcome};
use crate::{
    client::{number, text},
    output::{Cell, Tone, age, printable},
};

/// Options of `troupe audit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

/// What to do with the log.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List entries, the newest first
    List(List),
    /// Print all of it, a JSON document on each line, the oldest first
    Export,
    /// Check that no entry is missing or was changed; fails where one is
    Verify {
        /// The head that an earlier check has printed: it must still be there
        #[arg(long, value_name = "SEQ:HASH")]
        known: Option<String>,
    },
}

/// Filters of the list.
#[derive(Debug, clap::Args)]
struct List {
    /// Only those of this actor, as key:key_…
    #[arg(short, long)]
    actor: Option<String>,
    /// Only those that needed this permission
    #[arg(long, value_name = "PERMISSION")]
    action: Option<String>,
    /// Only what was not done
    #[arg(long)]
    refused: bool,
    /// At most this many
    #[arg(short, long, default_value_t = 50)]
    limit: usize,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    match args.action {
        Action::List(list) => print_list(list, context).await?,
        Action::Export => context.client.print(&["audit", "export"]).await?,
        Action::Verify { known } => return verify(known.as_deref(), context).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn print_list(list: List, context: &Context<'_>) -> anyhow::Result<()> {
    let refused = list.refused.then(|| "400".to_owned());
    let named = [("actor", &list.actor), ("action", &list.action), ("status", &refused)];
    let query: Vec<_> = named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let found = context.client.list(&["audit"], &query, list.limit).await?;
    if context.output.is_json() {
        return Ok(context.output.document(&found)?);
    }
    let rows: Vec<_> = found.iter().map(row).collect();
    let headings = ["SEQ", "WHEN", "ACTOR", "WHAT", "NAMESPACE", "FROM", "OUTCOME"];
    Ok(context.output.table(&headings, &rows, "nothing was changed, and nobody was refused")?)
}

fn row(entry: &Value) -> Vec<Cell> {
    let outcome = text(entry, "outcome");
    let tone = if outcome == "done" { Tone::Good } else { Tone::Bad };
    let told = match text(entry, "code") {
        "" => outcome.to_owned(),
        code => format!("{outcome}: {code}"),
    };
    let method = text(entry, "route").split(' ').next().unwrap_or_default();
    vec![
        number(entry, "seq").to_string().into(),
        Cell::new(age(text(entry, "at")), Tone::Faint),
        text(entry, "actor").into(),
        format!("{method} {}", text(entry, "target")).into(),
        text(entry, "namespace").into(),
        text(entry, "address").into(),
        Cell::new(told, tone),
    ]
}

async fn verify(known: Option<&str>, context: &Context<'_>) -> Outcome {
    let request = context.client.request(reqwest::Method::GET, &["audit", "verify"]);
    let query: Vec<_> = known.map(|head| ("known", head)).into_iter().collect();
    let found = context.client.send(request.query(&query)).await?;
    let faults = found.get("faults").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if context.output.is_json() {
        context.output.document(&found)?;
    } else {
        for fault in faults.iter().filter_map(Value::as_str) {
            context.output.line(format!("{} {}", context.output.paint(Tone::Bad, "✘"), printable(fault)))?;
        }
        context.output.line(format!("{} entries, {} faults", number(&found, "entries"), faults.len()))?;
        context.output.line(format!("head {}", text(&found, "head")))?;
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
