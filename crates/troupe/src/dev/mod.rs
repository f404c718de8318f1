//! `troupe dev`: the five services in this process, on SQLite files in one data directory.
//!
//! Start: the data directory's lock, both ports, then registry → communication → orchestrator → agent-runner → gateway. What
//! can be refused is refused before anything is changed. `ready http=… grpc=…` on standard output says that both ports answer.
//!
//! Stop, in two stages, so that what finishes can still be committed: first everything that takes work in (gateway, gRPC,
//! agents, sessions), then what they stand on (orchestrator, registry), then the databases are closed. A second signal cuts.

mod data_dir;
mod grpc;
mod services;

use std::{net::SocketAddr, path::PathBuf, pin::pin, process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow};
use futures::future::{Either, select};
use lifecycle::{Shutdown, Tasks};
use telemetry::{LogFormat, Telemetry};
use tokio::net::TcpListener;

use self::{
    data_dir::DataDir,
    services::{Services, Settings},
};
use crate::{commands::Outcome, output::Output};

/// How long what runs may take to finish.
const EDGE_GRACE: Duration = Duration::from_secs(10);
/// How long the last commits may take after that.
const CORE_GRACE: Duration = Duration::from_secs(10);

/// Options of `troupe dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where everything durable is kept; made on first use
    #[arg(long, env = "TROUPE_DATA_DIR", default_value = ".troupe", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where HTTP is served; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where gRPC is served; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "ADDR")]
    grpc: SocketAddr,
    /// A TOML file with a table per service
    #[arg(long, env = "TROUPE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective settings as JSON, and start nothing
    #[arg(long)]
    print_config: bool,
    /// What is logged, such as `info` or `warn,orchestrator=debug`
    #[arg(long, env = "TROUPE_LOG", default_value = "warn", value_name = "FILTER")]
    log: String,
    /// How logs look
    #[arg(long, value_enum, env = "TROUPE_LOG_FORMAT", default_value = "readable")]
    log_format: Format,
}

/// How logs look.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// Lines for people
    Readable,
    /// One JSON object per line
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Readable => Self::Readable,
            Format::Json => Self::Json,
        }
    }
}

pub(crate) async fn run(args: Args, output: &Output) -> Outcome {
    let mut settings = Settings::load(args.config.as_deref()).map_err(|error| told(error.into()))?;
    if let Some(http) = args.http {
        settings.gateway.listen = http;
    }
    if args.print_config {
        output.document(&settings)?;
        return Ok(ExitCode::SUCCESS);
    }
    for address in [settings.gateway.listen, args.grpc] {
        gateway::check_listen(address)?;
    }
    let telemetry = Telemetry::install(&args.log, args.log_format.into()).context("cannot set up the log")?;
    let data = DataDir::take(&args.data_dir)?;
    settings.place(&data);
    let http = bind(settings.gateway.listen, "--http").await?;
    let grpc = bind(args.grpc, "--grpc").await?;
    let stages = Stages::new();
    let serving = serve(&settings, &stages, telemetry, (http, grpc), |http, grpc| {
        summary(http, grpc, &args.data_dir, output);
        if output.is_json() {
            return output.json_line(&serde_json::json!({ "http": http, "grpc": grpc }));
        }
        output.line(format!("ready http={http} grpc={grpc}"))
    });
    let outcome = until_stopped(&stages, serving).await;
    // Held until the databases are closed.
    drop(data);
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| match address.port() {
        0 => format!("cannot listen on {address}"),
        port => format!(
            "cannot listen on {address}; if port {port} is taken, choose another with {flag} {}:0",
            address.ip()
        ),
    })
}

/// The two stages of a stop: each with its own tasks.
#[derive(Debug)]
struct Stages {
    stop: Shutdown,
    /// Takes work in.
    edge: Tasks,
    /// What the edge stands on; drains after it.
    core: Tasks,
}

impl Stages {
    fn new() -> Self {
        let stop = Shutdown::new();
        let edge = Tasks::new(stop.child());
        Self { stop, edge, core: Tasks::new(Shutdown::new()) }
    }

