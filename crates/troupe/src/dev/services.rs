//! The five services, wired to each other in process.

use std::{path::Path, sync::Arc, time::Duration};

use access::{ActingAs, Authorize, Keys};
use anyhow::Context as _;
use contracts::{Link, Links};
use domain::{Clock, SystemClock};
use lifecycle::OnExit;
use rpc::{Denials, Door};
use serde::Serialize;
use settings::Settings as _;
use telemetry::Telemetry;
use tokio::net::TcpListener;
use tonic_health::server::HealthReporter;

use super::data_dir::DataDir;
use crate::host::{
    Stages,
    grpc::{self, Grpc},
};

/// What this process is as a service of a cluster: none.
const DEV: &str = "dev";
/// How long the databases may take to close.
const CLOSE: Duration = Duration::from_secs(10);

/// Refuses tables and variables that nobody reads.
pub(crate) fn check_names(file: Option<&Path>) -> Result<(), settings::Error> {
    let names = [
        registry::Settings::SERVICE,
        communication::Settings::SERVICE,
        orchestrator::Settings::SERVICE,
        agent_runner::Settings::SERVICE,
        gateway::Settings::SERVICE,
        crate::serve::Settings::SERVICE,
        telemetry::Settings::SERVICE,
    ];
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    settings::check_names(file, variables, &names)
}

/// The settings of all services; in a file each has its own table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Settings {
    pub(super) registry: registry::Settings,
    pub(super) communication: communication::Settings,
    pub(super) orchestrator: orchestrator::Settings,
    pub(super) agent_runner: agent_runner::Settings,
    pub(super) gateway: gateway::Settings,
    pub(super) telemetry: telemetry::Settings,
    pub(super) serve: crate::serve::Settings,
}

impl Settings {
    /// Reads them: defaults, then the file, then the environment.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, settings::Error> {
        check_names(file)?;
        Ok(Self {
            registry: registry::Settings::load(file)?,
            communication: communication::Settings::load(file)?,
            orchestrator: orchestrator::Settings::load(file)?,
            agent_runner: agent_runner::Settings::load(file)?,
            gateway: gateway::Settings::load(file)?,
            telemetry: telemetry::Settings::load(file)?,
            serve: crate::serve::Settings::load(file)?,
        })
    }

    /// What agents' tokens are signed with where gRPC asks for them: where the gateway asks for a credential, too. Made of the
    /// token where one is set, as in a cluster, otherwise of the gateway's own secret.
    fn keys(&self, clock: Arc<dyn Clock>) -> anyhow::Result<Option<Keys>> {
        if !self.gateway.is_protected() {
            return Ok(None);
        }
        let of_token = self.serve.root_secret()?;
        let root = of_token.map_or_else(|| gateway::secret(&self.gateway, None), |root| Ok(Some(root)))?;
        // Without keys nobody would be asked.
        let root = root.context("the gateway has no secret to sign agents' tokens with")?;
        Ok(Some(Keys::of(&root, clock)))
    }

    /// Who comes in there: agents with a token of theirs, and whoever has the token, where one is set. No process calls another here,
    /// so what processes say is made out to nobody.
    fn door(&self, keys: Keys) -> anyhow::Result<Door> {
        Ok(match self.serve.token()? {
            Some(token) => Door::new(token, keys, DEV),
            None => Door::without_token(keys, DEV),
        })
    }

    /// Puts the databases that have no place of their own into the data directory.
    pub(super) fn place(&mut self, data: &DataDir) {
        self.gateway.secret_file.get_or_insert_with(|| data.path().join("gateway-secret"));
        self.agent_runner.private_dir.get_or_insert_with(|| data.path().to_owned());
        let databases = [
            ("registry", &mut self.registry.database),
            ("communication", &mut self.communication.database),
            ("orchestrator", &mut self.orchestrator.database),
            ("gateway", &mut self.gateway.database),
        ];
        for (service, database) in databases {
            if database.is_unplaced() {
                database.path = data.database(service);
            }
        }
    }
}

/// The running services.
pub(super) struct Services {
    registry: registry::Service,
    communication: communication::Service,
    orchestrator: orchestrator::Service,
    agent_runner: agent_runner::Service,
    gateway: gateway::Gateway,
    health: HealthReporter,
}

