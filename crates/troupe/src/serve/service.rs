//! The service that runs in this process.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ::settings::Settings as _;
use anyhow::{Context as _, ensure};
use contracts::{Link, Links};
use domain::{Clock, SystemClock};
use lifecycle::{Checks, Complaint, HealthStatus, OnExit};
use rpc::{Caller, Replicas};
use telemetry::Telemetry;
use tonic::service::Routes;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{Name, Settings};
use crate::host::{Stages, bind, grpc};

/// How long the database may take to close.
const CLOSE: Duration = Duration::from_secs(10);

pub(super) enum Service {
    Registry(registry::Service),
    Communication(communication::Service),
    Orchestrator(orchestrator::Service),
    AgentRunner(agent_runner::Service),
    Gateway(gateway::Gateway, SocketAddr),
}

impl Service {
    pub(super) async fn start(
        name: Name,
        file: Option<&Path>,
        serve: &Settings,
        caller: &Caller,
        advertised: String,
        stages: &Stages,
        telemetry: Telemetry,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let edge = stages.edge.shutdown().clone();
        let link = |service: &'static str, replicas: &Replicas| -> anyhow::Result<Link> {
            caller.connect(service, replicas).with_context(|| format!("serve.{service} does not say where to find it"))
        };
        let links = |service: &'static str, replicas: &Replicas| -> anyhow::Result<Links> {
            caller
                .connect_each(service, replicas)
                .with_context(|| format!("serve.{service} does not say where to find it"))
        };
        let registry = || link("registry", &serve.registry);
        let communication = || link("communication", &serve.communication);
        Ok(match name {
            Name::Registry => {
                let settings = registry::Settings::load(file)?;
                placed("registry", &settings.database)?;
                Self::Registry(registry::start(settings, clock, &stages.core, edge).await?)
            }
            Name::Communication => {
                let settings = communication::Settings::load(file)?;
                placed("communication", &settings.database)?;
                let peers =
                    communication::Peers { registry: registry()?, registries: links("registry", &serve.registry)? };
                Self::Communication(communication::start(settings, peers, clock, &stages.edge, &stages.core).await?)
            }
            Name::Orchestrator => {
                let settings = orchestrator::Settings::load(file)?;
                placed("orchestrator", &settings.database)?;
                let cluster = orchestrator::Cluster { address: advertised, connect: connector(caller.clone()) };
                let peers = orchestrator::Peers {
                    registry: registry()?,
                    communication: links("communication", &serve.communication)?,
                    cluster: Some(cluster),
                };
                Self::Orchestrator(orchestrator::start(settings, peers, clock, &stages.core, edge).await?)
            }
            Name::AgentRunner => {
                let peers = agent_runner::Peers { communication: communication()?, registry: registry()? };
                let settings = agent_runner::Settings::load(file)?;
                Self::AgentRunner(agent_runner::start(settings, peers, clock, &stages.edge).await?)
            }
            Name::Gateway => {
                let settings = gateway::Settings::load(file)?;
                placed("gateway", &settings.database)?;
                let listen = settings.listen;
                gateway::check_listen(listen, settings.is_protected())?;
                let mut credentials = crate::host::credentials(&settings, None, serve.keys()?)?;
                credentials.metrics = serve.own_metrics_secret()?.as_ref().map(gateway::MetricsToken::new);
                if credentials.secret.is_none() {
                    credentials.secret = serve.root_secret()?;
                }
                let of_agent_runners = serve.agent_runner != Replicas::default();
                let agent_runners = of_agent_runners.then(|| links("agent-runner", &serve.agent_runner)).transpose()?;
                let denials = [
                    Some(links("registry", &serve.registry)?),
                    Some(links("communication", &serve.communication)?),
                    Some(links("orchestrator", &serve.orchestrator)?),
                    agent_runners,
                ];
                let peers = gateway::Peers {
                    denials: denials.into_iter().flatten().collect(),
                    registry: registry()?,
                    communication: communication()?,
                    communications: links("communication", &serve.communication)?,
                    orchestrator: link("orchestrator", &serve.orchestrator)?,
                    telemetry: Some(telemetry),
                };
                Self::Gateway(gateway::start(settings, credentials, peers, clock, &stages.edge).await?, listen)
            }
        })
    }

    /// What it serves over gRPC.
    pub(super) fn routes(&self) -> Routes {
        match self {
            Self::Registry(service) => service.routes(),
            Self::Communication(service) => service.routes(),
            Self::Orchestrator(service) => service.routes(),
            Self::AgentRunner(service) => service.routes(),
            Self::Gateway(..) => Routes::default(),
        }
    }

    /// The names of that.
    pub(super) const fn names(&self) -> &'static [&'static str] {
        match self {
            Self::Registry(_) => &grpc::REGISTRY,
            Self::Communication(_) => &grpc::COMMUNICATION,
            Self::Orchestrator(_) => &grpc::ORCHESTRATOR,
            Self::AgentRunner(_) => &grpc::AGENT_RUNNER,
            Self::Gateway(..) => &[],
        }
    }

    /// How the things do that it needs, but for other services. The gateway says that itself.
    pub(super) fn checks(&self) -> Checks {
        match self {
            Self::Registry(service) => service.checks(),
            Self::Communication(service) => service.checks(),
            Self::Orchestrator(service) => service.checks(),
            Self::AgentRunner(service) => service.checks(),
            Self::Gateway(..) => Checks::new(),
        }
    }

    /// How long it still takes in work after a stop was asked for. Callers of gRPC go to another replica by themselves.
    pub(super) fn drain_delay(&self) -> Duration {
        match self {
            Self::Gateway(gateway, _) => gateway.drain_delay(),
            Self::Registry(_) | Self::Communication(_) | Self::Orchestrator(_) | Self::AgentRunner(_) => Duration::ZERO,
        }
    }

    /// Serves HTTP, where that is what it does; answers where.
    pub(super) async fn http(&self, stages: &Stages) -> anyhow::Result<Option<SocketAddr>> {
        let Self::Gateway(gateway, listen) = self else { return Ok(None) };
        let listener = bind(*listen, "gateway.listen").await?;
        let address = listener.local_addr()?;
        stages.edge.spawn("http", OnExit::StopService, gateway.serve(listener, stages.edge.shutdown().clone()));
        Ok(Some(address))
    }

    /// Closes its database, after all tasks have ended.
    pub(super) async fn close(self) {
        let closed = async {
            match self {
                Self::Registry(service) => service.close().await,
                Self::Communication(service) => service.close().await,
                Self::Orchestrator(service) => service.close().await,
                Self::AgentRunner(service) => service.close().await,
                Self::Gateway(gateway, _) => gateway.close().await,
            }
        };
        // What was committed is on disk already; a database that does not close in time loses nothing.
        if tokio::time::timeout(CLOSE, closed).await.is_err() {
            tracing::warn!("the database did not close in time");
        }
    }
}

