//! `troupe bench`: load on a running server, or a cluster, through its gRPC API, and through the gateway.
//!
//! So many calls are out at once as `--concurrency` says, each begins when one ends, and every answer is checked: an answer
//! with the wrong output is an error. What is measured includes the whole way, commits with fsync among it; nothing about the
//! server is changed for it. All clients share one connection (in a cluster one to each replica) and run on one task, which is
//! enough to keep a server of several cores busy.
//!
//! What a run has cost, and the memory of what waits, are the server's own words: its metrics before and after.

mod cost;
mod kinds;
mod load;
mod message;
mod meter;
mod report;
mod requests;
mod services;
mod setup;
mod waiting;
mod workflows;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use self::{load::Plan, meter::Meter, report::Report, services::Services};
use crate::{cli::Global, commands::Outcome, output::Output};

/// Where the workflow and agents of the benchmark live, so that they are in nobody's way.
const NAMESPACE: &str = "bench";

/// Options of `troupe bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure; chain3, fan100 and message where nothing is named
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
    /// How many are out at once; 64 where nothing is said, of dag10k 1, of requests to the gateway 25, of kinds20 as many as there are agents
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: Option<u32>,
    /// So many begin a second, whether or not those before have ended, up to the concurrency; latency is from when each was due
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How many to do before measuring; a tenth of the runs where nothing is said, at least one
    #[arg(long)]
    warmup: Option<u64>,
    /// Print what a run has cost: processor time, bytes written, transactions, events, frames
    #[arg(long)]
    cost: bool,
    /// Where the server shows its metrics; of a cluster every process whose cost counts, with commas between them
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    metrics: Vec<String>,
    /// Of kinds20: how many agents there are in all
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    agents: u32,
    /// Of waiting: leave the executions waiting
    #[arg(long)]
    keep: bool,
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
    /// An execution that waits for a signal, and what memory the server takes for it
    Waiting,
    /// An execution of 10,000 steps, of which one waits for 6,000
    Dag10k,
    /// The load of chain3 over one kind of agent and then over 20, all of whose agents this process is
    Kinds20,
    /// GET of an agent from the gateway, with --api-key where it wants one
    GetAgent,
    /// POST of a message to an agent's mailbox at the gateway
    PostMessage,
}

impl Workload {
    const fn name(self) -> &'static str {
        match self {
            Self::Chain3 => "chain3",
            Self::Fan100 => "fan100",
            Self::Message => "message",
            Self::Waiting => "waiting",
            Self::Dag10k => "dag10k",
            Self::Kinds20 => "kinds20",
            Self::GetAgent => "get-agent",
            Self::PostMessage => "post-message",
        }
    }

    /// Some seconds' worth.
    const fn default_runs(self) -> u64 {
        match self {
            Self::Chain3 | Self::Waiting | Self::Kinds20 | Self::GetAgent | Self::PostMessage => 10_000,
            Self::Fan100 => 300,
            Self::Message => 20_000,
            Self::Dag10k => 5,
        }
    }
}

/// What every server should be able to do at once.
const DEFAULT: [Workload; 3] = [Workload::Chain3, Workload::Fan100, Workload::Message];

pub(crate) async fn run(args: Args, global: &Global, output: &Output) -> Outcome {
    let services = match &args.config {
        Some(file) => Services::of_cluster(file, args.agents.max(args.concurrency.unwrap_or(0)))?,
        None => Services::of_process(&args.grpc).await?,
    };
    let bench = Bench { meter: meter(&args, global, &services)?, services, global, args };
    let agent =
        setup::agent(&bench.services.registry).await.context("cannot set up the echo agent of the benchmark")?;
    let workloads = if bench.args.workloads.is_empty() { &DEFAULT[..] } else { &bench.args.workloads };
    let mut reports = Vec::new();
    for &workload in workloads {
        let measured = bench.measure(workload, &agent).await?;
        if !output.is_json() {
            for report in &measured {
                output.line(report.text())?;
            }
        }
        reports.extend(measured);
    }
    if output.is_json() {
        output.document(&reports)?;
    }
    let sound = reports.iter().all(|report| report.errors == 0);
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The metrics of the process, or those that are named.
fn meter(args: &Args, global: &Global, services: &Services) -> anyhow::Result<Option<Meter>> {
    let own = [global.url.clone()];
    let addresses = match (&args.metrics[..], &args.config) {
        ([], Some(_)) => {
            ensure!(
                !args.cost,
                "where the processes of a cluster show their metrics is not known: name it with --metrics"
            );
            return Ok(None);
        }
        ([], None) => &own[..],
        (named, _) => named,
    };
    Meter::new(addresses, global.api_key.as_deref(), services.metrics_secret.as_ref()).map(Some)
}

/// A server, and how it is to be measured.
struct Bench<'a> {
    services: Services,
    meter: Option<Meter>,
    global: &'a Global,
    args: Args,
}

impl Bench<'_> {
    async fn measure(&self, workload: Workload, agent: &str) -> anyhow::Result<Vec<Report>> {
        let Self { services, meter, global, args } = self;
        let (plan, meter) = (self.plan(workload), meter.as_ref());
        let orchestrator = &services.orchestrator;
        // Of the rest the cost is told where it is asked for.
        let costs = meter.filter(|_| args.cost);
        let report = match workload {
            Workload::Chain3 | Workload::Fan100 => workflows::measure(workload, plan, orchestrator, costs).await?,
            Workload::Dag10k => workflows::measure(workload, plan, orchestrator, meter).await?,
            Workload::Message => message::measure(plan, &services.communication, agent, costs).await?,
            Workload::Waiting => waiting::measure(plan, orchestrator, meter, args.cost, args.keep).await?,
            Workload::GetAgent | Workload::PostMessage => {
                requests::measure(workload, plan, global, agent, costs).await?
            }
            Workload::Kinds20 => return Box::pin(kinds::measure(plan, services, args.agents, costs)).await,
        };
        Ok(vec![report])
    }

    fn plan(&self, workload: Workload) -> Plan {
        let args = &self.args;
        let runs = args.runs.unwrap_or(workload.default_runs());
        let concurrency = args.concurrency.unwrap_or(match workload {
            Workload::Chain3 | Workload::Fan100 | Workload::Message | Workload::Waiting => 64,
            Workload::Dag10k => 1,
            Workload::Kinds20 => args.agents,
            Workload::GetAgent | Workload::PostMessage => 25,
        });
        Plan { runs, concurrency, warmup: args.warmup.unwrap_or((runs / 10).max(1)), rate: args.rate }
    }
}
