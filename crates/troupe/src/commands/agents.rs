//! `troupe agents`: who is there.

use std::process::ExitCode;

use serde_json::Value;

use super::{Context, Named, Outcome};
use crate::{
    client::text,
    output::{Cell, Tone, age},
};

/// Options of `troupe agents`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: List,
}

/// What to do with agents; without it they are listed.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List agents
    List(List),
    /// Show one agent
    Show {
        /// Its name or id
        agent: String,
    },
    /// Delete an agent; its sessions are closed
    Delete {
        /// Its name or id
        agent: String,
    },
}

/// Filters of the list.
#[derive(Debug, clap::Args)]
struct List {
    /// Only those of this type
    #[arg(short = 't', long = "type")]
    agent_type: Option<String>,
    /// Only those with this capability
    #[arg(short, long)]
    capability: Option<String>,
    /// Only those with this status
    #[arg(short, long, value_parser = ["idle", "busy", "degraded", "offline"])]
    status: Option<String>,
    /// At most this many
    #[arg(short, long, default_value_t = 200)]
    limit: usize,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    match args.action {
        None => list(args.list, context).await?,
        Some(Action::List(filters)) => list(filters, context).await?,
        Some(Action::Show { agent }) => {
            let agent = context.named(Named::Agent, &agent).await?;
            context.output.document(&agent)?;
        }
        Some(Action::Delete { agent }) => {
            let agent = context.named(Named::Agent, &agent).await?;
            let answer = context.client.delete(&["agents", text(&agent, "id")]).await?;
            if context.output.is_json() {
                context.output.document(&answer)?;
            } else {
                context.output.line(format!("agent {} is deleted", text(&agent, "name")))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(filters: List, context: &Context<'_>) -> anyhow::Result<()> {
    let named = [("type", &filters.agent_type), ("capability", &filters.capability), ("status", &filters.status)];
    let query: Vec<_> = named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let found = context.client.list(&["agents"], &query, filters.limit).await?;
    if context.output.is_json() {
        return Ok(context.output.document(&found)?);
    }
    let rows: Vec<_> = found.iter().map(row).collect();
    let headings = ["NAME", "TYPE", "STATUS", "CAPABILITIES", "ID", "CREATED"];
    Ok(context.output.table(&headings, &rows, "no agents; register some with `troupe apply -f FILE`")?)
}

fn row(agent: &Value) -> Vec<Cell> {
    let capabilities = agent.get("capabilities").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let capabilities: Vec<_> = capabilities.iter().filter_map(Value::as_str).collect();
    vec![
        text(agent, "name").into(),
        text(agent, "agent_type").into(),
        Cell::status(text(agent, "status")),
        capabilities.join(", ").into(),
        Cell::new(text(agent, "id"), Tone::Faint),
        Cell::new(age(text(agent, "created_at")), Tone::Faint),
    ]
}
