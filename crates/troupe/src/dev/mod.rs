//! `troupe dev`: the five services in this process, on SQLite files in one data directory.
//!
//! Start: the data directory's lock, both ports, then registry → communication → orchestrator → agent-runner → gateway. What
//! can be refused is refused before anything is changed. `ready http=… grpc=…` on standard output says that both ports answer.
//!
//! Stop, in two stages, so that what finishes can still be committed: first everything that takes work in (gateway, gRPC,
//! agents, sessions), then what they stand on (orchestrator, registry), then the databases are closed. A second signal cuts.

mod data_dir;
mod services;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use telemetry::{LogFormat, Telemetry};
use tokio::net::TcpListener;

pub(crate) use self::services::check_names;
use self::{
    data_dir::DataDir,
    services::{Services, Settings},
};
use crate::{
    commands::Outcome,
    host::{LogArgs, Stages, bind, told, until_stopped},
    output::Output,
};

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
    #[command(flatten)]
    log: LogArgs,
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
    // It speaks no TLS, and secrets would travel as they are: for agents on other machines there is `serve`.
    gateway::check_listen(args.grpc, false)?;
    gateway::check_listen(settings.gateway.listen, settings.gateway.is_protected())?;
    let telemetry = args.log.install("troupe-dev", &settings.telemetry, LogFormat::Readable)?;
    let outcome = Box::pin(run_with(args, settings, telemetry.clone(), output)).await;
    telemetry.flush().await;
    outcome
}

async fn run_with(args: Args, mut settings: Settings, telemetry: Telemetry, output: &Output) -> Outcome {
    let data = DataDir::take(&args.data_dir)?;
    settings.place(&data);
    let http = bind(settings.gateway.listen, "--http").await?;
    let grpc = bind(args.grpc, "--grpc").await?;
    let stages = Stages::new();
    let serving = serve(&settings, &stages, telemetry, (http, grpc), |http, grpc| {
        summary(&settings.gateway, http, grpc, &args.data_dir, output);
        if output.is_json() {
            return output.json_line(&serde_json::json!({ "http": http, "grpc": grpc }));
        }
        output.line(format!("ready http={http} grpc={grpc}"))
    });
    let outcome = Box::pin(until_stopped(&stages, serving)).await;
    // Held until the databases are closed.
    drop(data);
    outcome.map(|()| ExitCode::SUCCESS)
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
    let ended = stages.end(settings.gateway.drain_delay).await;
    services.close().await;
    ended?;
    // Whoever waits for the line and has gone is no reason to stop serving.
    announced.or_else(|error| if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
    Ok(())
}

fn summary(
    gateway: &gateway::Settings,
    http: SocketAddr,
    grpc: SocketAddr,
    data_dir: &std::path::Path,
    output: &Output,
) {
    let scheme = if gateway.tls.is_some() { "https" } else { "http" };
    let authentication = if gateway.is_protected() {
        "HTTP wants a key or a token; gRPC, on loopback only, an agent's token or that of serve.token."
    } else {
        "There is no authentication: everybody on this machine can do everything. It listens on loopback only."
    };
    let version = env!("CARGO_PKG_VERSION");
    output.note(format!(
        "Troupe {version}: registry, communication, orchestrator, agent-runner and gateway in one process\n\
         \x20 HTTP  {scheme}://{http}  (API; /docs describes it, /metrics counts)\n\
         \x20 gRPC  {grpc}  (agents and clients; reflection and health are on)\n\
         \x20 data  {}\n\
         {authentication}",
        data_dir.display()
    ));
}
