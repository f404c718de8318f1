//! `troupe migrate`: the tables of every service with a database, brought up to date. Forward only.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use settings::Settings as _;
use store::{Database, Migrations};

use crate::{commands::Outcome, output::Output};

/// Options of `troupe migrate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A TOML file with a table per service
    #[arg(long, env = "TROUPE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, output: &Output) -> Outcome {
    let file = args.config.as_deref();
    crate::dev::check_names(file)?;
    let services: [(settings::Database, &Migrations); 4] = [
        (registry::Settings::load(file)?.database, &registry::MIGRATIONS),
        (communication::Settings::load(file)?.database, &communication::MIGRATIONS),
        (orchestrator::Settings::load(file)?.database, &orchestrator::MIGRATIONS),
        (gateway::Settings::load(file)?.database, &gateway::MIGRATIONS),
    ];
    for (database, migrations) in services {
        let service = migrations.service;
        if database.is_unplaced() {
            output.note(format!("{service}: no database is set; set {service}.database.url"));
            continue;
        }
        let settings = settings::Database { migrate: true, ..database };
        let database = Database::open(&settings, migrations).await;
        database.with_context(|| format!("cannot migrate the {service}"))?.close().await;
        output.line(format!("{service}: up to date"))?;
    }
    Ok(ExitCode::SUCCESS)
}
