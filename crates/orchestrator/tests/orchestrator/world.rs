//! An orchestrator on a real database file, between services that the test plays.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use contracts::{
    Link, Links, Replica as Peer,
    orchestrator::v1::{
        CheckLivenessRequest, CheckLivenessResponse, CreateWorkflowRequest, Event, Execution, ExecutionStatus,
        GetExecutionRequest, ListEventsRequest, StartExecutionRequest, StepRun, StepState, VerifyExecutionRequest,
        VerifyExecutionResponse, Workflow, execution_service_client::ExecutionServiceClient, start_execution_request,
        workflow_service_client::WorkflowServiceClient,
    },
};
use domain::{ExecutionId, SystemClock};
use lifecycle::{Shutdown, Tasks};
use orchestrator::{Cluster, Peers, Service, Settings};
use serde_json::{Value, json};
use settings::{Database, Place};
use sqlx::Connection as _;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::{communication::Communication, registry::Registry};

/// One orchestrator at a time, and what it needs.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) settings: Settings,
    pub(crate) communication: Communication,
    /// Further replicas of it.
    pub(crate) others: Vec<Communication>,
    pub(crate) registry: Registry,
    replica: Replica,
    /// Others on the same database, each with a communication service of its own.
    pub(crate) mates: Vec<Mate>,
    addresses: Addresses,
}

/// Another replica of a cluster.
pub(crate) struct Mate {
    pub(crate) replica: Replica,
    pub(crate) communication: Communication,
}

/// Where the replicas of a cluster are reached. Cloning is cheap.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<String, Link>>>);

impl Addresses {
    /// A way to whoever has this address when it is called. As between processes, a replica calls another as itself.
    fn connect(&self, address: &str) -> Link {
        let (addresses, address) = (self.clone(), address.to_owned());
        Link::new(tower::service_fn(move |request| {
            let link = addresses.0.lock().unwrap().get(&address).cloned();
            let replica = Arc::new(access::Principal::service("orchestrator"));
            async move {
                match link {
                    Some(link) => access::acting_as(replica, link.oneshot(request)).await,
                    None => Err(tonic::Status::unavailable("nobody is there").into()),
                }
            }
        }))
    }

    fn cluster(&self, address: &str) -> Cluster {
        let addresses = self.clone();
        Cluster { address: address.to_owned(), connect: Arc::new(move |address| addresses.connect(address)) }
    }
}

/// A running orchestrator.
pub(crate) struct Replica {
    edge: Shutdown,
    tasks: Tasks,
    service: Service,
}

