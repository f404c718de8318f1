//! The registry.

use std::pin::Pin;

use contracts::{registry::v1 as registry, registry::v1::registry_service_server::RegistryService};
use errors::Error;
use futures::Stream;
use tonic::{Request, Response, Status, async_trait};

use super::{Backend, at, not_found, page, unchanged};

impl Backend {
    /// Registers an agent of this id.
    pub(crate) fn has_agent(&self, namespace: &str, id: &str) {
        let (id, namespace) = (id.to_owned(), namespace.to_owned());
        self.state().agents.insert(id.clone(), registry::Agent { id, namespace, ..registry::Agent::default() });
    }
}

#[async_trait]
impl RegistryService for Backend {
    type WatchAgentsStream = Pin<Box<dyn Stream<Item = Result<registry::WatchAgentsResponse, Status>> + Send>>;

    async fn register_agent(
        &self,
        request: Request<registry::RegisterAgentRequest>,
    ) -> Result<Response<registry::RegisterAgentResponse>, Status> {
        let request = self.called("register_agent", request)?;
        let mut created = false;
        let agent = {
            let mut state = self.state();
            let taken = state.agents.values().any(|agent| agent.name == request.name && agent.id != request.agent_id);
            if taken {
                return Err(Error::new(errors::Code::Exists, "agent_name_taken", "the name is taken").into());
            }
            let agent = state.agents.entry(request.agent_id.clone()).or_insert_with(|| {
                created = true;
                registry::Agent {
                    id: request.agent_id,
                    namespace: request.namespace,
                    agent_type: request.agent_type,
                    name: request.name,
                    capabilities: request.capabilities,
                    config: request.config,
                    status: registry::AgentStatus::Offline.into(),
                    created_at: at(1),
                    updated_at: at(1),
                    revision: 1,
                    ..registry::Agent::default()
                }
            });
            agent.clone()
        };
        self.answered(registry::RegisterAgentResponse { agent: Some(agent), created })
    }

    async fn update_agent(
        &self,
        request: Request<registry::UpdateAgentRequest>,
    ) -> Result<Response<registry::UpdateAgentResponse>, Status> {
        let request = self.called("update_agent", request)?;
        let mut state = self.state();
        let agent = state.agents.get_mut(&request.agent_id).ok_or_else(|| not_found("agent_not_found"))?;
        unchanged("agent_changed", request.expected_revision, agent.revision)?;
        agent.revision += 1;
        if let Some(name) = request.name {
            agent.name = name;
        }
        if let Some(capabilities) = request.capabilities {
            agent.capabilities = capabilities.values;
        }
        Ok(Response::new(registry::UpdateAgentResponse { agent: Some(agent.clone()) }))
    }

    async fn get_agent(
        &self,
        request: Request<registry::GetAgentRequest>,
    ) -> Result<Response<registry::GetAgentResponse>, Status> {
        let request = self.called("get_agent", request)?;
        let agent = self.state().agents.get(&request.agent_id).cloned();
        let agent = agent.filter(|agent| agent.namespace == request.namespace);
        let agent = agent.ok_or_else(|| not_found("agent_not_found"))?;
        Ok(Response::new(registry::GetAgentResponse { agent: Some(agent) }))
    }

    async fn list_agents(
        &self,
        request: Request<registry::ListAgentsRequest>,
    ) -> Result<Response<registry::ListAgentsResponse>, Status> {
        let request = self.called("list_agents", request)?;
        let (agents, next_page_token) =
            page(&self.state().agents, &request.page_token, request.page_size, request.newest_first)?;
        Ok(Response::new(registry::ListAgentsResponse { agents, next_page_token }))
    }

    async fn delete_agent(
        &self,
        request: Request<registry::DeleteAgentRequest>,
    ) -> Result<Response<registry::DeleteAgentResponse>, Status> {
        let request = self.called("delete_agent", request)?;
        let mut state = self.state();
        if let Some(agent) = state.agents.get(&request.agent_id) {
            unchanged("agent_changed", request.expected_revision, agent.revision)?;
        }
        let deleted = state.agents.remove(&request.agent_id).is_some();
        Ok(Response::new(registry::DeleteAgentResponse { deleted }))
    }

    async fn select_agents(
        &self,
        request: Request<registry::SelectAgentsRequest>,
    ) -> Result<Response<registry::SelectAgentsResponse>, Status> {
        use registry::select_agents_request::Target;
        let request = self.called("select_agents", request)?;
        let is_one = |agent: &registry::Agent| match &request.target {
            Some(Target::AgentType(wanted)) => agent.agent_type == *wanted,
            Some(Target::Capability(wanted)) => agent.capabilities.contains(wanted),
            None => false,
        };
        let mut agents: Vec<_> = self.state().agents.values().filter(|agent| is_one(agent)).cloned().collect();
        agents.retain(|agent| !request.exclude_agent_ids.contains(&agent.id));
        agents.truncate(request.count.max(1) as usize);
        self.state().selections.push(request);
        self.answered(registry::SelectAgentsResponse { agents })
    }

    async fn heartbeat(
        &self,
        _: Request<registry::HeartbeatRequest>,
    ) -> Result<Response<registry::HeartbeatResponse>, Status> {
        Err(Status::unimplemented("not for the gateway"))
    }

    async fn watch_agents(
        &self,
        _: Request<registry::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        Err(Status::unimplemented("not for the gateway"))
    }
}