/// How the services do that one calls, as they say themselves. Without them it goes on with what it has, so that one that is
/// away does not take all others with it.
pub(super) fn peers(name: Name, caller: &Caller, serve: &Settings) -> anyhow::Result<Checks> {
    let (registry, communication) = (("registry", &serve.registry), ("communication", &serve.communication));
    let needed: &[_] = match name {
        Name::Registry | Name::Gateway => &[],
        Name::Communication => &[registry],
        Name::Orchestrator | Name::AgentRunner => &[registry, communication],
    };
    needed.iter().try_fold(Checks::new(), |checks, (service, replicas)| {
        let link = caller.connect(service, replicas)?;
        Ok(checks.with(service, HealthStatus::Degraded, move || {
            let mut client = HealthClient::new(link.clone());
            async move {
                let answer = client.check(HealthCheckRequest::default()).await;
                match answer.map(|answer| answer.into_inner().status()) {
                    Ok(ServingStatus::Serving) => Ok(()),
                    Ok(status) => Err(Complaint::degraded(format!("it is {}", status.as_str_name()))),
                    Err(status) => Err(Complaint::failed(HealthStatus::Degraded, status.message())),
                }
            }
        }))
    })
}

/// A process of a cluster has no data directory: where its tables are must be said.
fn placed(service: &str, database: &::settings::Database) -> anyhow::Result<()> {
    ensure!(!database.is_unplaced(), "{service}.database.url (or url_file, or path) does not say where its tables are");
    Ok(())
}

/// The way to another orchestrator. An address that is none answers every call as unavailable.
fn connector(caller: Caller) -> orchestrator::Connect {
    Arc::new(move |address| {
        let link = address.parse::<Replicas>().map_err(anyhow::Error::from);
        let link = link.and_then(|replicas| Ok(caller.connect("orchestrator", &replicas)?));
        link.unwrap_or_else(|error| {
            tracing::error!(error = format!("{error:#}"), address, "a replica cannot be reached under its own address");
            Link::new(Routes::default().prepare())
        })
    })
}
