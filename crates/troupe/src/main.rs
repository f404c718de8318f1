#![doc = include_str!("../README.md")]

mod bench;
mod cli;
mod client;
mod commands;
mod dev;
mod output;

use std::{io, process::ExitCode};

use clap::Parser as _;

use self::{cli::Cli, output::Output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.failure(&anyhow::Error::new(error).context("cannot start the threads"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(cli, &output)) {
        Ok(code) => code,
        // The reader of our output has seen enough: `troupe ps | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output.failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