impl Replica {
    async fn start(
        settings: &Settings,
        communication: &Communication,
        others: &[Communication],
        registry: &Registry,
        cluster: Option<Cluster>,
    ) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        let peer = |(place, replica): (usize, &Communication)| Peer {
            address: format!("communication-{place}").into(),
            link: replica.link(),
        };
        let communication: Arc<[_]> = [communication].into_iter().chain(others).enumerate().map(peer).collect();
        let communication = Links::watched(watch::channel(communication).1);
        let peers = Peers { registry: registry.link(), communication, cluster };
        let (clock, edge) = (Arc::new(SystemClock), Shutdown::new());
        let service = orchestrator::start(settings.clone(), peers, clock, &tasks, edge.clone()).await.unwrap();
        Self { edge, tasks, service }
    }

    pub(crate) fn executions(&self) -> ExecutionServiceClient<Link> {
        ExecutionServiceClient::new(self.service.link().under(&access::ActingAs::service("test")))
            .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES)
    }

    /// The way to it, for whoever asks.
    pub(crate) fn link(&self) -> Link {
        self.service.link()
    }

    /// Ends it where it stands, as a crash does: nothing is finished, nothing is closed.
    pub(crate) async fn crash(self) {
        self.tasks.shutdown().cut();
        // What a dying replica says of itself does not matter.
        let _ = self.tasks.join(Duration::ZERO).await;
    }

    /// Asks it to end in order.
    pub(crate) fn drain(&self) {
        self.drain_edge();
        self.tasks.shutdown().drain();
    }

    /// Asks it to take in nothing more; it goes on with what it has.
    pub(crate) fn drain_edge(&self) {
        self.edge.drain();
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        self.drain();
        self.tasks.join(Duration::from_secs(20)).await.unwrap();
        self.service.close().await;
    }

    /// Waits until it stops by itself; answers why.
    pub(crate) async fn ends(&self) -> lifecycle::TaskFailed {
        let ended = tokio::time::timeout(Duration::from_mins(1), self.tasks.clone().join(Duration::from_secs(20)));
        ended.await.expect("it stops by itself").unwrap_err()
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::among(1, change).await
    }

    /// Between so many replicas of communication.
    pub(crate) async fn among(count: usize, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.database.path = directory.path().join("orchestrator.db");
        change(&mut settings);
        let (communication, registry) = (Communication::default(), Registry::default());
        let others: Vec<_> = (1..count).map(|_| Communication::default()).collect();
        let replica = Replica::start(&settings, &communication, &others, &registry, None).await;
        for communication in others.iter().chain([&communication]) {
            communication.attached(1).await;
        }
        let (mates, addresses) = Default::default();
        Self { directory, settings, communication, others, registry, replica, mates, addresses }
    }

    /// On this database: alone where that is a file, and else two replicas that reach each other.
    pub(crate) async fn on(place: &Database) -> Self {
        Self::on_with(place, |_| ()).await
    }

    /// The same with other settings.
    pub(crate) async fn on_with(place: &Database, change: impl FnOnce(&mut Settings)) -> Self {
        let mut world = Self::begin_on(place, change).await;
        if !place.is_sqlite() {
            world.join().await;
            // Each has its share.
            eventually("a share of the shards", async || {
                let owners = world.shard_owners().await;
                (owners == 2).then_some(())
            })
            .await;
        }
        world
    }

    async fn begin_on(place: &Database, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            database: place.clone(),
            lease: Duration::from_secs(2),
            sweep_interval: Duration::from_secs(1),
            ..Settings::default()
        };
        change(&mut settings);
        let (communication, registry, addresses) =
            (Communication::default(), Registry::default(), Addresses::default());
        let cluster = (!place.is_sqlite()).then(|| addresses.cluster("first"));
        let replica = Replica::start(&settings, &communication, &[], &registry, cluster).await;
        addresses.0.lock().unwrap().insert("first".to_owned(), replica.service.link());
        let (others, mates) = Default::default();
        Self { directory, settings, communication, others, registry, replica, mates, addresses }
    }

    /// One more replica.
    pub(crate) async fn join(&mut self) {
        let address = mate_address(self.mates.len());
        let communication = Communication::default();
        communication.heard().echoes = self.communication.heard().echoes;
        let cluster = Some(self.addresses.cluster(&address));
        let replica = Replica::start(&self.settings, &communication, &[], &self.registry, cluster).await;
        self.addresses.0.lock().unwrap().insert(address, replica.service.link());
        self.mates.push(Mate { replica, communication });
    }

    /// Another orchestrator on the same database.
    pub(crate) async fn second(&self) -> Replica {
        Replica::start(&self.settings, &Communication::default(), &[], &self.registry, None).await
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    pub(crate) async fn crash_and_start(self) -> Self {
        let Self { directory, settings, communication, others, registry, replica, mates, addresses } = self;
        addresses.0.lock().unwrap().clear();
        for (mate, number) in mates.iter().zip(0..) {
            addresses.0.lock().unwrap().insert(mate_address(number), mate.replica.service.link());
        }
        replica.crash().await;
        let cluster = (!settings.database.is_sqlite()).then(|| addresses.cluster("again"));
        let replica = Replica::start(&settings, &communication, &others, &registry, cluster).await;
        addresses.0.lock().unwrap().insert("again".to_owned(), replica.service.link());
        Self { directory, settings, communication, others, registry, replica, mates, addresses }
    }

    pub(crate) async fn stop_and_start(self) -> Self {
        let Self { directory, settings, communication, others, registry, replica, mates, addresses } = self;
        replica.stop().await;
        let replica = Replica::start(&settings, &communication, &others, &registry, None).await;
        Self { directory, settings, communication, others, registry, replica, mates, addresses }
    }

    pub(crate) fn executions(&self) -> ExecutionServiceClient<Link> {
        self.replica.executions()
    }

    pub(crate) fn workflows(&self) -> WorkflowServiceClient<Link> {
        WorkflowServiceClient::new(self.replica.service.link().under(&access::ActingAs::service("test")))
    }

    pub(crate) async fn define(&self, definition: &Value) -> Workflow {
        let request =
            CreateWorkflowRequest { definition: definition.to_string().into(), ..CreateWorkflowRequest::default() };
        self.workflows().create_workflow(request).await.unwrap().into_inner().workflow.unwrap()
    }

    /// Starts without waiting for the end.
    pub(crate) async fn begin(&self, workflow: &Workflow, input: &Value) -> Execution {
        let request = StartExecutionRequest { input: input.to_string().into(), ..start_of(workflow) };
        self.run(request).await
    }

    pub(crate) async fn run(&self, request: StartExecutionRequest) -> Execution {
        self.executions().start_execution(request).await.unwrap().into_inner().execution.unwrap()
    }

    pub(crate) async fn get(&self, id: &str) -> Execution {
        let request = GetExecutionRequest { execution_id: id.to_owned(), ..GetExecutionRequest::default() };
        self.executions().get_execution(request).await.unwrap().into_inner().execution.unwrap()
    }

    /// The execution, where there is one.
    pub(crate) async fn look(&self, id: &str) -> Option<Execution> {
        let request = GetExecutionRequest { execution_id: id.to_owned(), ..GetExecutionRequest::default() };
        self.executions().get_execution(request).await.ok()?.into_inner().execution
    }

    pub(crate) async fn until(&self, id: &str, status: ExecutionStatus) -> Execution {
        eventually(status.as_str_name(), async || {
            let execution = self.get(id).await;
            assert!(execution.ended_at.is_none() || execution.status() == status, "it ended otherwise: {execution:?}");
            (execution.status() == status).then_some(execution)
        })
        .await
    }

    /// Waits until a step is in a state.
    pub(crate) async fn until_step(&self, id: &str, step: &str, state: StepState) -> StepRun {
        eventually(state.as_str_name(), async || {
            let steps = self.get(id).await.steps;
            steps.into_iter().find(|run| run.step_id == step && run.state() == state)
        })
        .await
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<Event> {
        let request =
            ListEventsRequest { execution_id: id.to_owned(), page_size: 1_000, ..ListEventsRequest::default() };
        self.executions().list_events(request).await.unwrap().into_inner().events
    }

    pub(crate) async fn event_types(&self, id: &str) -> Vec<String> {
        self.events(id).await.into_iter().map(|event| event.r#type).collect()
    }

    pub(crate) async fn verify(&self, id: &str) -> VerifyExecutionResponse {
        let request = VerifyExecutionRequest { execution_id: id.to_owned(), ..VerifyExecutionRequest::default() };
        self.executions().verify_execution(request).await.unwrap().into_inner()
    }

    /// As soon as all answer who have shards: one that has gone is asked until its shards are taken over.
    pub(crate) async fn liveness(&self) -> CheckLivenessResponse {
        eventually("the replicas to answer", async || {
            self.executions().check_liveness(CheckLivenessRequest {}).await.ok()
        })
        .await
        .into_inner()
    }

    /// How many replicas have shards.
    async fn shard_owners(&self) -> i64 {
        use sqlx::Connection as _;
        let Ok(Place::Postgres(url)) = self.settings.database.place() else { return 1 };
        let mut connection = sqlx::PgConnection::connect(url.reveal()).await.unwrap();
        let query = "SELECT count(DISTINCT owner) FROM orchestrator.shards WHERE owner <> ''";
        let owners = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        owners
    }

    /// Runs SQL on the database file from outside.
    pub(crate) async fn sql(&self, statement: &'static str) {
        let mut database = self.database().await;
        sqlx::query(statement).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
    }

    /// A connection of its own to the database file.
    pub(crate) async fn database(&self) -> sqlx::SqliteConnection {
        let url = format!("sqlite://{}", self.settings.database.path.display());
        sqlx::SqliteConnection::connect(&url).await.unwrap()
    }
}

fn mate_address(number: usize) -> String {
    format!("mate-{number}")
}

/// Steps one after the other, each of which an agent does.
pub(crate) fn chain(name: &str, steps: &[&str]) -> Value {
    let list: Vec<_> =
        steps.iter().map(|id| json!({ "id": id, "agent_type": "worker", "input": "${{ input }}" })).collect();
    let needs: serde_json::Map<_, _> = steps.windows(2).map(|pair| (pair[1].to_owned(), json!([pair[0]]))).collect();
    let last = steps.last().unwrap();
    json!({ "name": name, "steps": list, "dependencies": needs, "output": format!("${{{{ steps.{last}.output }}}}") })
}

pub(crate) fn start_of(workflow: &Workflow) -> StartExecutionRequest {
    StartExecutionRequest {
        workflow: Some(start_execution_request::Workflow::WorkflowId(workflow.id.clone())),
        ..StartExecutionRequest::default()
    }
}

pub(crate) fn new_id() -> String {
    ExecutionId::generate(&SystemClock).to_string()
}

/// Asks again and again until there is an answer; far longer than it takes.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The stable reason of a refusal.
pub(crate) fn reason<T: Debug>(answer: Result<T, tonic::Status>) -> &'static str {
    errors::Error::from(answer.unwrap_err()).reason
}
