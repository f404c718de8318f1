//! A communication that can be started again on the same file, with agents and orchestrators as its callers.

use std::{collections::VecDeque, time::Duration};

use communication::{Peers, Service, Settings, TransportKind};
use contracts::{
    Link, Links,
    communication::v1::{
        self as proto, agent_event, agent_session_service_client::AgentSessionServiceClient,
        dead_letter_service_client::DeadLetterServiceClient, message_service_client::MessageServiceClient,
        orchestrator_event, server_event, task_service_client::TaskServiceClient, task_update,
        topic_service_client::TopicServiceClient,
    },
};
use errors::Error;
use lapin::{Channel, Connection, ConnectionProperties};
use lifecycle::{Shutdown, Tasks};
use settings::Secret;
use tempfile::TempDir;
use testkit::{Proxy, Servers};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::registry::FakeRegistry;

/// Far more than anything here takes; only a failing test waits so long.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// What an agent says.
pub(crate) type Said = ReceiverStream<proto::OpenSessionRequest>;

/// What runs of it, as in a process: the core drains after the edge.
struct Running {
    edge: Tasks,
    core: Tasks,
}

impl Running {
    async fn drain(self) {
        self.edge.shutdown().drain();
        self.edge.join(DEADLINE).await.unwrap();
        self.core.shutdown().drain();
        self.core.join(DEADLINE).await.unwrap();
    }

    async fn cut(self) {
        self.edge.shutdown().cut();
        self.core.shutdown().cut();
        self.edge.join(Duration::ZERO).await.unwrap();
        self.core.join(Duration::ZERO).await.unwrap();
    }
}

/// What replicas share: a PostgreSQL database, a virtual host of RabbitMQ, and the registry.
pub(crate) struct Shared {
    registry: FakeRegistry,
    database: String,
    host: String,
}

impl Shared {
    pub(crate) async fn new(rabbitmq: &Servers) -> Self {
        let database = Servers::shared().database().await;
        Self { registry: FakeRegistry::new(), database, host: rabbitmq.virtual_host() }
    }

    /// As another user of RabbitMQ, whose name is its password.
    pub(crate) fn of_user(mut self, user: &str) -> Self {
        let (_, server) = self.host.rsplit_once('@').expect("the URL has a user");
        self.host = format!("amqp://{user}:{user}@{server}");
        self
    }

    /// The virtual host.
    pub(crate) fn virtual_host(&self) -> &str {
        self.host.rsplit_once('/').expect("the URL has a virtual host").1
    }

    pub(crate) async fn replica(&self) -> World {
        self.replica_at(&self.host).await
    }

    /// One whose connections to RabbitMQ can be cut.
    pub(crate) async fn fragile_replica(&self) -> (Proxy, World) {
        let (_, server) = self.host.rsplit_once('@').expect("the URL has an address");
        let (address, _) = server.split_once('/').expect("the URL has a virtual host");
        let proxy = Proxy::to(address.parse().unwrap()).await;
        let world = self.replica_at(&self.host.replace(address, &proxy.address().to_string())).await;
        (proxy, world)
    }

    /// A connection to RabbitMQ of the test's own.
    pub(crate) async fn channel(&self) -> Channel {
        let connection = Connection::connect(&self.host, ConnectionProperties::default()).await.unwrap();
        connection.create_channel().await.unwrap()
    }

    async fn replica_at(&self, host: &str) -> World {
        let change = |settings: &mut Settings| {
            settings.database.url = Some(Secret::new(&self.database));
            settings.transport = TransportKind::Rabbitmq;
            settings.rabbitmq.url = Some(Secret::new(host));
            settings.delivery_limit = 3;
            settings.answer_wait = Duration::from_secs(2);
            // A server that is killed and started holds the whole test up.
            settings.session_lease = DEADLINE * 5;
        };
        World::beside(self.registry.clone(), None, change).await
    }

    pub(crate) fn agent(&self, agent_type: &str) -> String {
        self.registry.add(agent_type, &[])
    }
}

