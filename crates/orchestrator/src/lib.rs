#![doc = include_str!("../README.md")]

mod api;
mod app;
mod error;
mod exchange;
mod metrics;
mod settings;
mod store;
mod watch;
mod workers;

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize},
};

use ::store::Sqlite;
use contracts::{
    Link,
    orchestrator::v1::{
        execution_service_server::ExecutionServiceServer, workflow_service_server::WorkflowServiceServer,
    },
};
use domain::{Clock, ExecutionId, ReplicaId};
use futures::{StreamExt as _, stream};
use lifecycle::{OnExit, Tasks};
use tonic::service::Routes;

use self::{
    api::Api,
    app::{App, Loaded, Plans, load},
    error::OrchestratorError,
    store::{Leased, SqliteStore, Store},
    watch::Watchers,
    workers::{Shared, Workers},
};
pub use self::{error::StartError, settings::Settings};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/orchestrator");

/// The services that an orchestrator calls.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Who may vote.
    pub registry: Link,
    /// Where tasks go, and results come from.
    pub communication: Link,
}

/// A running orchestrator.
#[derive(Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    executions: ExecutionServiceServer<Api>,
    workflows: WorkflowServiceServer<Api>,
}

/// Opens the database, takes the shards, rebuilds every execution that has not ended, and goes on with all of them.
pub async fn start(
    settings: Settings,
    peers: Peers,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Service, StartError> {
    let sqlite = Sqlite::open(&settings.database, &MIGRATIONS).await?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::new(sqlite));
    let owner = ReplicaId::generate(clock.as_ref()).to_string();
    let now = clock.now();
    let until = now + settings.lease;
    let leased = store.lease(&owner, settings.shards, now, until, settings.take_over).await;
    let epochs = match leased.map_err(StartError::Lease)? {
        Leased::Shards(epochs) => epochs,
        Leased::Others(count) => return Err(StartError::Leased(count)),
    };
    let limits = workflow::Limits { max_bytes: settings.max_definition.0, max_steps: settings.max_steps };
    let plans = Arc::new(Plans::new(Arc::clone(&store), settings.plans_kept, limits));
    let recovered = recover(&store, &plans).await.map_err(StartError::Recover)?;
    let watchers = Arc::new(Watchers::default());
    let command_timeout = settings.command_timeout;
    let shared = Arc::new(Shared {
        store: Arc::clone(&store),
        plans: Arc::clone(&plans),
        clock: Arc::clone(&clock),
        watchers: Arc::clone(&watchers),
        settings,
        owner: owner.clone(),
        epochs,
        live: AtomicUsize::new(0),
        repaired: AtomicU64::new(0),
        fenced: tokio::sync::watch::Sender::new(false),
    });
    let (workers, ends) = Workers::spawn(&shared, recovered, peers.registry, tasks);
    let shutdown = tasks.shutdown().clone();
    let exchange = exchange::run(workers.clone(), peers.communication, ends.outgoing, owner, shutdown.clone());
    tasks.spawn("task exchange", OnExit::StopService, exchange);
    let app = App { store: Arc::clone(&store), plans, workers, watchers, clock, command_timeout };
    let api = Api::new(Arc::new(app), shutdown);
    let executions = ExecutionServiceServer::new(api.clone())
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    let workflows = WorkflowServiceServer::new(api)
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    Ok(Service { store, executions, workflows })
}

/// Rebuilds what has not ended (I4). A log that cannot be read keeps nobody else from starting: it is logged, and shows as
/// stuck.
async fn recover(store: &Arc<dyn Store>, plans: &Arc<Plans>) -> Result<Vec<(ExecutionId, Loaded)>, sqlx::Error> {
    /// Logs that are read at once.
    const AT_ONCE: usize = 4;
    let ids = store.live().await?;
    let reads = ids.into_iter().map(|id| async move { (id, load(store.as_ref(), plans, id).await) });
    let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
    let mut recovered = Vec::new();
    while let Some((id, loaded)) = reads.next().await {
        match loaded {
            Ok(Some(loaded)) => recovered.push((id, loaded)),
            Ok(None) => tracing::error!(execution.id = %id, "an execution has no log"),
            Err(OrchestratorError::Database(error)) => return Err(error),
            Err(error) => {
                tracing::error!(error = errors::chain(&error), execution.id = %id, "an execution cannot be recovered");
            }
        }
    }
    Ok(recovered)
}

impl Service {
    /// Its gRPC services.
    pub fn routes(&self) -> Routes {
        Routes::new(self.executions.clone()).add_service(self.workflows.clone())
    }

    /// The same, called in process.
    pub fn link(&self) -> Link {
        Link::new(self.routes().prepare())
    }

    /// Closes the database; after its tasks have ended.
    pub async fn close(self) {
        self.store.close().await;
    }
}
