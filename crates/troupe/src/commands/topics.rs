//! `troupe topics`: what is told to whoever listens now.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Context, Outcome, input};
use crate::{
    client::{self, text},
    output::{Output, Tone, printable},
};

/// How long the server may be away before watching is given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_millis(500);

/// Options of `troupe topics`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Tell whoever listens now; it is kept nowhere
    Publish {
        /// Words with dots between them, orders.eu.created for one
        #[arg(value_parser = super::id::<domain::Topic>)]
        topic: String,
        /// What to tell, as JSON
        payload: String,
    },
    /// Listen, until it is stopped
    Watch {
        /// Which topics: * stands for one word, # for any number of them (in quotes: shells read both)
        #[arg(value_parser = super::id::<domain::TopicPattern>)]
        pattern: String,
        /// End after so many messages
        #[arg(short, long, value_name = "NUMBER")]
        count: Option<u64>,
    },
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    match args.action {
        Action::Publish { topic, payload } => publish(&topic, &payload, context).await?,
        Action::Watch { pattern, count } => watch(&pattern, count, context).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn publish(topic: &str, payload: &str, context: &Context<'_>) -> anyhow::Result<()> {
    let payload = input::json(payload)?;
    let answer = context.client.post(&["topics", topic], &payload).await?;
    if context.output.is_json() {
        context.output.document(&answer)?;
    } else {
        context.output.line(text(&answer, "message"))?;
    }
    Ok(())
}

/// Prints what is heard. While the server is away it is tried again for [`PATIENCE`]; what was told meanwhile is missed, and
/// that is printed as well.
async fn watch(pattern: &str, count: Option<u64>, context: &Context<'_>) -> anyhow::Result<()> {
    let mut left = count.unwrap_or(u64::MAX);
    // Since when it is away.
    let mut away: Option<Instant> = None;
    let mut has_heard = false;
    while left > 0 {
        let cut = match context.client.topics(pattern).await {
            Ok(mut stream) => {
                away = None;
                if std::mem::replace(&mut has_heard, true) {
                    print(&json!({ "type": "gap" }), context.output)?;
                } else {
                    context.output.note(format!("listening to {pattern}"));
                }
                loop {
                    match stream.document().await {
                        Ok(Some(document)) => {
                            print(&document, context.output)?;
                            left -= u64::from(text(&document, "type") == "message");
                            if left == 0 {
                                return Ok(());
                            }
                        }
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                }
            }
            Err(error) => Some(error),
        };
        let since = *away.get_or_insert_with(Instant::now);
        match cut {
            Some(error) if !error.is_passing() || since.elapsed() > PATIENCE => return Err(error.into()),
            Some(_) | None => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(())
}

fn print(document: &Value, output: &Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.json_line(document);
    }
    match text(document, "type") {
        "message" => {
            let payload = document.get("payload").unwrap_or(&Value::Null).to_string();
            output.line(format!("{}  {}", output.paint(Tone::Faint, text(document, "topic")), printable(&payload)))
        }
        "lost" => {
            output.note(format!("{} messages are lost: they were not read in time", client::number(document, "count")));
            Ok(())
        }
        "gap" => {
            output.note("some messages may have been missed here");
            Ok(())
        }
        _ => Ok(()),
    }
}
