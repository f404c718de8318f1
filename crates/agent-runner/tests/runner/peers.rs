//! What the runner talks to, in the small: a registry that streams, and a communication that hands tasks to sessions and
//! messages from one session to another.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contracts::{
    Link,
    communication::v1::{
        self as comm, AgentEvent, OpenSessionRequest, OpenSessionResponse,
        agent_event::Event,
        agent_session_service_server::{AgentSessionService, AgentSessionServiceServer},
        message::Recipient,
        server_event::Event as Down,
        task_result::Outcome,
    },
    registry::v1::{
        self as reg, Agent, RegisterAgentRequest, RegisterAgentResponse, WatchAgentsRequest, WatchAgentsResponse,
        registry_service_server::{RegistryService, RegistryServiceServer},
        watch_agents_response::Change,
    },
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

type Watcher = mpsc::UnboundedSender<Result<WatchAgentsResponse, Status>>;

#[derive(Default)]
struct Agents {
    agents: BTreeMap<String, Agent>,
    watchers: Vec<Watcher>,
}

/// A registry in memory.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Agents>>);

impl Registry {
    pub(crate) fn link(&self) -> Link {
        Link::new(RegistryServiceServer::new(self.clone()))
    }

    pub(crate) fn upsert(&self, agent: Agent) {
        let mut agents = self.0.lock().unwrap();
        agents.agents.insert(agent.id.clone(), agent.clone());
        let change = WatchAgentsResponse { change: Some(Change::Upserted(agent)) };
        agents.watchers.retain(|watcher| watcher.send(Ok(change.clone())).is_ok());
    }

    pub(crate) fn delete(&self, id: &str) {
        let mut agents = self.0.lock().unwrap();
        agents.agents.remove(id);
        let deleted = reg::AgentDeleted { namespace: "default".into(), agent_id: id.into() };
        let change = WatchAgentsResponse { change: Some(Change::Deleted(deleted)) };
        agents.watchers.retain(|watcher| watcher.send(Ok(change.clone())).is_ok());
    }

    pub(crate) fn break_streams(&self) {
        self.0.lock().unwrap().watchers.clear();
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    type WatchAgentsStream = UnboundedReceiverStream<Result<WatchAgentsResponse, Status>>;

    async fn register_agent(
        &self,
        request: Request<RegisterAgentRequest>,
    ) -> Result<Response<RegisterAgentResponse>, Status> {
        let request = request.into_inner();
        let id = format!("agt_{}", request.name);
        let agent = Agent {
            id,
            namespace: "default".into(),
            agent_type: request.agent_type,
            name: request.name,
            config: request.config,
            ..Agent::default()
        };
        self.upsert(agent.clone());
        Ok(Response::new(RegisterAgentResponse { agent: Some(agent), created: true }))
    }

    async fn watch_agents(&self, _: Request<WatchAgentsRequest>) -> Result<Response<Self::WatchAgentsStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut agents = self.0.lock().unwrap();
        let upserts = agents.agents.values().cloned().map(Change::Upserted);
        for change in upserts.chain([Change::Synced(reg::Synced {})]) {
            sender.send(Ok(WatchAgentsResponse { change: Some(change) })).unwrap();
        }
        agents.watchers.push(sender);
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }

    async fn update_agent(
        &self,
        _: Request<reg::UpdateAgentRequest>,
    ) -> Result<Response<reg::UpdateAgentResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
    async fn get_agent(&self, _: Request<reg::GetAgentRequest>) -> Result<Response<reg::GetAgentResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
    async fn list_agents(
        &self,
        _: Request<reg::ListAgentsRequest>,
    ) -> Result<Response<reg::ListAgentsResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
    async fn delete_agent(
        &self,
        _: Request<reg::DeleteAgentRequest>,
    ) -> Result<Response<reg::DeleteAgentResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
    async fn select_agents(
        &self,
        _: Request<reg::SelectAgentsRequest>,
    ) -> Result<Response<reg::SelectAgentsResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
    async fn heartbeat(&self, _: Request<reg::HeartbeatRequest>) -> Result<Response<reg::HeartbeatResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
}

type Session = mpsc::UnboundedSender<Result<OpenSessionResponse, Status>>;

#[derive(Default)]
struct Sessions {
    open: HashMap<String, Session>,
    results: HashMap<String, oneshot::Sender<comm::TaskResult>>,
}

/// A communication in memory.
#[derive(Clone, Default)]
pub(crate) struct Communication {
    sessions: Arc<Mutex<Sessions>>,
    next: Arc<AtomicU64>,
}

#[expect(clippy::unnecessary_wraps, reason = "streams carry results")]
fn down(event: Down) -> Result<OpenSessionResponse, Status> {
    Ok(OpenSessionResponse { events: vec![comm::ServerEvent { event: Some(event) }] })
}

