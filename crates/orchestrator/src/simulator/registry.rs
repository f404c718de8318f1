//! A registry that knows the voters.

use std::{pin::Pin, sync::Arc};

use contracts::{Link, registry::v1 as proto};
use futures::Stream;
use proto::registry_service_server::{RegistryService, RegistryServiceServer};
use tonic::{Request, Response, Status};

use super::{agents, ground::Ground};

/// Finds all that are wanted, or, in trouble, nobody.
#[derive(Clone)]
pub(super) struct Registry(Arc<Ground>);

impl Registry {
    pub(super) fn link(ground: &Arc<Ground>) -> Link {
        Link::new(RegistryServiceServer::new(Self(Arc::clone(ground))))
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
        let trouble = self.0.trouble();
        if self.0.chance(trouble.late) {
            tokio::time::sleep(self.0.while_of(1..100)).await;
        }
        if self.0.chance(trouble.away) {
            return Err(Status::unavailable("the registry is away"));
        }
        let chosen = |number: u32| proto::Agent {
            id: agents::voter(number.into()).to_string(),
            name: format!("voter-{number}"),
            config: "{}".into(),
            ..proto::Agent::default()
        };
        let count = request.into_inner().count;
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