    /// Waits until a stop is asked for, or a task has died that the process cannot do without.
    async fn stopping(&self) {
        // All arms are cancel-safe.
        tokio::select! {
            () = self.stop.draining() => {}
            () = self.edge.shutdown().draining() => {}
            () = self.core.shutdown().draining() => {}
        }
        self.stop.drain();
    }

    fn cut(&self) {
        self.stop.cut();
        self.core.shutdown().cut();
    }
}

/// Runs `serving` to its end, while signals drain and cut it.
async fn until_stopped(stages: &Stages, serving: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let signals = pin!(lifecycle::on_signals(stages.stop.clone()));
    match select(signals, pin!(serving)).await {
        Either::Right((outcome, _)) => outcome,
        Either::Left((signals, serving)) => {
            stages.cut();
            let outcome = serving.await;
            signals.context("cannot listen for signals")?;
            outcome
        }
    }
}

/// Starts everything, says so to `ready`, and comes back when everything has stopped.
async fn serve(
    settings: &Settings,
    stages: &Stages,
    telemetry: Telemetry,
    (http, grpc): (TcpListener, TcpListener),
    ready: impl FnOnce(SocketAddr, SocketAddr) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let addresses = (http.local_addr()?, grpc.local_addr()?);
    let services = match Services::start(settings, stages, telemetry, http, grpc).await {
        Ok(services) => services,
        Err(error) => {
            stages.cut();
            return Err(told(error));
        }
    };
    let announced = ready(addresses.0, addresses.1);
    stages.stopping().await;
    services.not_serving().await;
    let edge = stages.edge.clone().join(EDGE_GRACE).await;
    stages.core.shutdown().drain();
    let core = stages.core.clone().join(CORE_GRACE).await;
    services.close().await;
    edge.and(core)?;
    // Whoever waits for the line and has gone is no reason to stop serving.
    announced.or_else(|error| if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
    Ok(())
}

/// An error with what to do about it, where that is known.
fn told(error: anyhow::Error) -> anyhow::Error {
    let hint = error.chain().find_map(|cause| {
        if cause.is::<store::OpenError>() {
            return Some(
                "a database does not open. If its file is damaged, restore the data directory from a backup, or move the \
                 file away to begin with an empty one; if a newer release wrote it, run that release",
            );
        }
        cause.is::<settings::Error>().then_some("docs/configuration.md lists every setting; --print-config shows the effective ones")
    });
    match hint {
        Some(hint) => anyhow!("{error:#}\nhint: {hint}"),
        None => error,
    }
}

fn summary(http: SocketAddr, grpc: SocketAddr, data_dir: &std::path::Path, output: &Output) {
    let version = env!("CARGO_PKG_VERSION");
    output.note(format!(
        "Troupe {version}: registry, communication, orchestrator, agent-runner and gateway in one process\n\
         \x20 HTTP  http://{http}  (API; /docs describes it, /metrics counts)\n\
         \x20 gRPC  {grpc}  (agents and clients; reflection and health are on)\n\
         \x20 data  {}\n\
         There is no authentication: everybody on this machine can do everything. It listens on loopback only.",
        data_dir.display()
    ));
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use lifecycle::OnExit;

    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = bind(taken.local_addr().unwrap(), "--http").await.unwrap_err();
        assert!(error.to_string().contains("--http 127.0.0.1:0"), "{error}");
    }

    #[tokio::test]
    async fn a_core_task_that_dies_stops_the_edge() {
        let stages = Stages::new();
        stages.core.spawn("worker", OnExit::StopService, async { Err("disk full") });
        let edge = stages.edge.shutdown().clone();
        stages.edge.spawn("front", OnExit::StopService, async move {
            edge.draining().await;
            Ok::<(), Infallible>(())
        });
        stages.stopping().await;
        stages.edge.join(EDGE_GRACE).await.unwrap();
        assert_eq!(stages.core.join(CORE_GRACE).await.unwrap_err().task, "worker");
    }

    #[tokio::test]
    async fn the_core_outlives_the_edge_in_a_drain() {
        let stages = Stages::new();
        stages.stop.drain();
        stages.stopping().await;
        assert!(stages.edge.shutdown().is_draining());
        assert!(!stages.core.shutdown().is_draining());
    }
}
