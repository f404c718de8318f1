//! Communication and registry as an orchestrator sees them, with agents that do what the action of a task says.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use contracts::{
    Link,
    communication::v1::{
        ExchangeTasksRequest, ExchangeTasksResponse, Task, TaskBegun, TaskFailure, TaskHandedOver, TaskResult,
        TaskUpdate, TaskWaiting,
        orchestrator_event::Event,
        task_result::Outcome,
        task_service_server::{TaskService, TaskServiceServer},
        task_update::Update,
    },
    registry::v1::{
        self as registry,
        registry_service_server::{RegistryService, RegistryServiceServer},
    },
};
use domain::AgentId;
use futures::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

pub(crate) type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What was seen, and what agents may do.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) dispatched: Vec<String>,
    pub(crate) cancelled: Vec<String>,
    pub(crate) acknowledged: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Communication {
    pub(crate) seen: Arc<Mutex<Seen>>,
    /// A new number ends every stream.
    streams: Arc<watch::Sender<u64>>,
    /// True: held tasks are answered.
    let_go: Arc<watch::Sender<bool>>,
}

impl Communication {
    pub(crate) fn new() -> Self {
        Self {
            seen: Arc::default(),
            streams: Arc::new(watch::Sender::new(0)),
            let_go: Arc::new(watch::Sender::new(false)),
        }
    }

    pub(crate) fn link(&self) -> Link {
        Link::new(TaskServiceServer::new(self.clone()))
    }

    pub(crate) fn lose_streams(&self) {
        self.streams.send_modify(|number| *number += 1);
    }

    pub(crate) fn let_go(&self, is_free: bool) {
        self.let_go.send_replace(is_free);
    }

    pub(crate) fn dispatched(&self, part: &str) -> usize {
        self.seen.lock().unwrap().dispatched.iter().filter(|id| id.contains(part)).count()
    }

    pub(crate) fn cancelled(&self, part: &str) -> usize {
        self.seen.lock().unwrap().cancelled.iter().filter(|id| id.contains(part)).count()
    }

    pub(crate) fn acknowledged(&self, part: &str) -> usize {
        self.seen.lock().unwrap().acknowledged.iter().filter(|id| id.contains(part)).count()
    }

    fn answers(task: &Task) -> Vec<Update> {
        let output = |output: bytes::Bytes| {
            Update::Result(TaskResult { task_id: task.id.clone(), outcome: Some(Outcome::Output(output)) })
        };
        let failure = |retryable| {
            let failure = TaskFailure {
                code: "broken".into(),
                message: "it broke".into(),
                retryable,
                details: bytes::Bytes::new(),
            };
            Update::Result(TaskResult { task_id: task.id.clone(), outcome: Some(Outcome::Failure(failure)) })
        };
        let handed = Update::HandedOver(TaskHandedOver { session_id: "ses".into(), delivery: 1 });
        let mut updates = vec![handed, Update::Begun(TaskBegun {})];
        match task.action.as_str() {
            "twice" => updates.extend([output(task.input.clone()), output(task.input.clone())]),
            "fail" => updates.push(failure(false)),
            "flaky" if task.attempt < 3 => updates.push(failure(true)),
            "vote" => {
                let input: serde_json::Value = serde_json::from_slice(&task.input).unwrap();
                let ballot = serde_json::json!({"choice": input["options"][0], "rationale": "first"});
                updates.push(output(ballot.to_string().into_bytes().into()));
            }
            "hang" => {}
            "nobody" => updates = vec![Update::Waiting(TaskWaiting {})],
            _ => updates.push(output(task.input.clone())),
        }
        updates
    }

    fn respond(task: &Task) -> ExchangeTasksResponse {
        let agent_id = AgentId::from_parts(1, 1).to_string();
        let update = |update| TaskUpdate { task_id: task.id.clone(), agent_id: agent_id.clone(), update: Some(update) };
        ExchangeTasksResponse { updates: Self::answers(task).into_iter().map(update).collect() }
    }

