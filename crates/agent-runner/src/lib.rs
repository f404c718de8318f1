#![doc = include_str!("../README.md")]

mod agents;
mod api;
mod app;
mod error;
mod expression;
mod files;
mod settings;
mod template;
mod workers;

use std::sync::Arc;

use contracts::{Link, agent_runner::v1::agent_runner_service_server::AgentRunnerServiceServer};
use domain::Clock;
use lifecycle::Tasks;
use tonic::service::Routes;

use self::{agents::Workshop, api::Api, app::Hosts};
pub use self::{error::StartError, settings::Settings};

/// Links to the services that a runner calls.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Where its agents get their work.
    pub communication: Link,
    /// Where it learns of agents to host.
    pub registry: Link,
}

/// A running agent-runner.
#[derive(Clone, Debug)]
pub struct Service {
    server: AgentRunnerServiceServer<Api>,
}

/// Starts hosting. Returns at once: the registry and communication may start later.
///
/// The clock is part of every service's shape; a runner needs none of its own.
#[expect(clippy::unused_async, reason = "every service starts like this")]
pub async fn start(
    settings: Settings,
    peers: Peers,
    _clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Service, StartError> {
    let workshop = Arc::new(Workshop::new(&settings)?);
    let hosts = Arc::new(Hosts::new(workshop, peers.communication, tasks.clone()));
    workers::watch::spawn(Arc::clone(&hosts), peers.registry.clone(), tasks);
    if settings.default_agents {
        workers::defaults::spawn(peers.registry.clone(), tasks);
    }
    let server = AgentRunnerServiceServer::new(Api::new(hosts, peers.registry))
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    Ok(Service { server })
}

impl Service {
    /// Its gRPC service.
    pub fn routes(&self) -> Routes {
        Routes::new(self.server.clone())
    }

    /// The same, called in process.
    pub fn link(&self) -> Link {
        Link::local(self.server.clone())
    }

    /// Nothing is left open once its tasks have ended.
    #[expect(clippy::unused_async, reason = "every service closes like this")]
    pub async fn close(self) {}
}
