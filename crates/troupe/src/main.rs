#![doc = include_str!("../README.md")]

mod bench;
mod cli;
mod client;
mod commands;
mod dev;
mod host;
mod output;
mod serve;

use std::{io, process::ExitCode, time::Duration};

use clap::Parser as _;

use self::{cli::Cli, output::Output};

/// Of many small allocations on several threads, which is what this program does, it makes a third more in the same time than the
/// allocator of glibc.
#[cfg(not(feature = "count-allocations"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: stats_alloc::StatsAlloc<mimalloc::MiMalloc> = stats_alloc::StatsAlloc::new(mimalloc::MiMalloc);

/// How long work that cannot be dropped may still take when everything else has ended.
const LAST_WORK: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    #[cfg(feature = "count-allocations")]
    telemetry::process::count_allocations(|| {
        let stats = ALLOCATOR.stats();
        telemetry::process::Allocations { count: stats.allocations as u64, bytes: stats.bytes_allocated as u64 }
    });
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.failure(&anyhow::Error::new(error).context("cannot start the threads"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(commands::run(cli, &output));
    // A thread that is stuck in the file system must not keep the process.
    runtime.shutdown_timeout(LAST_WORK);
    match ended {
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
