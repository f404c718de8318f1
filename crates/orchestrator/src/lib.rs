#![doc = include_str!("../README.md")]

mod api;
mod app;
mod error;
mod exchange;
mod hash;
mod metrics;
mod settings;
#[cfg(test)]
mod simulator;
mod spans;
mod store;
mod violations;
mod watch;
mod workers;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
};

use ::store::Redis;
use contracts::{
    Link, Links,
    orchestrator::v1::{
        execution_service_server::ExecutionServiceServer, workflow_service_server::WorkflowServiceServer,
    },
};
use domain::{Clock, ReplicaId};
use lifecycle::{Checks, Complaint, HealthStatus, OnExit, Shutdown, Tasks, crash_point};
use tokio::sync::mpsc;
use tonic::service::Routes;

use self::{
    api::Api,
    app::{App, Plans, Replicas},
    store::{Replica, Store},
    violations::Violations,
    watch::Watchers,
    workers::{Chore, Holdings, Keeper, Lanes, Outside, Shared, Workers},
};
pub use self::{
    app::{Cluster, Connect},
    error::StartError,
    settings::Settings,
    store::MIGRATIONS,
};

/// The services that an orchestrator calls.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Who may vote.
    pub registry: Link,
    /// Where tasks go, and results come from: every replica of it.
    pub communication: Links,
    /// The other orchestrators, where there may be some.
    pub cluster: Option<Cluster>,
}

/// A running orchestrator.
#[derive(Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    redis: Option<Redis>,
    replica_id: String,
    executions: ExecutionServiceServer<Api>,
    workflows: WorkflowServiceServer<Api>,
}

/// Opens the database, takes the shards, rebuilds every execution that has not ended, and goes on with all of them.
///
/// `edge` drains before `tasks` do: then calls that wait for something answer with what there is, so that the shards can be
/// handed over at once.
pub async fn start(
    settings: Settings,
    peers: Peers,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
    edge: Shutdown,
) -> Result<Service, StartError> {
    let store = store::open(&settings.database).await?;
    let redis = Redis::open(&settings.redis, "orchestrator")?;
    let replica_id = ReplicaId::generate(clock.as_ref()).to_string();
    let core = Core { store: Arc::clone(&store), redis: redis.clone(), replica_id: replica_id.clone(), clock };
    let app = Box::pin(core.run(settings, peers, tasks, edge)).await?;
    let api = Api::new(app);
    let executions = ExecutionServiceServer::new(api.clone())
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    let workflows = WorkflowServiceServer::new(api)
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    Ok(Service { store, redis, replica_id, executions, workflows })
}

/// What an orchestrator stands on. What runs on it is the same in production and in the simulator.
struct Core {
    store: Arc<dyn Store>,
    redis: Option<Redis>,
    replica_id: String,
    clock: Arc<dyn Clock>,
}