impl Communication {
    pub(crate) fn link(&self) -> Link {
        Link::new(AgentSessionServiceServer::new(self.clone()))
    }

    pub(crate) async fn run(
        &self,
        agent: &str,
        action: &str,
        input: &Value,
        attempt: u32,
    ) -> Result<Value, (String, bool)> {
        let id = format!("task-{}", self.next.fetch_add(1, Ordering::SeqCst));
        let (sender, result) = oneshot::channel();
        {
            let mut sessions = self.sessions.lock().unwrap();
            let task = comm::Task {
                id: id.clone(),
                action: action.into(),
                input: input.to_string().into(),
                attempt,
                ..comm::Task::default()
            };
            sessions.results.insert(id, sender);
            sessions.open[agent].send(down(Down::Task(comm::TaskDelivery { task: Some(task), delivery: 1 }))).unwrap();
        }
        let result = tokio::time::timeout(Duration::from_secs(20), result).await.expect("a result in time").unwrap();
        match result.outcome.unwrap() {
            Outcome::Output(output) => Ok(serde_json::from_slice(&output).unwrap()),
            Outcome::Failure(failure) => Err((failure.code, failure.retryable)),
        }
    }

    fn event(&self, agent: &str, event: Event) {
        let mut sessions = self.sessions.lock().unwrap();
        match event {
            Event::Result(result) => {
                let task_id = result.task_id.clone();
                if let Some(waiting) = sessions.results.remove(&task_id) {
                    waiting.send(result).unwrap();
                }
                drop(sessions.open[agent].send(down(Down::ResultAck(comm::ResultAck { task_id }))));
            }
            Event::Send(send) => {
                let message_id = format!("msg_{}", self.next.fetch_add(1, Ordering::SeqCst));
                let message = comm::Message { id: message_id.clone(), ..send.message.unwrap() };
                let Some(Recipient::AgentId(to)) = message.recipient.clone() else { panic!("only agents are played") };
                sessions.open[&to]
                    .send(down(Down::Message(comm::MessageDelivery { message: Some(message), delivery: 1 })))
                    .unwrap();
                let receipt = comm::Receipt { r#ref: send.r#ref, message_id, error: String::new() };
                sessions.open[agent].send(down(Down::Receipt(receipt))).unwrap();
            }
            _ => {}
        }
    }
}

#[tonic::async_trait]
impl AgentSessionService for Communication {
    type OpenSessionStream = UnboundedReceiverStream<Result<OpenSessionResponse, Status>>;

    async fn renew_session(
        &self,
        _: Request<comm::RenewSessionRequest>,
    ) -> Result<Response<comm::RenewSessionResponse>, Status> {
        Ok(Response::new(comm::RenewSessionResponse {}))
    }

    async fn open_session(
        &self,
        request: Request<Streaming<OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let mut up = request.into_inner();
        let first = up.message().await?.and_then(|first| first.events.into_iter().next());
        let Some(AgentEvent { event: Some(Event::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let welcome = comm::Welcome {
            agent_id: hello.agent_id.clone(),
            credits: 8,
            heartbeat_interval_ms: 1000,
            lease_ms: 5000,
            ..comm::Welcome::default()
        };
        sender.send(down(Down::Welcome(welcome))).unwrap();
        self.sessions.lock().unwrap().open.insert(hello.agent_id.clone(), sender);
        let me = self.clone();
        let reader = async move {
            while let Ok(Some(batch)) = up.message().await {
                batch
                    .events
                    .into_iter()
                    .filter_map(|event| event.event)
                    .for_each(|event| me.event(&hello.agent_id, event));
            }
            me.sessions.lock().unwrap().open.remove(&hello.agent_id);
        };
        #[expect(clippy::disallowed_methods, reason = "the test's own runtime owns it")]
        drop(tokio::spawn(reader));
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }
}

/// A small HTTP server on a free port.
pub(crate) struct HttpServer {
    pub(crate) port: u16,
}

pub(crate) async fn http_server() -> HttpServer {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        let mut hanging = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let length = socket.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).to_ascii_lowercase();
            assert!(length == 0 || request.contains("idempotency-key: task-"), "{request}");
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = match path.as_str() {
                "/ok" => "200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"ok\":true}",
                "/broken" => "503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
                "/away" => "302 Found\r\nlocation: http://example.org/\r\ncontent-length: 0\r\n\r\n",
                "/hang" => {
                    hanging.push(socket);
                    continue;
                }
                _ => "404 Not Found\r\ncontent-length: 0\r\n\r\n",
            };
            drop(socket.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await);
        }
    };
    #[expect(clippy::disallowed_methods, reason = "the test's own runtime owns it")]
    drop(tokio::spawn(serve));
    HttpServer { port }
}
