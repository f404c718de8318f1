//! The gRPC service: decoding, calling the registry, encoding.

mod watch_agents;
mod wire;

use std::sync::Arc;

use contracts::registry::v1::{
    DeleteAgentRequest, DeleteAgentResponse, GetAgentRequest, GetAgentResponse, HeartbeatRequest, HeartbeatResponse,
    ListAgentsRequest, ListAgentsResponse, RegisterAgentRequest, RegisterAgentResponse, SelectAgentsRequest,
    SelectAgentsResponse, SelectionStrategy, UpdateAgentRequest, UpdateAgentResponse, WatchAgentsRequest,
    registry_service_server::RegistryService,
};
use domain::AgentId;
use errors::Error;
use lifecycle::Shutdown;
use store::{PageSize, PageToken};
use tonic::{Request, Response, Status};

use crate::app::{Change, Registration, Registry, Snapshot, Strategy};

/// Bytes of the configurations in one page.
const MOST_BYTES: usize = contracts::MAX_MESSAGE_BYTES / 4;
/// Agents that one selection picks at most: the voters of the largest decision.
const MAX_SELECTED: u32 = 1_000;

/// The service.
#[derive(Clone)]
pub(crate) struct Api {
    registry: Arc<Registry>,
    edge: Shutdown,
}

impl Api {
    pub(crate) const fn new(registry: Arc<Registry>, edge: Shutdown) -> Self {
        Self { registry, edge }
    }
}

/// How many of these fit an answer, as their configurations may be large: at least one.
fn fitting(agents: &[Snapshot]) -> usize {
    let mut bytes = 0;
    let fitting = agents.iter().take_while(|snapshot| {
        bytes += snapshot.agent.config.as_str().len();
        bytes <= MOST_BYTES
    });
    fitting.count().max(1)
}

#[tonic::async_trait]
impl RegistryService for Api {
    async fn register_agent(
        &self,
        request: Request<RegisterAgentRequest>,
    ) -> Result<Response<RegisterAgentResponse>, Status> {
        let request = request.into_inner();
        let registration = Registration {
            namespace: wire::namespace(&request.namespace)?,
            id: wire::non_empty(request.agent_id).map(|id| wire::agent_id(&id)).transpose()?,
            agent_type: request.agent_type,
            name: request.name,
            capabilities: request.capabilities,
            config: wire::non_empty(request.config).map(Into::into),
            attach: request.attach,
        };
        let (snapshot, created) = self.registry.register(registration).await?;
        Ok(Response::new(RegisterAgentResponse { agent: Some(wire::agent(snapshot)), created }))
    }

    async fn update_agent(
        &self,
        request: Request<UpdateAgentRequest>,
    ) -> Result<Response<UpdateAgentResponse>, Status> {
        let request = request.into_inner();
        let change = Change {
            namespace: wire::namespace(&request.namespace)?,
            id: wire::agent_id(&request.agent_id)?,
            name: request.name,
            capabilities: request.capabilities.map(|list| list.values),
            config: request.config.map(Into::into),
            expected_revision: request.expected_revision,
        };
        let snapshot = self.registry.update(change).await?;
        Ok(Response::new(UpdateAgentResponse { agent: Some(wire::agent(snapshot)) }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<GetAgentResponse>, Status> {
        let request = request.into_inner();
        let (namespace, id) = (wire::namespace(&request.namespace)?, wire::agent_id(&request.agent_id)?);
        let snapshot = self.registry.get(&namespace, id).await?;
        Ok(Response::new(GetAgentResponse { agent: Some(wire::agent(snapshot)) }))
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let namespace = wire::namespace(&request.namespace)?;
        let liveness = wire::liveness(request.status)?;
        let after = PageToken::parse::<AgentId>(&request.page_token)?;
        let size = PageSize::from_field(request.page_size);
        let fits = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let rows = self.registry.list(&namespace, after, request.newest_first, size.get() + 1, |snapshot| {
            let agent = &snapshot.agent;
            let can = |capability: &String| agent.capabilities.contains(capability);
            fits(&request.agent_type, &agent.agent_type)
                && fits(&request.name, &agent.name)
                && (request.capability.is_empty() || can(&request.capability))
                && liveness.is_none_or(|liveness| liveness == snapshot.liveness)
        });
        let (mut rows, mut next) = size.cut(rows, |last| PageToken::after(last.agent.id));
        let fitting = fitting(&rows);
        if fitting < rows.len() {
            rows.truncate(fitting);
            next = rows.last().map(|last| PageToken::after(last.agent.id)).unwrap_or_default();
        }
        let agents = rows.into_iter().map(wire::agent).collect();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token: next.into_field() }))
    }

    async fn delete_agent(
        &self,
        request: Request<DeleteAgentRequest>,
    ) -> Result<Response<DeleteAgentResponse>, Status> {
        let request = request.into_inner();
        let (namespace, id) = (wire::namespace(&request.namespace)?, wire::agent_id(&request.agent_id)?);
        let expected = Some(request.expected_revision).filter(|revision| *revision != 0);
        let deleted = self.registry.delete(&namespace, id, expected).await?;
        Ok(Response::new(DeleteAgentResponse { deleted }))
    }

    async fn select_agents(
        &self,
        request: Request<SelectAgentsRequest>,
    ) -> Result<Response<SelectAgentsResponse>, Status> {
        let request = request.into_inner();
        let namespace = wire::namespace(&request.namespace)?;
        let strategy = match request.strategy() {
            SelectionStrategy::Unspecified | SelectionStrategy::LeastLoaded => Strategy::LeastLoaded,
            SelectionStrategy::RoundRobin => Strategy::RoundRobin,
            SelectionStrategy::Weighted => Strategy::Weighted,
            SelectionStrategy::Sticky => Strategy::Sticky(request.key),
        };
        let exclude: Result<Vec<_>, Error> = request.exclude_agent_ids.iter().map(|id| wire::agent_id(id)).collect();
        let count = request.count.clamp(1, MAX_SELECTED) as usize;
        let target = wire::target(request.target)?;
        let mut chosen = self.registry.select(&namespace, &target, count, &strategy, &exclude?);
        chosen.truncate(fitting(&chosen));
        Ok(Response::new(SelectAgentsResponse { agents: chosen.into_iter().map(wire::agent).collect() }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let reports: Result<Vec<_>, Error> = request.into_inner().reports.into_iter().map(wire::report).collect();
        let unknown = self.registry.hear(reports?).await;
        let unknown_agent_ids = unknown.iter().map(ToString::to_string).collect();
        Ok(Response::new(HeartbeatResponse { unknown_agent_ids }))
    }

    type WatchAgentsStream = watch_agents::Changes;

    async fn watch_agents(
        &self,
        request: Request<WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        watch_agents::watch(&self.registry, self.edge.clone(), request.get_ref()).map(Response::new)
    }
}
