//! Restate as a peer of `troupe bench`: `serve` is a service with the same workloads, `load` puts closed-loop load on it through
//! Restate's ingress, as `troupe bench` does through Troupe's API. `tests/bench-peers.sh` runs both beside Restate's server.

mod load;
mod service;

use std::process::ExitCode;

use clap::Parser;

/// As in Troupe's own program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Restate, measured as `troupe bench` measures Troupe
#[derive(Debug, Parser)]
enum Command {
    /// Serve the handlers, on a free port; prints the address when it listens
    Serve,
    /// Put load on them through the ingress
    Load(load::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Serve => service::serve().await.map(|()| ExitCode::SUCCESS),
        Command::Load(args) => load::run(&args).await,
    }
}
