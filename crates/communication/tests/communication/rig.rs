//! Communication over its link, with a registry that knows whoever a test names.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use communication::{Peers, Service, Settings};
use contracts::{
    Link,
    communication::v1::{
        self as comm, AgentEvent, ExchangeTasksRequest, Hello, OpenSessionRequest, OrchestratorEvent, ServerEvent,
        TaskUpdate, agent_event, agent_session_service_client::AgentSessionServiceClient,
        message_service_client::MessageServiceClient, orchestrator_event, server_event,
        task_service_client::TaskServiceClient, task_update::Update,
    },
    registry::v1::{
        self as reg, Agent,
        registry_service_server::{RegistryService, RegistryServiceServer},
    },
};
use domain::{AgentId, SystemClock};
use lifecycle::{Shutdown, Tasks};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{Empty, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(20);

/// A registry in memory; an agent lives while a session of it was reported.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Agents>>);

/// Every agent, and the ids of those that live.
type Agents = (BTreeMap<String, Agent>, HashSet<String>);

impl Registry {
    pub(crate) fn add(&self, agent_type: &str, capability: &str) -> String {
        let id = AgentId::generate(&SystemClock).to_string();
        let agent = Agent {
            id: id.clone(),
            namespace: "default".to_owned(),
            agent_type: agent_type.to_owned(),
            name: id.clone(),
            capabilities: vec![capability.to_owned()],
            config: "{}".into(),
            ..Agent::default()
        };
        self.0.lock().unwrap().0.insert(id.clone(), agent);
        id
    }

    pub(crate) fn delete(&self, id: &str) {
        self.0.lock().unwrap().0.remove(id);
    }

    pub(crate) fn is_live(&self, id: &str) -> bool {
        self.0.lock().unwrap().1.contains(id)
    }
}

fn not_found(id: &str) -> Status {
    errors::Error::not_found("agent_not_found", format!("no agent {id}")).into()
}

#[tonic::async_trait]
impl RegistryService for Registry {
    type WatchAgentsStream = Empty<Result<reg::WatchAgentsResponse, Status>>;

    async fn register_agent(
        &self,
        request: Request<reg::RegisterAgentRequest>,
    ) -> Result<Response<reg::RegisterAgentResponse>, Status> {
        let id = self.add(&request.get_ref().agent_type, "none");
        let agent = self.0.lock().unwrap().0.get(&id).cloned();
        Ok(Response::new(reg::RegisterAgentResponse { agent, created: true }))
    }

    async fn get_agent(
        &self,
        request: Request<reg::GetAgentRequest>,
    ) -> Result<Response<reg::GetAgentResponse>, Status> {
        let id = request.into_inner().agent_id;
        let agent = self.0.lock().unwrap().0.get(&id).cloned().ok_or_else(|| not_found(&id))?;
        Ok(Response::new(reg::GetAgentResponse { agent: Some(agent) }))
    }

    async fn select_agents(
        &self,
        request: Request<reg::SelectAgentsRequest>,
    ) -> Result<Response<reg::SelectAgentsResponse>, Status> {
        let target = request.into_inner().target;
        let state = self.0.lock().unwrap();
        let fits = |agent: &&Agent| match &target {
            Some(reg::select_agents_request::Target::AgentType(name)) => agent.agent_type == *name,
            Some(reg::select_agents_request::Target::Capability(name)) => agent.capabilities.contains(name),
            None => false,
        };
        let live = state.0.values().filter(|agent| state.1.contains(&agent.id));
        Ok(Response::new(reg::SelectAgentsResponse { agents: live.filter(fits).take(1).cloned().collect() }))
    }

    async fn heartbeat(
        &self,
        request: Request<reg::HeartbeatRequest>,
    ) -> Result<Response<reg::HeartbeatResponse>, Status> {
        let (mut state, mut unknown) = (self.0.lock().unwrap(), Vec::new());
        for report in request.into_inner().reports {
            if !state.0.contains_key(&report.agent_id) {
                unknown.push(report.agent_id);
            } else if report.closed {
                state.1.remove(&report.agent_id);
            } else {
                state.1.insert(report.agent_id);
            }
        }
        Ok(Response::new(reg::HeartbeatResponse { unknown_agent_ids: unknown }))
    }

    async fn update_agent(
        &self,
        _: Request<reg::UpdateAgentRequest>,
    ) -> Result<Response<reg::UpdateAgentResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn list_agents(
        &self,
        _: Request<reg::ListAgentsRequest>,
    ) -> Result<Response<reg::ListAgentsResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn delete_agent(
        &self,
        _: Request<reg::DeleteAgentRequest>,
    ) -> Result<Response<reg::DeleteAgentResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn watch_agents(
        &self,
        _: Request<reg::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// Communication, running.
pub(crate) struct Rig {
    pub(crate) registry: Registry,
    pub(crate) link: Link,
    folder: Arc<TempDir>,
    service: Service,
    tasks: Tasks,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), Registry::default(), |_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), Registry::default(), change).await
    }

    async fn over(folder: Arc<TempDir>, registry: Registry, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        settings.database.path = folder.path().join("communication.db");
        change(&mut settings);
        let tasks = Tasks::new(Shutdown::new());
        let peers = Peers { registry: Link::new(RegistryServiceServer::new(registry.clone())) };
        let service = communication::start(settings, peers, Arc::new(SystemClock), &tasks).await.unwrap();
        Self { registry, link: service.link(), folder, service, tasks }
    }

    /// Stops it in good order.
    pub(crate) async fn stop(self) -> (Arc<TempDir>, Registry) {
        self.tasks.shutdown().drain();
        self.tasks.join(PATIENCE).await.unwrap();
        self.service.close().await;
        (self.folder, self.registry)
    }

    pub(crate) async fn restart(self) -> Self {
        let (folder, registry) = self.stop().await;
        Self::over(folder, registry, |_| {}).await
    }

    pub(crate) fn messages(&self) -> MessageServiceClient<Link> {
        MessageServiceClient::new(self.link.clone())
    }

    /// Sends a message to an agent: its id.
    pub(crate) async fn send(&self, to: &str, payload: &str) -> String {
        let message = message(to, payload);
        let request = comm::SendMessageRequest { message: Some(message) };
        self.messages().send_message(request).await.unwrap().into_inner().message_id
    }

    /// Waits until a message has this status.
    pub(crate) async fn reaches(&self, id: &str, status: comm::MessageStatus) -> comm::MessageRecord {
        let reached = async {
            loop {
                let request = comm::GetMessageRequest { namespace: String::new(), message_id: id.to_owned() };
                let record = self.messages().get_message(request).await.unwrap().into_inner().record.unwrap();
                if record.status() == status {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the message's status in time")
    }

    pub(crate) async fn agent(&self, id: &str, credits: u32) -> AgentSide {
        let hello = Hello { agent_id: id.to_owned(), max_in_flight: credits, ..Hello::default() };
        self.hello(hello).await
    }

    pub(crate) async fn hello(&self, hello: Hello) -> AgentSide {
        let mut agent = self.raw(agent_event::Event::Hello(hello)).await;
        match agent.next().await {
            server_event::Event::Welcome(welcome) => agent.welcome = welcome,
            other => panic!("no welcome: {other:?}"),
        }
        agent
    }

    pub(crate) async fn raw(&self, first: agent_event::Event) -> AgentSide {
        let (up, requests) = mpsc::unbounded_channel();
        up.send(OpenSessionRequest { events: vec![AgentEvent { event: Some(first) }] }).unwrap();
        let mut client = AgentSessionServiceClient::new(self.link.clone());
        let down = client.open_session(UnboundedReceiverStream::new(requests)).await.unwrap().into_inner();
        AgentSide { up, down, waiting: Vec::new(), welcome: comm::Welcome::default() }
    }

    pub(crate) async fn orchestrator(&self, replica: &str) -> OrchestratorSide {
        let (up, requests) = mpsc::unbounded_channel();
        let mut client = TaskServiceClient::new(self.link.clone());
        let attach = comm::Attach { replica_id: replica.to_owned() };
        let first = OrchestratorEvent { event: Some(orchestrator_event::Event::Attach(attach)) };
        up.send(ExchangeTasksRequest { events: vec![first] }).unwrap();
        let down = client.exchange_tasks(UnboundedReceiverStream::new(requests)).await.unwrap().into_inner();
        OrchestratorSide { up, down, waiting: Vec::new() }
    }
}

pub(crate) fn message(to: &str, payload: &str) -> comm::Message {
    comm::Message {
        recipient: Some(comm::message::Recipient::AgentId(to.to_owned())),
        payload: payload.to_owned().into(),
        ..comm::Message::default()
    }
}

/// An agent's end of its session.
pub(crate) struct AgentSide {
    up: mpsc::UnboundedSender<OpenSessionRequest>,
    down: Streaming<comm::OpenSessionResponse>,
    waiting: Vec<ServerEvent>,
    pub(crate) welcome: comm::Welcome,
}

impl AgentSide {
    pub(crate) fn say(&self, event: agent_event::Event) {
        self.up.send(OpenSessionRequest { events: vec![AgentEvent { event: Some(event) }] }).unwrap();
    }

    pub(crate) async fn next(&mut self) -> server_event::Event {
        self.event().await.expect("no error").expect("an event")
    }

    /// The next event; none at the end.
    pub(crate) async fn event(&mut self) -> Result<Option<server_event::Event>, Status> {
        while self.waiting.is_empty() {
            match timeout(PATIENCE, self.down.message()).await.expect("an event in time")? {
                Some(response) => self.waiting.extend(response.events),
                None => return Ok(None),
            }
        }
        Ok(self.waiting.remove(0).event)
    }

    pub(crate) async fn task(&mut self) -> comm::TaskDelivery {
        match self.next().await {
            server_event::Event::Task(delivery) => delivery,
            other => panic!("no task: {other:?}"),
        }
    }

    pub(crate) async fn message(&mut self) -> (comm::Message, u32) {
        match self.next().await {
            server_event::Event::Message(delivery) => (delivery.message.unwrap(), delivery.delivery),
            other => panic!("no message: {other:?}"),
        }
    }

    pub(crate) fn ack(&self, id: &str) {
        self.say(agent_event::Event::MessageAck(comm::MessageAck { message_id: id.to_owned() }));
    }

    pub(crate) fn result(&self, task_id: &str) {
        let outcome = Some(comm::task_result::Outcome::Output("7".into()));
        self.say(agent_event::Event::Result(comm::TaskResult { task_id: task_id.to_owned(), outcome }));
    }

    pub(crate) async fn result_ack(&mut self) -> String {
        match self.next().await {
            server_event::Event::ResultAck(ack) => ack.task_id,
            other => panic!("no acknowledgement: {other:?}"),
        }
    }
}

/// An orchestrator's end of its stream.
pub(crate) struct OrchestratorSide {
    up: mpsc::UnboundedSender<ExchangeTasksRequest>,
    down: Streaming<comm::ExchangeTasksResponse>,
    waiting: Vec<TaskUpdate>,
}

impl OrchestratorSide {
    pub(crate) fn say(&self, event: orchestrator_event::Event) {
        self.up.send(ExchangeTasksRequest { events: vec![OrchestratorEvent { event: Some(event) }] }).unwrap();
    }

    pub(crate) fn dispatch(&self, id: &str, agent_type: &str) {
        let target = Some(comm::task::Target::AgentType(agent_type.to_owned()));
        let task = comm::Task { id: id.to_owned(), target, input: "1".into(), priority: 5, ..comm::Task::default() };
        self.say(orchestrator_event::Event::Dispatch(task));
    }

    pub(crate) fn ack(&self, task_id: &str) {
        self.say(orchestrator_event::Event::Ack(comm::AckResult { task_id: task_id.to_owned() }));
    }

    pub(crate) async fn next(&mut self) -> (String, Update) {
        while self.waiting.is_empty() {
            let response = timeout(PATIENCE, self.down.message()).await.expect("an update in time");
            self.waiting.extend(response.expect("no error").expect("an update").updates);
        }
        let update = self.waiting.remove(0);
        (update.task_id, update.update.unwrap())
    }
}
