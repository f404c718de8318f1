//! `troupe bench`: closed-loop load on a running server, or a cluster, through its gRPC API.
//!
//! So many calls are out at once as `--concurrency` says, each begins when one ends, and every answer is checked: an answer
//! with the wrong output is an error. What is measured includes the whole way, commits with fsync among it; nothing about the
//! server is changed for it. All clients share one connection (in a cluster one to each replica) and run on one task, which is enough to keep a server of
//! several cores busy.

mod load;
mod message;
mod report;
mod setup;
mod workflows;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum;
use contracts::Link;
use lifecycle::{Shutdown, Tasks};
use rpc::Caller;
use settings::Settings as _;
use tonic::transport::Endpoint;

use crate::{commands::Outcome, output::Output};

/// Where the workflow and agents of the benchmark live, so that they are in nobody's way.
const NAMESPACE: &str = "bench";
const CONNECT: Duration = Duration::from_secs(5);

/// Options of `troupe bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure; everything where nothing is named
    #[arg(value_enum)]
    workloads: Vec<Workload>,
    /// The server's gRPC address
    #[arg(long, env = "TROUPE_GRPC", default_value = "127.0.0.1:50051", value_name = "ADDR")]
    grpc: String,
    /// Of a cluster: the file with its settings, whose section `serve` names the services and the token
    #[arg(long, value_name = "FILE", conflicts_with = "grpc")]
    config: Option<PathBuf>,
    /// How many executions or messages to measure, of each workload
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// How many are out at once
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// How many to do before measuring; a tenth of the runs where nothing is said
    #[arg(long)]
    warmup: Option<u64>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// An execution of 3 sequential echo steps with a payload of 200 bytes
    Chain3,
    /// An execution of 100 parallel echo steps and one that joins them
    Fan100,
    /// A message of 1 KiB to an echo agent's mailbox; counted when it is accepted
    Message,
}

impl Workload {
    const fn name(self) -> &'static str {
        match self {
            Self::Chain3 => "chain3",
            Self::Fan100 => "fan100",
            Self::Message => "message",
        }
    }

    /// Some seconds' worth.
    const fn default_runs(self) -> u64 {
        match self {
            Self::Chain3 => 10_000,
            Self::Fan100 => 300,
            Self::Message => 20_000,
        }
    }
}

pub(crate) async fn run(args: Args, output: &Output) -> Outcome {
    let services = match &args.config {
        Some(file) => Services::of_cluster(file, args.concurrency)?,
        None => Services::of_process(&args.grpc).await?,
    };
    let agent = setup::agent(&services.registry).await.context("cannot set up the echo agent of the benchmark")?;
    let workloads = if args.workloads.is_empty() { Workload::value_variants() } else { &args.workloads };
    let mut reports = Vec::new();
    for &workload in workloads {
        let runs = args.runs.unwrap_or(workload.default_runs());
        let plan = load::Plan { runs, concurrency: args.concurrency, warmup: args.warmup.unwrap_or(runs / 10) };
        let report = match workload {
            Workload::Chain3 | Workload::Fan100 => workflows::measure(workload, plan, &services.orchestrator).await?,
            Workload::Message => message::measure(plan, &services.communication, &agent).await?,
        };
        if !output.is_json() {
            output.line(report.text())?;
        }
        reports.push(report);
    }
    if output.is_json() {
        output.document(&reports)?;
    }
    let sound = reports.iter().all(|report| report.errors == 0);
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is called.
struct Services {
    registry: Link,
    orchestrator: Link,
    communication: Link,
}

impl Services {
    /// All in one process.
    async fn of_process(address: &str) -> anyhow::Result<Self> {
        let link = connect(address).await?;
        Ok(Self { registry: link.clone(), orchestrator: link.clone(), communication: link })
    }

    /// Each with replicas of its own.
    fn of_cluster(file: &Path, concurrency: u32) -> anyhow::Result<Self> {
        let settings = crate::serve::Settings::load(Some(file))?;
        // What follows the replicas ends with the process.
        let caller = Caller::new(Tasks::new(Shutdown::new()))
            .with_token(settings.token()?)
            .with_tls(settings.tls()?)
            .with_max_calls(Caller::MAX_CALLS.max(concurrency as usize));
        Ok(Self {
            registry: caller.connect("registry", &settings.registry)?,
            orchestrator: caller.connect("orchestrator", &settings.orchestrator)?,
            communication: caller.connect("communication", &settings.communication)?,
        })
    }
}

async fn connect(address: &str) -> anyhow::Result<Link> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url)
        .with_context(|| format!("{address:?} is no address; it looks like 127.0.0.1:50051"))?;
    let channel = endpoint.connect_timeout(CONNECT).tcp_nodelay(true).connect().await.with_context(|| {
        format!("no answer from {address}; start a server with `troupe dev`, or name one with --grpc or TROUPE_GRPC")
    })?;
    Ok(Link::new(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_server_is_told_with_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let error = connect(&address).await.unwrap_err();
        assert!(error.to_string().contains("troupe dev"), "{error}");
        assert!(connect("no address").await.is_err());
    }
}