pub(crate) struct World {
    directory: TempDir,
    pub(crate) registry: FakeRegistry,
    /// Every replica of it; where there are none, `registry` is the only one.
    replicas: Option<Links>,
    settings: Settings,
    tasks: Running,
    service: Service,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::beside(FakeRegistry::new(), None, change).await
    }

    /// One that reports to these replicas of the registry.
    pub(crate) async fn beside(
        registry: FakeRegistry,
        replicas: Option<Links>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.database.path = directory.path().join("communication.db");
        change(&mut settings);
        let (tasks, service) = Self::open(&settings, &registry, replicas.as_ref()).await;
        Self { directory, registry, replicas, settings, tasks, service }
    }

    async fn open(settings: &Settings, registry: &FakeRegistry, replicas: Option<&Links>) -> (Running, Service) {
        let tasks = Running { edge: Tasks::new(Shutdown::new()), core: Tasks::new(Shutdown::new()) };
        let registries = replicas.cloned().unwrap_or_else(|| Links::one(registry.link()));
        let peers = Peers { registry: registry.link(), registries };
        let clock = std::sync::Arc::new(domain::SystemClock);
        let service = communication::start(settings.clone(), peers, clock, &tasks.edge, &tasks.core).await.unwrap();
        (tasks, service)
    }

    pub(crate) async fn restart(self) -> Self {
        let Self { directory, registry, replicas, settings, tasks, service } = self;
        tasks.drain().await;
        service.close().await;
        let (tasks, service) = Self::open(&settings, &registry, replicas.as_ref()).await;
        Self { directory, registry, replicas, settings, tasks, service }
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(self) {
        self.tasks.cut().await;
        self.service.close().await;
    }

    /// Stops it as a crash would: nothing is finished.
    pub(crate) async fn crash(self) -> Self {
        let Self { directory, registry, replicas, settings, tasks, service } = self;
        tasks.cut().await;
        service.close().await;
        let (tasks, service) = Self::open(&settings, &registry, replicas.as_ref()).await;
        Self { directory, registry, replicas, settings, tasks, service }
    }

    pub(crate) fn drain(&self) {
        self.tasks.edge.shutdown().drain();
    }

    /// As another service calls it.
    pub(crate) fn link(&self) -> Link {
        self.service.link().under(&access::ActingAs::service("test"))
    }

    /// A session of a registered agent, welcomed.
    pub(crate) async fn agent(&self, id: &str, credits: u32) -> Agent {
        let hello = proto::Hello { agent_id: id.to_owned(), max_in_flight: credits, ..proto::Hello::default() };
        let mut agent = self.hello(hello).await;
        agent.welcome().await;
        agent
    }

    pub(crate) async fn hello(&self, hello: proto::Hello) -> Agent {
        Agent::open(self.link(), hello, Request::new).await
    }

    /// A session that is opened with a request of this kind, by whoever this task works for.
    pub(crate) async fn open_with(&self, hello: proto::Hello, showing: impl FnOnce(Said) -> Request<Said>) -> Agent {
        Agent::open(self.service.link(), hello, showing).await
    }

    pub(crate) fn sessions(&self) -> AgentSessionServiceClient<Link> {
        AgentSessionServiceClient::new(self.service.link())
    }

    pub(crate) async fn orchestrator(&self, replica: &str) -> Orchestrator {
        let (events, requests) = mpsc::channel(64);
        let mut client = TaskServiceClient::new(self.link());
        let updates = client.exchange_tasks(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let orchestrator = Orchestrator { events, updates, waiting: VecDeque::new(), serving: Vec::new() };
        let attach = proto::Attach { replica_id: replica.to_owned() };
        orchestrator.say(orchestrator_event::Event::Attach(attach)).await;
        orchestrator
    }

    pub(crate) fn messages(&self) -> MessageServiceClient<Link> {
        MessageServiceClient::new(self.link())
    }

    pub(crate) fn dead_letters(&self) -> DeadLetterServiceClient<Link> {
        DeadLetterServiceClient::new(self.link())
    }

    pub(crate) fn topics(&self) -> TopicServiceClient<Link> {
        TopicServiceClient::new(self.link())
    }

    /// Sends a message as a client; answers with its id.
    pub(crate) async fn send(&self, message: proto::Message) -> Result<String, Error> {
        let request = proto::SendMessageRequest { message: Some(message) };
        let answer = self.messages().send_message(request).await;
        answer.map(|answer| answer.into_inner().message_id).map_err(Error::from)
    }

    pub(crate) async fn record(&self, id: &str) -> proto::MessageRecord {
        let request = proto::GetMessageRequest { namespace: String::new(), message_id: id.to_owned() };
        self.messages().get_message(request).await.unwrap().into_inner().record.unwrap()
    }

    /// Waits until a message has a status.
    pub(crate) async fn until_status(&self, id: &str, status: proto::MessageStatus) -> proto::MessageRecord {
        until(async || Some(self.record(id).await).filter(|record| record.status() == status)).await
    }

    pub(crate) async fn replay(&self, letter: &str) -> Result<String, Error> {
        let request = proto::ReplayDeadLetterRequest {
            dead_letter_id: letter.to_owned(),
            ..proto::ReplayDeadLetterRequest::default()
        };
        Ok(self.dead_letters().replay_dead_letter(request).await?.into_inner().message_id)
    }

    pub(crate) async fn purge(&self, letter: &str) {
        let request = proto::PurgeDeadLetterRequest {
            dead_letter_id: letter.to_owned(),
            ..proto::PurgeDeadLetterRequest::default()
        };
        assert!(self.dead_letters().purge_dead_letter(request).await.unwrap().into_inner().purged);
    }

    pub(crate) async fn replay_some(
        &self,
        filter: proto::DeadLetterFilter,
        page_token: &str,
    ) -> Result<proto::ReplayDeadLettersResponse, Error> {
        let request = proto::ReplayDeadLettersRequest {
            filter: Some(filter),
            page_size: 2,
            page_token: page_token.to_owned(),
            ..proto::ReplayDeadLettersRequest::default()
        };
        Ok(self.dead_letters().replay_dead_letters(request).await?.into_inner())
    }

    /// Waits until there are so many dead letters.
    pub(crate) async fn until_dead(&self, count: usize) -> Vec<proto::DeadLetter> {
        until(async || {
            let request = proto::ListDeadLettersRequest { include_replayed: true, ..Default::default() };
            let found = self.dead_letters().list_dead_letters(request).await.unwrap().into_inner().dead_letters;
            Some(found).filter(|found| found.len() == count)
        })
        .await
    }
}

/// Asks again and again, until there is an answer.
pub(crate) async fn until<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, asking).await.expect("the condition should have become true")
}