impl Core {
    /// Takes the shards, rebuilds every execution that has not ended, and goes on with all of them.
    async fn run(
        self,
        settings: Settings,
        peers: Peers,
        tasks: &Tasks,
        edge: Shutdown,
    ) -> Result<Arc<App>, StartError> {
        let Self { store, redis, replica_id, clock } = self;
        let is_alone = settings.take_over.unwrap_or_else(|| settings.database.is_sqlite());
        let shards = store.make_shards(settings.shards).await?;
        let limits = workflow::Limits {
            max_bytes: settings.max_definition.0,
            max_steps: settings.max_steps,
            max_history: settings.max_history,
        };
        let plans = Arc::new(Plans::new(Arc::clone(&store), settings.plans_kept, limits, redis, is_alone, &clock));
        follow_versions(&plans, tasks);
        let watchers = Arc::new(Watchers::default());
        let command_timeout = settings.command_timeout;
        let shared = Arc::new(Shared {
            store: Arc::clone(&store),
            plans: Arc::clone(&plans),
            clock: Arc::clone(&clock),
            watchers: Arc::clone(&watchers),
            settings,
            owner: replica_id.clone(),
            holdings: Holdings::new(shards),
            is_alone,
            live: AtomicUsize::new(0),
            repaired: AtomicU64::new(0),
            violations: Violations::new(),
        });
        let (address, connect) =
            peers.cluster.map_or_else(Default::default, |cluster| (cluster.address, Some(cluster.connect)));
        let replicas = Replicas::new(Arc::clone(&store), replica_id.clone(), connect);
        let (workers, ends) = Workers::spawn(&shared, peers.registry, tasks);
        let mut keeper = Keeper::new(workers.clone(), Replica { id: replica_id.clone(), address }, edge.clone());
        keeper.begin().await?;
        let shutdown = tasks.shutdown();
        tasks.spawn("shard keeper", OnExit::StopService, keeper.run(shutdown.clone()));
        let exchange =
            exchange::run(workers.clone(), peers.communication.clone(), ends.outgoing, replica_id, shutdown.clone());
        tasks.spawn("task exchange", OnExit::StopService, exchange);
        let app = App { store, plans, workers, replicas, watchers, clock, command_timeout, edge };
        let app = Arc::new(app);
        run_errands(&app, peers.communication, ends.chores, tasks);
        Ok(app)
    }
}

/// Does errands until a drain, over this orchestrator's own calls: it passes on what concerns another.
fn run_errands(app: &Arc<App>, communication: Links, chores: Lanes<mpsc::Receiver<Chore>>, tasks: &Tasks) {
    let api = ExecutionServiceServer::new(Api::new(Arc::clone(app)))
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    let executions = Link::local(api).under(&access::ActingAs::service("orchestrator"));
    let outside = Outside { executions, communication, store: Arc::clone(&app.store) };
    let errands = workers::run_errands(app.workers.clone(), outside, chores, tasks.shutdown().clone());
    tasks.spawn("errands", OnExit::StopService, errands);
}

/// Hears which workflows other replicas write, until a drain.
fn follow_versions(plans: &Arc<Plans>, tasks: &Tasks) {
    let (plans, stop) = (Arc::clone(plans), tasks.shutdown().clone());
    tasks.spawn("workflow versions", OnExit::StopService, async move {
        // Both arms are cancel-safe.
        tokio::select! {
            biased;
            () = stop.draining() => {}
            () = plans.follow() => {}
        }
        Ok::<(), Infallible>(())
    });
}

impl Service {
    /// Its gRPC services.
    pub fn routes(&self) -> Routes {
        Routes::new(self.executions.clone()).add_service(self.workflows.clone())
    }

    /// The same, called in process.
    pub fn link(&self) -> Link {
        Link::local(self.routes().prepare())
    }

    /// How the things do that it needs.
    pub fn checks(&self) -> Checks {
        let store = Arc::clone(&self.store);
        let checks = Checks::new().with("database", HealthStatus::Unhealthy, move || {
            let store = Arc::clone(&store);
            async move {
                store.ping().await.map_err(|error| Complaint::failed(HealthStatus::Unhealthy, errors::chain(&error)))
            }
        });
        let Some(redis) = self.redis.clone() else { return checks };
        // Without it definitions come from the database, and new versions are noticed a little later.
        checks.with("redis", HealthStatus::Degraded, move || {
            let redis = redis.clone();
            async move {
                redis
                    .health()
                    .await
                    .into_result()
                    .map(drop)
                    .map_err(|error| Complaint::failed(HealthStatus::Degraded, errors::chain(&error)))
            }
        })
    }

    /// Gives the shards back and closes the database; after its tasks have ended.
    pub async fn close(self) {
        crash_point("orchestrator.leave.before");
        if let Err(error) = self.store.leave(&self.replica_id).await {
            tracing::warn!(error = errors::chain(&error), "cannot give the shards back; their lease ends by itself");
        }
        crash_point("orchestrator.leave.after");
        self.store.close().await;
    }
}
