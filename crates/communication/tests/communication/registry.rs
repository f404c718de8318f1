//! A registry in memory, served over the real contract.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use contracts::{
    Link,
    registry::v1::{
        Agent, AgentDeleted, DeleteAgentRequest, DeleteAgentResponse, GetAgentRequest, GetAgentResponse,
        HeartbeatRequest, HeartbeatResponse, ListAgentsRequest, ListAgentsResponse, RegisterAgentRequest,
        RegisterAgentResponse, SelectAgentsRequest, SelectAgentsResponse, Synced, UpdateAgentRequest,
        UpdateAgentResponse, WatchAgentsRequest, WatchAgentsResponse,
        registry_service_server::{RegistryService, RegistryServiceServer},
        select_agents_request::Target,
        watch_agents_response::Change,
    },
};
use domain::{AgentId, SystemClock};
use errors::Error;
use tokio::sync::broadcast;
use tokio_stream::{StreamExt as _, wrappers::BroadcastStream};
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(crate) struct FakeRegistry(Arc<State>);

struct State {
    agents: Mutex<BTreeMap<String, Agent>>,
    /// Agents with a session that was reported and not closed.
    live: Mutex<HashSet<String>>,
    changes: broadcast::Sender<Change>,
    /// Does it refuse every call?
    is_away: AtomicBool,
    /// Does it take reports and never answer?
    is_silent: AtomicBool,
}

impl FakeRegistry {
    pub(crate) fn new() -> Self {
        let (changes, _) = broadcast::channel(64);
        let (is_away, is_silent) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(State { agents: Mutex::default(), live: Mutex::default(), changes, is_away, is_silent }))
    }

    /// Another replica, which knows the same agents.
    pub(crate) fn replica(&self) -> Self {
        let replica = Self::new();
        replica.0.agents.lock().unwrap().clone_from(&self.0.agents.lock().unwrap());
        replica
    }

    pub(crate) fn set_away(&self, is_away: bool) {
        self.0.is_away.store(is_away, Ordering::SeqCst);
    }

    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.0.is_silent.store(is_silent, Ordering::SeqCst);
    }

    fn answer(&self) -> Result<(), Status> {
        if self.0.is_away.load(Ordering::SeqCst) { Err(Status::unavailable("connection refused")) } else { Ok(()) }
    }

    pub(crate) fn link(&self) -> Link {
        Link::new(RegistryServiceServer::new(self.clone()))
    }

    /// Registers an agent; answers with its id.
    pub(crate) fn add(&self, agent_type: &str, capabilities: &[&str]) -> String {
        let id = AgentId::generate(&SystemClock).to_string();
        let agent = Agent {
            id: id.clone(),
            namespace: "default".to_owned(),
            agent_type: agent_type.to_owned(),
            name: id.clone(),
            capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
            config: b"{\"model\":\"small\"}".to_vec().into(),
            ..Agent::default()
        };
        self.0.agents.lock().unwrap().insert(id.clone(), agent);
        id
    }

    /// Removes an agent; watchers hear of it.
    pub(crate) fn remove(&self, id: &str) {
        self.0.agents.lock().unwrap().remove(id);
        let deleted = AgentDeleted { namespace: "default".to_owned(), agent_id: id.to_owned() };
        // Without watchers the next heartbeat tells.
        let _ = self.0.changes.send(Change::Deleted(deleted));
    }

    /// Removes an agent while nobody listens.
    pub(crate) fn remove_unheard(&self, id: &str) {
        self.0.agents.lock().unwrap().remove(id);
    }

    pub(crate) fn is_live(&self, id: &str) -> bool {
        self.0.live.lock().unwrap().contains(id)
    }
}

#[tonic::async_trait]
impl RegistryService for FakeRegistry {
    async fn register_agent(
        &self,
        request: Request<RegisterAgentRequest>,
    ) -> Result<Response<RegisterAgentResponse>, Status> {
        self.answer()?;
        let request = request.into_inner();
        let mut agents = self.0.agents.lock().unwrap();
        let found = agents.values().find(|agent| agent.name == request.name && request.attach).cloned();
        let created = found.is_none();
        let agent = found.unwrap_or_else(|| Agent {
            id: AgentId::generate(&SystemClock).to_string(),
            namespace: request.namespace,
            agent_type: request.agent_type,
            name: request.name,
            capabilities: request.capabilities,
            config: request.config,
            ..Agent::default()
        });
        agents.insert(agent.id.clone(), agent.clone());
        Ok(Response::new(RegisterAgentResponse { agent: Some(agent), created }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<GetAgentResponse>, Status> {
        self.answer()?;
        let request = request.into_inner();
        let agent = self.0.agents.lock().unwrap().get(&request.agent_id).cloned();
        let agent = agent.filter(|agent| agent.namespace == request.namespace);
        let agent = agent.ok_or_else(|| Error::not_found("agent_not_found", "there is no such agent"))?;
        Ok(Response::new(GetAgentResponse { agent: Some(agent) }))
    }

    async fn select_agents(
        &self,
        request: Request<SelectAgentsRequest>,
    ) -> Result<Response<SelectAgentsResponse>, Status> {
        self.answer()?;
        let request = request.into_inner();
        let fits = |agent: &&Agent| match &request.target {
            Some(Target::AgentType(name)) => agent.agent_type == *name,
            Some(Target::Capability(name)) => agent.capabilities.contains(name),
            None => false,
        };
        let live = self.0.live.lock().unwrap().clone();
        let agents = self.0.agents.lock().unwrap();
        let agents = agents.values().filter(|agent| live.contains(&agent.id)).filter(fits).take(1).cloned().collect();
        Ok(Response::new(SelectAgentsResponse { agents }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        self.answer()?;
        if self.0.is_silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let agents = self.0.agents.lock().unwrap();
        let mut live = self.0.live.lock().unwrap();
        let mut unknown_agent_ids = Vec::new();
        for report in request.into_inner().reports {
            if report.closed {
                live.remove(&report.agent_id);
            } else if agents.contains_key(&report.agent_id) {
                live.insert(report.agent_id);
            } else {
                unknown_agent_ids.push(report.agent_id);
            }
        }
        Ok(Response::new(HeartbeatResponse { unknown_agent_ids }))
    }

    type WatchAgentsStream = std::pin::Pin<Box<dyn futures::Stream<Item = Result<WatchAgentsResponse, Status>> + Send>>;

    async fn watch_agents(&self, _: Request<WatchAgentsRequest>) -> Result<Response<Self::WatchAgentsStream>, Status> {
        self.answer()?;
        let changes = BroadcastStream::new(self.0.changes.subscribe());
        let agents: Vec<_> = self.0.agents.lock().unwrap().values().cloned().map(Change::Upserted).collect();
        let listing = tokio_stream::iter(agents.into_iter().chain([Change::Synced(Synced {})]));
        let respond = |change| Ok(WatchAgentsResponse { change });
        Ok(Response::new(Box::pin(listing.map(Some).chain(changes.map(Result::ok)).map(respond))))
    }

    async fn update_agent(&self, _: Request<UpdateAgentRequest>) -> Result<Response<UpdateAgentResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn delete_agent(&self, _: Request<DeleteAgentRequest>) -> Result<Response<DeleteAgentResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}