/// One session, seen from the agent.
pub(crate) struct Agent {
    events: mpsc::Sender<proto::OpenSessionRequest>,
    answers: Streaming<proto::OpenSessionResponse>,
    waiting: VecDeque<server_event::Event>,
}

impl Agent {
    async fn open(link: Link, hello: proto::Hello, showing: impl FnOnce(Said) -> Request<Said>) -> Self {
        let (events, requests) = mpsc::channel(64);
        let mut client = AgentSessionServiceClient::new(link);
        let answers = client.open_session(showing(ReceiverStream::new(requests))).await.unwrap().into_inner();
        let agent = Self { events, answers, waiting: VecDeque::new() };
        agent.say(agent_event::Event::Hello(hello)).await;
        agent
    }

    pub(crate) async fn welcome(&mut self) -> proto::Welcome {
        match self.hear().await {
            server_event::Event::Welcome(welcome) => welcome,
            other => panic!("expected a welcome, not {other:?}"),
        }
    }

    pub(crate) async fn say(&self, event: agent_event::Event) {
        let events = vec![proto::AgentEvent { event: Some(event) }];
        self.events.send(proto::OpenSessionRequest { events }).await.unwrap();
    }

    /// What is said next, or how the session ended.
    pub(crate) async fn next(&mut self) -> Result<Option<server_event::Event>, Status> {
        while self.waiting.is_empty() {
            let batch = timeout(DEADLINE, self.answers.message()).await.expect("the server should have said something");
            let Some(batch) = batch? else { return Ok(None) };
            self.waiting.extend(batch.events.into_iter().filter_map(|event| event.event));
        }
        Ok(self.waiting.pop_front())
    }

    pub(crate) async fn hear(&mut self) -> server_event::Event {
        self.next().await.unwrap().expect("the session should go on")
    }

