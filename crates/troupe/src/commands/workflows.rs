//! `troupe workflows`: what can be run.

use std::process::ExitCode;

use serde_json::Value;

use super::{Context, Named, Outcome};
use crate::{
    client::{number, text},
    output::{Cell, Tone, age, shorten},
};

/// Options of `troupe workflows`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: List,
}

/// What to do with workflows; without it they are listed.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List workflows
    List(List),
    /// Show one workflow with its definition
    Show {
        /// Its name or id
        workflow: String,
    },
    /// Archive a workflow: no new executions, and its name is free again
    Archive {
        /// Its name or id
        workflow: String,
    },
}

/// Filters of the list.
#[derive(Debug, clap::Args)]
struct List {
    /// At most this many
    #[arg(short, long, default_value_t = 200)]
    limit: usize,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    match args.action {
        None => list(args.list, context).await?,
        Some(Action::List(filters)) => list(filters, context).await?,
        Some(Action::Show { workflow }) => {
            let workflow = context.named(Named::Workflow, &workflow).await?;
            context.output.document(&workflow)?;
        }
        Some(Action::Archive { workflow }) => {
            let workflow = context.named(Named::Workflow, &workflow).await?;
            let answer = context.client.delete(&["workflows", text(&workflow, "id")]).await?;
            if context.output.is_json() {
                context.output.document(&answer)?;
            } else {
                context.output.line(format!("workflow {} is archived", text(&workflow, "name")))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(filters: List, context: &Context<'_>) -> anyhow::Result<()> {
    let found = context.client.list(&["workflows"], &[], filters.limit).await?;
    if context.output.is_json() {
        return Ok(context.output.document(&found)?);
    }
    let rows: Vec<_> = found.iter().map(row).collect();
    let headings = ["NAME", "VERSION", "STATUS", "ID", "UPDATED", "DESCRIPTION"];
    Ok(context.output.table(&headings, &rows, "no workflows; add some with `troupe apply -f FILE`")?)
}

fn row(workflow: &Value) -> Vec<Cell> {
    vec![
        text(workflow, "name").into(),
        number(workflow, "version").to_string().into(),
        Cell::status(text(workflow, "status")),
        Cell::new(text(workflow, "id"), Tone::Faint),
        Cell::new(age(text(workflow, "updated_at")), Tone::Faint),
        shorten(text(workflow, "description"), 60).into(),
    ]
}
