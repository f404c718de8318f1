//! The gRPC service: decoding, calling the hosts, encoding.

mod load_agent;

use std::{sync::Arc, time::Duration};

use contracts::{
    Link,
    agent_runner::v1::{
        HostedAgent, ListHostedAgentsRequest, ListHostedAgentsResponse, LoadAgentRequest, LoadAgentResponse,
        UnloadAgentRequest, UnloadAgentResponse, agent_runner_service_server::AgentRunnerService,
    },
};
use domain::Namespace;
use errors::Error;
use tonic::{Request, Response, Status};

use crate::{
    agents::Kind,
    app::{Hosts, Listing},
};

/// For a call to the registry.
const DEADLINE: Duration = Duration::from_secs(10);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    hosts: Arc<Hosts>,
    registry: Link,
}

impl Api {
    pub(crate) const fn new(hosts: Arc<Hosts>, registry: Link) -> Self {
        Self { hosts, registry }
    }
}

/// Whoever it is asked for has to reach there.
fn namespace(field: &str) -> Result<Namespace, Error> {
    let namespace = Namespace::from_field(field);
    let namespace = namespace.map_err(|error| Error::invalid_field("namespace", "invalid_name", error))?;
    access::fence(&namespace)?;
    Ok(namespace)
}

#[tonic::async_trait]
impl AgentRunnerService for Api {
    async fn load_agent(&self, request: Request<LoadAgentRequest>) -> Result<Response<LoadAgentResponse>, Status> {
        let agent_id = load_agent::load(self, request.into_inner()).await?;
        Ok(Response::new(LoadAgentResponse { agent_id }))
    }

    async fn unload_agent(
        &self,
        request: Request<UnloadAgentRequest>,
    ) -> Result<Response<UnloadAgentResponse>, Status> {
        let request = request.into_inner();
        let key = (namespace(&request.namespace)?.to_string(), request.agent_id);
        Ok(Response::new(UnloadAgentResponse { unloaded: self.hosts.unload(key) }))
    }

    async fn list_hosted_agents(
        &self,
        _: Request<ListHostedAgentsRequest>,
    ) -> Result<Response<ListHostedAgentsResponse>, Status> {
        let agents = self.hosts.list().into_iter().map(encode).collect();
        let kinds = Kind::ALL.map(|kind| kind.as_str().to_owned()).to_vec();
        Ok(Response::new(ListHostedAgentsResponse { agents, kinds }))
    }
}

fn encode(listing: Listing) -> HostedAgent {
    let (namespace, agent_id) = listing.key;
    HostedAgent {
        namespace,
        agent_id,
        agent_type: listing.kind.as_str().to_owned(),
        name: listing.name,
        in_flight: u32::try_from(listing.in_flight).unwrap_or(u32::MAX),
        connected: listing.connected,
    }
}
