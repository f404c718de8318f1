//! `troupe dead-letters`: what could not be delivered, and its second chance.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::{
    client::{number, text},
    output::{Cell, Tone, age, shorten},
};

/// Letters that one request replays or removes.
const AT_ONCE: usize = 500;

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
    /// Show one with its payload, and who had its task
    Show {
        /// Its id
        #[arg(value_parser = super::id::<domain::DeadLetterId>)]
        dead_letter: String,
    },
    /// Queue messages again, with a fresh count of deliveries, and retry the executions of tasks
    Replay(Many),
    /// Remove them for good
    Purge(Many),
}

/// Filters of the list.
#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// Also those that were replayed
    #[arg(long)]
    include_replayed: bool,
    /// At most this many
    #[arg(short, long, default_value_t = 50)]
    limit: usize,
}

/// What letters are of.
#[derive(Debug, clap::Args)]
struct Which {
    /// Of this kind
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// For this reason: `delivery_limit`, `expired`, `rejected` or `agent_deleted`
    #[arg(long)]
    reason: Option<String>,
    /// For this agent's id, `type:NAME` or `capability:NAME`
    #[arg(long)]
    target: Option<String>,
}

/// What died.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// Messages to agents
    Message,
    /// Tasks of executions
    Task,
}

/// Which letters.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("wanted").args(["ids", "kind", "reason", "target", "all"]).required(true).multiple(true)))]
struct Many {
    /// Their ids
    #[arg(value_name = "ID", value_parser = super::id::<domain::DeadLetterId>, conflicts_with_all = ["kind", "reason", "target", "all"])]
    ids: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// All that were not replayed
    #[arg(long)]
    all: bool,
}

impl Which {
    /// The filters that are given, by their names in the API.
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let kind = self.kind.map(|kind| match kind {
            Kind::Message => "message",
            Kind::Task => "task",
        });
        let filters = [("kind", kind), ("reason", self.reason.as_deref()), ("target", self.target.as_deref())];
        filters.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Many {
    /// What to ask for: in several parts where more are named than one request takes.
    fn bodies(&self) -> Vec<Value> {
        if !self.ids.is_empty() {
            return self.ids.chunks(AT_ONCE).map(|ids| json!({ "ids": ids, "limit": AT_ONCE })).collect();
        }
        let mut body = json!({ "all": self.all, "limit": AT_ONCE });
        for (name, value) in self.which.given() {
            body[name] = value.into();
        }
        vec![body]
    }
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    match args.action {
        None => list(args.list, context).await,
        Some(Action::List(filters)) => list(filters, context).await,
        Some(Action::Show { dead_letter }) => {
            let found = context.client.get(&["dead-letters", &dead_letter]).await?;
            context.output.document(&found)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::Replay(many)) => match &many.ids[..] {
            [one] => replay_one(one, context).await,
            _ => replay(&many, context).await,
        },
        Some(Action::Purge(many)) => match &many.ids[..] {
            [one] => {
                let answer = context.client.delete(&["dead-letters", one]).await?;
                tell(&answer, format!("{one} is removed"), context)
            }
            _ => purge(&many, context).await,
        },
    }
}

fn tell(answer: &Value, done: String, context: &Context<'_>) -> Outcome {
    if context.output.is_json() {
        context.output.document(answer)?;
    } else {
        context.output.line(done)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay_one(id: &str, context: &Context<'_>) -> Outcome {
    let answer = context.client.post(&["dead-letters", id, "replay"], &json!({})).await?;
    let done = match text(&answer, "execution_id") {
        "" => format!("message {} is queued again", text(&answer, "message_id")),
        execution => format!("{execution} runs again from its failed steps"),
    };
    tell(&answer, done, context)
}

/// Replays part after part until there are no more. Fails where some could not be replayed, after all the others were.
async fn replay(many: &Many, context: &Context<'_>) -> Outcome {
    let (mut replayed, mut failures) = (0, Vec::new());
    let parts = parts(many, "replay", context, |answer| {
        replayed += number(answer, "replayed");
        failures.extend(answer["failures"].as_array().into_iter().flatten().cloned());
    });
    parts.await?;
    if context.output.is_json() {
        context.output.document(&json!({ "replayed": replayed, "failures": failures }))?;
    } else {
        context.output.line(format!("{replayed} replayed"))?;
        for failure in &failures {
            let (id, code) = (text(failure, "id"), text(failure, "code"));
            context.output.note(format!("{id}: {} ({code})", text(failure, "message")));
        }
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn purge(many: &Many, context: &Context<'_>) -> Outcome {
    let mut purged = 0;
    parts(many, "purge", context, |answer| purged += number(answer, "purged")).await?;
    tell(&json!({ "purged": purged }), format!("{purged} removed"), context)
}

/// Asks again with each answer's cursor, to the end.
async fn parts(many: &Many, verb: &str, context: &Context<'_>, mut answered: impl FnMut(&Value)) -> anyhow::Result<()> {
    for mut body in many.bodies() {
        loop {
            let answer = context.client.post(&["dead-letters", verb], &body).await?;
            answered(&answer);
            match answer.get("next_cursor").and_then(Value::as_str) {
                Some(cursor) => body["cursor"] = cursor.into(),
                None => break,
            }
        }
    }
    Ok(())
}

async fn list(filters: List, context: &Context<'_>) -> Outcome {
    let mut query: Vec<_> = filters.which.given().collect();
    if filters.include_replayed {
        query.push(("include_replayed", "true"));
    }
    let found = context.client.list(&["dead-letters"], &query, filters.limit).await?;
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn many_are_replayed_only_where_it_is_said_which() {
        let dead = "dlt_01jx4q3nd8e5r0cawm6n8gs3kt";
        let parse = |words: &str| Cli::try_parse_from(["troupe", "dead-letters"].into_iter().chain(words.split(' ')));
        for right in
            ["replay --all", "purge --reason expired --kind message", &format!("replay {dead} {dead}"), "--kind task"]
        {
            assert!(parse(right).is_ok(), "{right}: {:?}", parse(right).err());
        }
        for wrong in ["replay", "purge", &format!("purge {dead} --all"), "replay exe_1", "replay --kind letter"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