impl Services {
    /// Starts the services in the order in which they need each other, then serves both ports.
    pub(super) async fn start(
        settings: &Settings,
        stages: &Stages,
        telemetry: Telemetry,
        http: TcpListener,
        grpc: TcpListener,
    ) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let keys = settings.keys(Arc::clone(&clock))?;
        let door = keys.clone().map(|keys| settings.door(keys)).transpose()?;
        let denials = Denials::new(Arc::clone(&clock));
        let Stages { edge, core, .. } = stages;
        let draining = || edge.shutdown().clone();
        let registry = registry::start(settings.registry.clone(), Arc::clone(&clock), core, draining())
            .await
            .context("cannot start the registry")?;
        // It needs no link to the orchestrator: results go back on the stream on which the orchestrator sends its tasks.
        let asks = |name: &'static str, link: Link| link.under(&Authorize).under(&ActingAs::service(name));
        let registries = asks("communication", registry.link());
        let peers = communication::Peers { registry: registries.clone(), registries: Links::one(registries) };
        let communication = communication::start(settings.communication.clone(), peers, Arc::clone(&clock), edge, core)
            .await
            .context("cannot start communication")?;
        let peers = orchestrator::Peers {
            registry: asks("orchestrator", registry.link()),
            communication: Links::one(asks("orchestrator", communication.link())),
            cluster: None,
        };
        let orchestrator =
            orchestrator::start(settings.orchestrator.clone(), peers, Arc::clone(&clock), core, draining())
                .await
                .context("cannot start the orchestrator")?;
        let peers = agent_runner::Peers {
            communication: asks("agent-runner", communication.link()),
            registry: asks("agent-runner", registry.link()),
        };
        let agent_runner = agent_runner::start(settings.agent_runner.clone(), peers, Arc::clone(&clock), edge)
            .await
            .context("cannot start the agent-runner")?;
        let peers = gateway::Peers {
            // For whoever asks the gateway.
            registry: registry.link().under(&Authorize),
            communication: communication.link().under(&Authorize),
            communications: Links::one(communication.link()),
            orchestrator: orchestrator.link().under(&Authorize),
            denials: vec![Links::one(Link::new(denials.server()))],
            telemetry: Some(telemetry),
        };
        let credentials = crate::host::credentials(&settings.gateway, None, keys.clone())?;
        let gateway = gateway::start(settings.gateway.clone(), credentials, peers, clock, edge)
            .await
            .context("cannot start the gateway")?;
        let services =
            Self { registry, communication, orchestrator, agent_runner, gateway, health: HealthReporter::new() };
        services.listen(stages, http, grpc, (door, denials))?;
        grpc::serving(&services.health, &grpc::ALL).await;
        Ok(services)
    }

    fn listen(
        &self,
        stages: &Stages,
        http: TcpListener,
        grpc: TcpListener,
        (door, denials): (Option<Door>, Denials),
    ) -> anyhow::Result<()> {
        let shutdown = stages.edge.shutdown();
        let routes = [
            self.registry.routes(),
            self.communication.routes(),
            self.orchestrator.routes(),
            self.agent_runner.routes(),
        ];
        let server = Grpc::new(routes, &self.health, &denials).context("the contracts cannot be described")?;
        let server = server.guarded(door);
        stages.edge.spawn("grpc", OnExit::StopService, server.serve(grpc, shutdown.clone()));
        stages.edge.spawn("http", OnExit::StopService, self.gateway.serve(http, shutdown.clone()));
        Ok(())
    }

    /// Tells those who ask that no new work is taken.
    pub(super) async fn not_serving(&self) {
        grpc::not_serving(&self.health, &grpc::ALL).await;
    }

    /// Closes the databases, after all tasks have ended.
    pub(super) async fn close(self) {
        let closed = async {
            self.gateway.close().await;
            self.agent_runner.close().await;
            self.orchestrator.close().await;
            self.communication.close().await;
            self.registry.close().await;
        };
        // What was committed is on disk already; a database that does not close in time loses nothing.
        if tokio::time::timeout(CLOSE, closed).await.is_err() {
            tracing::warn!("the databases did not close in time");
        }
    }
}
