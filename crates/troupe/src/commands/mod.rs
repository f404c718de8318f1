//! The commands, one file each. Those that speak to a server do so over its REST API and nothing else.

pub(crate) mod agents;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod certs;
pub(crate) mod completions;
pub(crate) mod control;
pub(crate) mod dead_letters;
pub(crate) mod events;
pub(crate) mod explain;
mod follow;
pub(crate) mod healthcheck;
mod input;
pub(crate) mod keys;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod send;
pub(crate) mod show;
pub(crate) mod signal;
mod timeline;
pub(crate) mod topics;
pub(crate) mod verify;
pub(crate) mod workflows;

use std::process::ExitCode;

use serde_json::Value;

use crate::{
    bench,
    cli::{Cli, Command},
    client::{self, Client},
    dev,
    output::Output,
    serve,
};

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// The server.
    pub(crate) client: Client,
    /// The namespace to work in.
    pub(crate) namespace: String,
    /// Where results go.
    pub(crate) output: &'a Output,
}

/// What every command comes to: an error has not been printed yet, an exit code says what a result that was printed means.
pub(crate) type Outcome = anyhow::Result<ExitCode>;

/// Runs the command that was typed.
pub(crate) async fn run(cli: Cli, output: &Output) -> Outcome {
    let client = || -> anyhow::Result<Context<'_>> {
        let client = Client::new(&cli.global)?;
        Ok(Context { client, namespace: cli.global.namespace.clone(), output })
    };
    match cli.command {
        Command::Dev(args) => Box::pin(dev::run(args, output)).await,
        Command::Serve(args) => Box::pin(serve::run(args, output)).await,
        Command::Migrate(args) => serve::migrate::run(args, output).await,
        Command::Certs(args) => certs::run(&args, output),
        Command::Healthcheck(args) => healthcheck::run(args, &cli.global.url, output).await,
        Command::Completions(args) => completions::run(&args),
        Command::Bench(args) => Box::pin(bench::run(args, &cli.global, output)).await,
        Command::Apply(args) => apply::run(args, &client()?).await,
        Command::Run(args) => run::run(args, &client()?).await,
        Command::Ps(args) => ps::run(args, &client()?).await,
        Command::Show(args) => show::run(args, &client()?).await,
        Command::Explain(args) => explain::run(args, &client()?).await,
        Command::Events(args) => events::run(args, &client()?).await,
        Command::Signal(args) => signal::run(args, &client()?).await,
        Command::Cancel(args) => control::cancel(args, &client()?).await,
        Command::Pause(args) => control::run(args, control::Verb::Pause, &client()?).await,
        Command::Resume(args) => control::run(args, control::Verb::Resume, &client()?).await,
        Command::Retry(args) => control::run(args, control::Verb::Retry, &client()?).await,
        Command::Agents(args) => agents::run(args, &client()?).await,
        Command::Workflows(args) => workflows::run(args, &client()?).await,
        Command::Send(args) => send::run(args, &client()?).await,
        Command::Topics(args) => topics::run(args, &client()?).await,
        Command::DeadLetters(args) => dead_letters::run(args, &client()?).await,
        Command::Keys(args) => keys::run(args, &client()?).await,
        Command::Audit(args) => audit::run(args, &client()?).await,
        Command::Verify(args) => verify::run(args, &client()?).await,
    }
}

/// An id or a name in an argument, refused where it is none: a text such as `..` would lead to another route.
fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl Context<'_> {
    /// The agent or workflow of this name or id. A text that is an id is taken for one.
    async fn named(&self, kind: Named, name_or_id: &str) -> Result<Value, client::Error> {
        if kind.is_id(name_or_id) {
            return self.client.get(&[kind.path(), name_or_id]).await;
        }
        self.by_name(kind, name_or_id).await?.ok_or_else(|| client::Error::Unknown {
            kind: kind.word(),
            name: name_or_id.to_owned(),
            namespace: self.namespace.clone(),
        })
    }

    /// The agent or active workflow of this name, if there is one.
    async fn by_name(&self, kind: Named, name: &str) -> Result<Option<Value>, client::Error> {
        let found = self.client.list(&[kind.path()], &[("name", name)], 10).await?;
        Ok(found.into_iter().find(|item| client::text(item, "name") == name))
    }
}

/// What has a name besides its id.
#[derive(Clone, Copy, Debug)]
enum Named {
    Agent,
    Workflow,
}

impl Named {
    const fn path(self) -> &'static str {
        match self {
            Self::Agent => "agents",
            Self::Workflow => "workflows",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Workflow => "workflow",
        }
    }

    /// Names may begin as ids do.
    fn is_id(self, text: &str) -> bool {
        match self {
            Self::Agent => text.parse::<domain::AgentId>().is_ok(),
            Self::Workflow => text.parse::<domain::WorkflowId>().is_ok(),
        }
    }
}
