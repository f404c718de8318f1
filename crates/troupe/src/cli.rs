//! What can be typed: the global options and the list of commands. Each command keeps its own options in its own file.

use clap::{Args, Parser, Subcommand};

use crate::{bench, commands, dev, serve};

/// Durable multi-agent runtime: run agents and workflows so that nothing accepted is ever lost.
#[derive(Debug, Parser)]
#[command(name = "troupe", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command has.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The server's HTTP address
    #[arg(long, global = true, env = "TROUPE_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// The namespace to work in
    #[arg(short, long, global = true, env = "TROUPE_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub(crate) namespace: String,
    /// The API key of a gateway that wants one
    #[arg(long, global = true, env = "TROUPE_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run all five services in this process, on SQLite files in a data directory
    Dev(dev::Args),
    /// Run one service of a cluster in this process
    Serve(serve::Args),
    /// Bring the tables of a cluster's services up to date
    Migrate(serve::migrate::Args),
    /// Make certificates for the processes of a development cluster
    Certs(commands::certs::Args),
    /// Ask a process whether it is ready; fails where it is not
    Healthcheck(commands::healthcheck::Args),
    /// Create or update agents and workflows from files
    Apply(commands::apply::Args),
    /// Start an execution of a workflow, and follow it with --wait
    Run(commands::run::Args),
    /// List executions, newest first
    Ps(commands::ps::Args),
    /// Show an execution: the timeline of its steps and attempts, and its outcome
    Show(commands::show::Args),
    /// Say in words what an execution waits for, and since when
    Explain(commands::explain::Args),
    /// Print an execution's log of events
    Events(commands::events::Args),
    /// Give a waiting execution a signal, an approval for one
    Signal(commands::signal::Args),
    /// Cancel an execution; what completed is compensated
    Cancel(commands::control::CancelArgs),
    /// Let an execution's running steps finish, and start nothing new
    Pause(commands::control::Args),
    /// End a pause
    Resume(commands::control::Args),
    /// Run a failed execution again from its failed steps
    Retry(commands::control::Args),
    /// List, show and delete agents
    Agents(commands::agents::Args),
    /// List, show and archive workflows
    Workflows(commands::workflows::Args),
    /// Send a message to an agent
    Send(commands::send::Args),
    /// Publish to topics, and watch them
    Topics(commands::topics::Args),
    /// List, show, replay and purge what could not be delivered
    DeadLetters(commands::dead_letters::Args),
    /// Create, list, show, rotate and revoke API keys
    Keys(commands::keys::Args),
    /// List, export and verify what was done and by whom
    Audit(commands::audit::Args),
    /// Check hash chains, replays and liveness; fails where anything is wrong
    Verify(commands::verify::Args),
    /// Measure throughput and latency of a running server
    Bench(bench::Args),
    /// Print the completion script of a shell
    Completions(commands::completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_before_and_after_the_command() {
        let before = Cli::try_parse_from(["troupe", "--json", "-n", "team", "ps"]).unwrap();
        let after = Cli::try_parse_from(["troupe", "ps", "--json", "--namespace", "team"]).unwrap();
        for cli in [before, after] {
            assert!(cli.global.json);
            assert_eq!(cli.global.namespace, "team");
        }
    }
}
