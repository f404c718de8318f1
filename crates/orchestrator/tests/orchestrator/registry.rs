//! A registry that knows the agents that the test names.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use contracts::{Link, registry::v1 as proto};
use futures::Stream;
use proto::registry_service_server::{RegistryService, RegistryServiceServer};
use tonic::{Request, Response, Status};

use crate::communication::agent;

/// Answers every selection with its first agents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    live: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
}

impl Registry {
    pub(crate) fn link(&self) -> Link {
        Link::new(RegistryServiceServer::new(self.clone()))
    }

    /// So many agents are alive from now on.
    pub(crate) fn are_alive(&self, count: u32) {
        self.live.store(count, Ordering::SeqCst);
    }

    /// How often somebody asked.
    pub(crate) fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("the orchestrator does not call this"))
}

#[tonic::async_trait]
impl RegistryService for Registry {
    type WatchAgentsStream = Pin<Box<dyn Stream<Item = Result<proto::WatchAgentsResponse, Status>> + Send>>;

    async fn select_agents(&self, request: Request<proto::SelectAgentsRequest>) -> Answer<proto::SelectAgentsResponse> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let count = request.into_inner().count.min(self.live.load(Ordering::SeqCst));
        let chosen = |number: u32| proto::Agent {
            id: agent(number.into()).to_string(),
            name: format!("voter-{number}"),
            config: "{}".into(),
            ..proto::Agent::default()
        };
        Ok(Response::new(proto::SelectAgentsResponse { agents: (0..count).map(chosen).collect() }))
    }

    async fn register_agent(&self, _: Request<proto::RegisterAgentRequest>) -> Answer<proto::RegisterAgentResponse> {
        unused()
    }

    async fn update_agent(&self, _: Request<proto::UpdateAgentRequest>) -> Answer<proto::UpdateAgentResponse> {
        unused()
    }

    async fn get_agent(&self, _: Request<proto::GetAgentRequest>) -> Answer<proto::GetAgentResponse> {
        unused()
    }

    async fn list_agents(&self, _: Request<proto::ListAgentsRequest>) -> Answer<proto::ListAgentsResponse> {
        unused()
    }

    async fn delete_agent(&self, _: Request<proto::DeleteAgentRequest>) -> Answer<proto::DeleteAgentResponse> {
        unused()
    }

    async fn heartbeat(&self, _: Request<proto::HeartbeatRequest>) -> Answer<proto::HeartbeatResponse> {
        unused()
    }

    async fn watch_agents(&self, _: Request<proto::WatchAgentsRequest>) -> Answer<Self::WatchAgentsStream> {
        unused()
    }
}
