//! `troupe serve <service>`: one service of a cluster in this process, on the database that its settings name, calling the
//! others over gRPC.
//!
//! `ready grpc=…` (or `http=…` for the gateway) on standard output says that it answers. A stop works as that of `dev`: first
//! what takes work in, then what that stands on, then the database is closed. A second signal cuts.

mod http;
pub(crate) mod migrate;
mod service;
mod settings;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use ::settings::Settings as _;
use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use domain::SystemClock;
use lifecycle::OnExit;
use rpc::{Caller, Denials, Door};
use serde_json::{Value, json};
use telemetry::{LogFormat, Telemetry};
use tonic_health::server::HealthReporter;

use self::service::Service;
pub(crate) use self::settings::Settings;
use crate::{
    commands::Outcome,
    host::{
        LogArgs, Stages, bind,
        grpc::{self, Grpc},
        told, until_stopped,
    },
    output::Output,
};

/// Options of `troupe serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which service
    #[arg(value_enum)]
    service: Name,
    /// A TOML file with a table per service, and one named `serve`
    #[arg(long, env = "TROUPE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective settings as JSON, and start nothing
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// Agents
    Registry,
    /// Messages, tasks and agents' sessions
    Communication,
    /// Workflows and executions
    Orchestrator,
    /// Built-in agents
    AgentRunner,
    /// The HTTP API
    Gateway,
}

pub(crate) async fn run(args: Args, output: &Output) -> Outcome {
    let file = args.config.as_deref();
    crate::dev::check_names(file).map_err(|error| told(error.into()))?;
    let settings = Settings::load(file).map_err(|error| told(error.into()))?;
    let telemetry_settings = telemetry::Settings::load(file).map_err(|error| told(error.into()))?;
    if args.print_config {
        output.document(&args.service.settings(file, &settings, &telemetry_settings).map_err(told)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = args.service.to_possible_value().map(|value| format!("troupe-{}", value.get_name()));
    let telemetry = args.log.install(&name.unwrap_or_default(), &telemetry_settings, LogFormat::Json)?;
    let stages = Stages::new();
    let serving = serve(args.service, file, &settings, &stages, telemetry.clone(), output);
    let outcome = Box::pin(until_stopped(&stages, serving)).await;
    telemetry.flush().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

impl Name {
    /// Says for whom the service calls: the gateway for its clients, every other for itself.
    fn signer(self, keys: access::Keys) -> access::Signer {
        match self {
            Self::Registry | Self::Communication | Self::Orchestrator | Self::AgentRunner => {
                access::Signer::service(keys, self.as_str())
            }
            Self::Gateway => access::Signer::gateway(keys),
        }
    }

    /// As others call it, and as it calls itself.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Communication => "communication",
            Self::Orchestrator => "orchestrator",
            Self::AgentRunner => "agent-runner",
            Self::Gateway => "gateway",
        }
    }

    /// What the service reads, each table under its own name.
    fn settings(
        self,
        file: Option<&std::path::Path>,
        serve: &Settings,
        telemetry: &telemetry::Settings,
    ) -> anyhow::Result<Value> {
        fn of<T: ::settings::Settings>(file: Option<&std::path::Path>) -> anyhow::Result<(&'static str, Value)> {
            Ok((T::SERVICE, serde_json::to_value(T::load(file)?)?))
        }
        let (name, own) = match self {
            Self::Registry => of::<registry::Settings>(file),
            Self::Communication => of::<communication::Settings>(file),
            Self::Orchestrator => of::<orchestrator::Settings>(file),
            Self::AgentRunner => of::<agent_runner::Settings>(file),
            Self::Gateway => of::<gateway::Settings>(file),
        }?;
        Ok(json!({ "serve": serve, "telemetry": telemetry, name: own }))
    }
}

async fn serve(
    name: Name,
    file: Option<&std::path::Path>,
    settings: &Settings,
    stages: &Stages,
    telemetry: Telemetry,
    output: &Output,
) -> anyhow::Result<()> {
    let token = settings.token()?;
    if token.is_none() {
        for address in [Some(settings.listen), settings.http].into_iter().flatten() {
            ensure!(
                address.ip().to_canonical().is_loopback(),
                "{address} is open to others, and no serve.token_file says who may come in"
            );
        }
    }
    let tls = settings.tls()?;
    let keys = settings.keys()?;
    let caller = Caller::new(stages.edge.clone())
        .with_signer(keys.clone().map(|keys| name.signer(keys)))
        .with_tls(tls.clone())
        .with_max_calls(settings.max_calls);
    let health = HealthReporter::new();
    let shutdown = stages.edge.shutdown().clone();
    let is_gateway = name == Name::Gateway;
    let listener = if is_gateway { None } else { Some(bind(settings.listen, "serve.listen").await?) };
    let address = listener.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;
    let advertised = advertised(settings, address);
    let service = match Service::start(name, file, settings, &caller, advertised, stages, telemetry.clone()).await {
        Ok(service) => service,
        Err(error) => {
            stages.cut();
            return Err(told(error));
        }
    };
    let ready = match listener {
        Some(listener) => {
            let server = Grpc::new([service.routes()], &health, &Denials::new(Arc::new(SystemClock)))
                .context("the contracts cannot be described")?;
            let server = server
                .guarded(token.zip(keys).map(|(token, keys)| Door::new(token, keys, name.as_str())))
                .over_tls(tls)
                .serve(listener, shutdown.clone());
            stages.edge.spawn("grpc", OnExit::StopService, server);
            address.map(|address| format!("grpc={address}"))
        }
        None => service.http(stages).await?.map(|address| format!("http={address}")),
    };
    let checks = service.checks();
    if let Some(address) = settings.http.filter(|_| !is_gateway) {
        let listener = bind(address, "serve.http").await?;
        let checks = checks.clone().and(service::peers(name, &caller, settings)?);
        let token = settings.metrics_token()?;
        // As long as anything runs it says how far that is.
        let end = stages.core.shutdown().clone();
        stages.core.spawn("http", OnExit::StopService, http::serve(listener, telemetry, token, checks, shutdown, end));
    }
    grpc::serving(&health, service.names()).await;
    output.line(format!("ready {}", ready.unwrap_or_default()))?;
    // Both arms are cancel-safe.
    tokio::select! {
        () = stages.stopping() => {}
        never = grpc::follow(&health, service.names(), &checks) => match never {},
    }
    grpc::not_serving(&health, service.names()).await;
    let ended = stages.end(service.drain_delay()).await;
    service.close().await;
    Ok(ended?)
}

fn advertised(settings: &Settings, address: Option<SocketAddr>) -> String {
    let own = || address.map(|address| address.to_string()).unwrap_or_default();
    settings.advertise.clone().unwrap_or_else(own)
}
