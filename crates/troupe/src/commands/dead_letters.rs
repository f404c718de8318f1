//! `troupe dead-letters`: what could not be delivered, and its second chance.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::{
    client::{number, text},
    output::{Cell, Tone, age, shorten},
};

/// Options of `troupe dead-letters`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: List,
}

/// What to do with dead letters; without it they are listed.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List dead letters, newest first
    List(List),
    /// Show one with its payload
    Show {
        /// Its id
        #[arg(value_parser = super::id::<domain::DeadLetterId>)]
        dead_letter: String,
    },
    /// Queue its message again, with a fresh count of deliveries
    Replay {
        /// Its id
        #[arg(value_parser = super::id::<domain::DeadLetterId>)]
        dead_letter: String,
    },
    /// Remove it for good
    Purge {
        /// Its id
        #[arg(value_parser = super::id::<domain::DeadLetterId>)]
        dead_letter: String,
    },
}

/// Filters of the list.
#[derive(Debug, clap::Args)]
struct List {
    /// At most this many
    #[arg(short, long, default_value_t = 50)]
    limit: usize,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let (answer, done) = match args.action {
        None => return list(args.list, context).await,
        Some(Action::List(filters)) => return list(filters, context).await,
        Some(Action::Show { dead_letter }) => {
            let found = context.client.get(&["dead-letters", &dead_letter]).await?;
            context.output.document(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Action::Replay { dead_letter }) => {
            let answer = context.client.post(&["dead-letters", &dead_letter, "replay"], &json!({})).await?;
            let done = format!("message {} is queued again", text(&answer, "message_id"));
            (answer, done)
        }
        Some(Action::Purge { dead_letter }) => {
            let answer = context.client.delete(&["dead-letters", &dead_letter]).await?;
            (answer, format!("{dead_letter} is removed"))
        }
    };
    if context.output.is_json() {
        context.output.document(&answer)?;
    } else {
        context.output.line(done)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(filters: List, context: &Context<'_>) -> Outcome {
    let found = context.client.list(&["dead-letters"], &[], filters.limit).await?;
    if context.output.is_json() {
        context.output.document(&found)?;
    } else {
        let rows: Vec<_> = found.iter().map(row).collect();
        let headings = ["DEAD LETTER", "KIND", "FOR", "REASON", "DELIVERIES", "DIED", "DETAIL"];
        context.output.table(&headings, &rows, "no dead letters")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(letter: &Value) -> Vec<Cell> {
    vec![
        text(letter, "id").into(),
        text(letter, "kind").into(),
        text(letter, "target").into(),
        Cell::new(text(letter, "reason"), Tone::Bad),
        number(letter, "deliveries").to_string().into(),
        Cell::new(age(text(letter, "created_at")), Tone::Faint),
        shorten(text(letter, "detail"), 60).into(),
    ]
}