    async fn serve(
        self,
        mut events: Streaming<ExchangeTasksRequest>,
        updates: mpsc::Sender<Result<ExchangeTasksResponse, Status>>,
    ) {
        let mut streams = self.streams.subscribe();
        let mut let_go = self.let_go.subscribe();
        let mut held: Vec<Task> = Vec::new();
        loop {
            tokio::select! {
                _ = streams.changed() => return,
                _ = let_go.changed() => {}
                request = events.next() => {
                    let Some(Ok(request)) = request else { return };
                    for event in request.events {
                        match event.event.unwrap() {
                            Event::Attach(_) => {}
                            Event::Dispatch(task) => {
                                self.seen.lock().unwrap().dispatched.push(task.id.clone());
                                if task.action == "hold" {
                                    held.push(task);
                                } else if updates.send(Ok(Self::respond(&task))).await.is_err() {
                                    return;
                                }
                            }
                            Event::Cancel(cancel) => self.seen.lock().unwrap().cancelled.push(cancel.task_id),
                            Event::Ack(ack) => self.seen.lock().unwrap().acknowledged.push(ack.task_id),
                        }
                    }
                }
            }
            if *let_go.borrow() {
                for task in held.drain(..) {
                    if updates.send(Ok(Self::respond(&task))).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl TaskService for Communication {
    type ExchangeTasksStream = Boxed<ExchangeTasksResponse>;

    #[expect(clippy::disallowed_methods, reason = "a fake, which ends with its streams")]
    async fn exchange_tasks(
        &self,
        request: Request<Streaming<ExchangeTasksRequest>>,
    ) -> Result<Response<Self::ExchangeTasksStream>, Status> {
        let (updates, answers) = mpsc::channel(64);
        tokio::spawn(self.clone().serve(request.into_inner(), updates));
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(answers).boxed()))
    }
}

/// A registry that knows so many live agents.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    pub(crate) live: Arc<Mutex<u32>>,
}

impl Registry {
    pub(crate) fn link(&self) -> Link {
        Link::new(RegistryServiceServer::new(self.clone()))
    }
}

macro_rules! unused {
    ($($name:ident($request:ident) -> $response:ident;)*) => {$(
        fn $name<'a, 'b>(&'a self, _: Request<registry::$request>)
            -> Pin<Box<dyn Future<Output = Result<Response<registry::$response>, Status>> + Send + 'b>>
        where 'a: 'b, Self: 'b
        {
            Box::pin(async { Err(Status::unimplemented("unused")) })
        }
    )*};
}

impl RegistryService for Registry {
    type WatchAgentsStream = Boxed<registry::WatchAgentsResponse>;

    unused! {
        register_agent(RegisterAgentRequest) -> RegisterAgentResponse;
        update_agent(UpdateAgentRequest) -> UpdateAgentResponse;
        get_agent(GetAgentRequest) -> GetAgentResponse;
        list_agents(ListAgentsRequest) -> ListAgentsResponse;
        delete_agent(DeleteAgentRequest) -> DeleteAgentResponse;
        heartbeat(HeartbeatRequest) -> HeartbeatResponse;
    }

    fn watch_agents<'a, 'b>(
        &'a self,
        _: Request<registry::WatchAgentsRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Self::WatchAgentsStream>, Status>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async { Err(Status::unimplemented("unused")) })
    }

    fn select_agents<'a, 'b>(
        &'a self,
        request: Request<registry::SelectAgentsRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<registry::SelectAgentsResponse>, Status>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let count = request.get_ref().count.min(*self.live.lock().unwrap());
        let agent = |number: u32| registry::Agent {
            id: AgentId::from_parts(2, u128::from(number)).to_string(),
            name: format!("voter-{number}"),
            config: b"{}".to_vec().into(),
            ..registry::Agent::default()
        };
        let agents = (0..count).map(agent).collect();
        Box::pin(async move { Ok(Response::new(registry::SelectAgentsResponse { agents })) })
    }
}

/// Waits until something holds; fails after a generous while.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
