//! `troupe keys`: who may come in.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::{Context, Outcome};
use crate::{
    client::text,
    output::{Cell, Tone, age},
};

/// Options of `troupe keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List keys, without their secrets
    List {
        /// At most this many
        #[arg(short, long, default_value_t = 200)]
        limit: usize,
    },
    /// Create a key, and print its secret this once
    Create(Create),
    /// Show a key, without its secret
    Show {
        /// Its id
        #[arg(value_parser = super::id::<domain::ApiKeyId>)]
        key: String,
    },
    /// Give a key a new secret, and print it this once
    Rotate {
        /// Its id
        #[arg(value_parser = super::id::<domain::ApiKeyId>)]
        key: String,
        /// How long the secret that is replaced still opens, as 30s, 5m, 2h or 7d
        #[arg(long)]
        overlap: Option<String>,
    },
    /// Revoke a key, with all tokens that it was exchanged for
    Revoke {
        /// Its id
        #[arg(value_parser = super::id::<domain::ApiKeyId>)]
        key: String,
    },
}

/// A key to create.
#[derive(Debug, clap::Args)]
struct Create {
    /// What it is called
    name: String,
    /// What it is for
    #[arg(short, long, value_parser = ["viewer", "operator", "developer", "admin", "agent"])]
    role: String,
    /// Of what the role may, this alone; several times for more
    #[arg(short, long = "scope", value_name = "PERMISSION")]
    scopes: Vec<String>,
    /// The only namespace that it opens
    #[arg(long = "in", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// With the role agent, which one
    #[arg(long, value_name = "ID", value_parser = super::id::<domain::AgentId>)]
    agent: Option<String>,
    /// How long it opens, as 30s, 5m, 2h or 7d; for ever where it is not said
    #[arg(long, value_name = "TIME")]
    expires_in: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let client = &context.client;
    match args.action {
        Action::List { limit } => {
            let found = client.list(&["auth", "keys"], &[], limit).await?;
            if context.output.is_json() {
                context.output.document(&found)?;
            } else {
                let headings = ["NAME", "ROLE", "NAMESPACE", "STATE", "ID", "LAST USED"];
                let rows: Vec<_> = found.iter().map(row).collect();
                context.output.table(&headings, &rows, "no keys but that of the settings, if there is one")?;
            }
        }
        Action::Create(create) => {
            let created = client.post(&["auth", "keys"], &create.into_body()).await?;
            print_secret(&created, context)?;
        }
        Action::Show { key } => context.output.document(&client.get(&["auth", "keys", &key]).await?)?,
        Action::Rotate { key, overlap } => {
            let body = overlap.map_or_else(|| json!({}), |overlap| json!({ "overlap": overlap }));
            let rotated = client.post(&["auth", "keys", &key, "rotate"], &body).await?;
            print_secret(&rotated, context)?;
        }
        Action::Revoke { key } => {
            let answer = client.delete(&["auth", "keys", &key]).await?;
            if context.output.is_json() {
                context.output.document(&answer)?;
            } else {
                context.output.line(text(&answer, "message"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Create {
    fn into_body(self) -> Value {
        let mut body = Map::from_iter([("name".to_owned(), self.name.into()), ("role".to_owned(), self.role.into())]);
        if !self.scopes.is_empty() {
            body.insert("scopes".to_owned(), self.scopes.into());
        }
        let optional = [("namespace", self.namespace), ("agent_id", self.agent), ("expires_in", self.expires_in)];
        for (field, value) in optional {
            if let Some(value) = value {
                body.insert(field.to_owned(), value.into());
            }
        }
        Value::Object(body)
    }
}

/// The secret alone goes to standard output, so that it can be piped to where it is kept.
fn print_secret(answer: &Value, context: &Context<'_>) -> std::io::Result<()> {
    if context.output.is_json() {
        return context.output.document(answer);
    }
    let id = text(answer.get("key").unwrap_or(&Value::Null), "id");
    context.output.note(format!("{id}: its secret is told this once"));
    context.output.line(text(answer, "secret"))
}

fn row(key: &Value) -> Vec<Cell> {
    let is_revoked = key.get("revoked_at").is_some_and(|at| !at.is_null());
    let namespace = text(key, "namespace");
    vec![
        text(key, "name").into(),
        text(key, "role").into(),
        if namespace.is_empty() { "all" } else { namespace }.into(),
        if is_revoked { Cell::new("revoked", Tone::Bad) } else { Cell::new("good", Tone::Good) },
        Cell::new(text(key, "id"), Tone::Faint),
        Cell::new(age(text(key, "last_used_at")), Tone::Faint),
    ]
}
