//! The service that runs in this process.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ::settings::Settings as _;
use anyhow::{Context as _, ensure};
use contracts::{Link, Links};
use domain::{Clock, SystemClock};
use lifecycle::OnExit;
use rpc::{Caller, Replicas};
use telemetry::Telemetry;
use tonic::service::Routes;

use super::{Name, Settings};
use crate::host::{Stages, bind};

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
        let link = |service: &'static str, replicas: &Replicas| -> anyhow::Result<Link> {
            caller.connect(service, replicas).with_context(|| format!("serve.{service} does not say where to find it"))
        };
        let links = |service: &'static str, replicas: &Replicas| -> anyhow::Result<Links> {
            caller.connect_each(service, replicas).with_context(|| format!("serve.{service} does not say where to find it"))
        };
        let registry = || link("registry", &serve.registry);
        let communication = || link("communication", &serve.communication);
        Ok(match name {
            Name::Registry => {
                let settings = registry::Settings::load(file)?;
                placed("registry", &settings.database)?;
                Self::Registry(registry::start(settings, clock, &stages.core).await?)
            }
            Name::Communication => {
                let settings = communication::Settings::load(file)?;
                placed("communication", &settings.database)?;
                let peers =
                    communication::Peers { registry: registry()?, registries: links("registry", &serve.registry)? };
                Self::Communication(communication::start(settings, peers, clock, &stages.edge).await?)
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
                Self::Orchestrator(orchestrator::start(settings, peers, clock, &stages.core).await?)
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
                let key = crate::host::api_key(&settings)?;
                gateway::check_listen(listen, key.is_some())?;
                let peers = gateway::Peers {
                    registry: registry()?,
                    communication: communication()?,
                    orchestrator: link("orchestrator", &serve.orchestrator)?,
                    telemetry: Some(telemetry),
                };
                Self::Gateway(gateway::start(settings, key, peers, clock, &stages.edge).await?, listen)
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