    pub(crate) async fn error(&mut self) -> Error {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the session ended well"),
                Err(status) => return status.into(),
            }
        }
    }

    pub(crate) async fn task(&mut self) -> (String, u32) {
        match self.hear().await {
            server_event::Event::Task(delivery) => (delivery.task.unwrap().id, delivery.delivery),
            other => panic!("expected a task, not {other:?}"),
        }
    }

    pub(crate) async fn message(&mut self) -> (proto::Message, u32) {
        match self.hear().await {
            server_event::Event::Message(delivery) => (delivery.message.unwrap(), delivery.delivery),
            other => panic!("expected a message, not {other:?}"),
        }
    }

    pub(crate) async fn finish(&self, task: &str, output: &str) {
        let outcome = Some(proto::task_result::Outcome::Output(output.as_bytes().to_vec().into()));
        self.say(agent_event::Event::Result(proto::TaskResult {
            task_id: task.to_owned(),
            outcome,
            ..proto::TaskResult::default()
        }))
        .await;
    }

    pub(crate) async fn ack(&self, message: &str) {
        self.say(agent_event::Event::MessageAck(proto::MessageAck { message_id: message.to_owned() })).await;
    }

    pub(crate) async fn nack(&self, delivery: &str) {
        let delivery_id = delivery.to_owned();
        self.say(agent_event::Event::Nack(proto::Nack { delivery_id, reason: "busy".to_owned(), delay_ms: 0 })).await;
    }

    pub(crate) async fn reject(&self, delivery: &str) {
        let delivery_id = delivery.to_owned();
        self.say(agent_event::Event::Reject(proto::Reject { delivery_id, reason: "unreadable".to_owned() })).await;
    }
}

/// One orchestrator's stream.
pub(crate) struct Orchestrator {
    events: mpsc::Sender<proto::ExchangeTasksRequest>,
    updates: Streaming<proto::ExchangeTasksResponse>,
    waiting: VecDeque<proto::TaskUpdate>,
    serving: Vec<(String, u32)>,
}

impl Orchestrator {
    pub(crate) async fn say(&self, event: orchestrator_event::Event) {
        let events = vec![proto::OrchestratorEvent { event: Some(event), epoch: 1 }];
        self.events.send(proto::ExchangeTasksRequest { events }).await.unwrap();
    }

    pub(crate) async fn dispatch(&self, id: &str, target: proto::task::Target) {
        let input = b"{}".to_vec().into();
        let mut parts = id.split('/');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let task = proto::Task {
            id: id.to_owned(),
            execution_id: part(),
            step_id: part(),
            attempt: 1,
            target: Some(target),
            action: "sort".to_owned(),
            input,
            ..proto::Task::default()
        };
        self.say(orchestrator_event::Event::Dispatch(task)).await;
    }

    pub(crate) async fn locate(&self, id: &str) {
        self.say(orchestrator_event::Event::Locate(proto::LocateTask { task_id: id.to_owned() })).await;
    }

    /// Passes over updates until one is wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&str, &task_update::Update) -> bool) {
        loop {
            let (id, update) = self.hear().await;
            if wanted(&id, &update) {
                return;
            }
        }
    }

    /// For whom there are sessions, as far as was told: the names of types with their capacities.
    pub(crate) async fn served(&mut self, agent_type: &str) -> u32 {
        loop {
            if let Some(place) = self.serving.iter().position(|(name, _)| name == agent_type) {
                return self.serving.remove(place).1;
            }
            self.read().await;
        }
    }

    pub(crate) async fn acknowledge(&self, id: &str) {
        self.say(orchestrator_event::Event::Ack(proto::AckResult { task_id: id.to_owned() })).await;
    }

    pub(crate) async fn cancel(&self, id: &str) {
        let cancel = proto::CancelDispatch { task_id: id.to_owned(), reason: "not wanted".to_owned() };
        self.say(orchestrator_event::Event::Cancel(cancel)).await;
    }

    /// The next update: of which task, and what.
    pub(crate) async fn hear(&mut self) -> (String, task_update::Update) {
        while self.waiting.is_empty() {
            self.read().await;
        }
        let update = self.waiting.pop_front().unwrap();
        (update.task_id, update.update.unwrap())
    }

    async fn read(&mut self) {
        let batch = timeout(DEADLINE, self.updates.message()).await.expect("there should have been an update");
        let batch = batch.unwrap().expect("the stream should go on");
        self.waiting.extend(batch.updates);
        for served in batch.serving {
            if let Some(proto::serving::Target::AgentType(name)) = served.target {
                self.serving.push((name, served.capacity));
            }
        }
    }
}

pub(crate) fn of_type(name: &str) -> proto::task::Target {
    proto::task::Target::AgentType(name.to_owned())
}

/// A message to one agent.
pub(crate) fn to(agent: &str, payload: &str) -> proto::Message {
    proto::Message {
        recipient: Some(proto::message::Recipient::AgentId(agent.to_owned())),
        payload: payload.as_bytes().to_vec().into(),
        ..proto::Message::default()
    }
}
