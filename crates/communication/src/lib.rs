#![doc = include_str!("../README.md")]

mod api;
mod app;
mod error;
mod metrics;
mod peers;
mod settings;
mod spans;
mod store;
mod transport;
mod workers;

use std::{sync::Arc, time::Duration};

use ::store::{Pace, Redis};
use contracts::{Link, Links};
use domain::Clock;
use lifecycle::{Checks, Complaint, HealthStatus, OnExit, Tasks};
use tonic::service::Routes;

use self::{
    api::{Api, Context, StreamLimits},
    app::{Broker, Credentials, DeadLetters, Directory, Hub, Journal, Limits, Messages, Progress, Reason},
    peers::RegistryClient,
    store::Store,
    transport::{
        Delivery, Direct, FeedLimits, LINGER, Live, LiveDirect, LiveLimits, LiveRedis, MailboxLimits, RabbitMq,
        RabbitMqLimits, Sink, Transport, WorkQueues, WorkSink,
    },
    workers::{Parts, Unknown, Writer},
};
pub use self::{
    error::StartError,
    settings::{QueueType, QueueTypes, RabbitMq as RabbitMqSettings, Settings, TransportKind},
    store::MIGRATIONS,
};

/// Unfinished messages that a start reads at once.
const LOADED_AT_ONCE: usize = 1_000;

/// How much longer than a statement may take the writer waits for a database that does not even say that.
const SILENCE: Duration = Duration::from_secs(5);

/// Links to the services that communication calls.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Who the agents are: any replica knows.
    pub registry: Link,
    /// Every replica, since each has to hear who is alive.
    pub registries: Links,
}

/// A running communication.
#[derive(Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    redis: Option<Redis>,
    rabbitmq: Option<Arc<RabbitMq>>,
    routes: Routes,
}

/// Opens the database, puts every unfinished message back into its mailbox where no broker keeps it, and starts what runs by
/// itself. What records drains with `core`, to be asked for after `tasks` has ended: what is answered until then is recorded. What records drains with `core`, after all that is served here has ended.
pub async fn start(
    settings: Settings,
    peers: Peers,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
    core: &Tasks,
) -> Result<Service, StartError> {
    let store = store::open(&settings.database).await?;
    let (transport, rabbitmq) = transport(&settings, &clock);
    let journal = Arc::new(Journal::new(settings.log_buffer));
    let hub = hub(&settings, &transport, rabbitmq.as_ref(), &journal, &clock);
    if rabbitmq.is_none() {
        refill(&*store, &*transport, &hub, settings.delivery_limit).await.map_err(StartError::Load)?;
    }
    let registry = RegistryClient::new(peers.registry, settings.registry_timeout);
    let redis = Redis::open(&settings.redis, "communication")?;
    let directory = Arc::new(Directory::new(Arc::new(registry.clone()), settings.agent_cache, redis.as_ref(), &clock));
    let live = live(&settings, redis.clone(), tasks);
    let (progress, shown) = Progress::new();
    let writer = Writer {
        journal: Arc::clone(&journal),
        store: Arc::clone(&store),
        transport: Arc::clone(&transport),
        hub: Arc::clone(&hub),
        pace: Pace::new(!settings.database.is_sqlite()),
        patience: settings.database.statement_timeout + SILENCE,
        unknown: Unknown::default(),
    };
    let messages = Messages {
        directory: Arc::clone(&directory),
        transport: Arc::clone(&transport),
        journal,
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        max_payload: settings.max_payload.0,
    };
    let dead_letters = DeadLetters {
        directory: Arc::clone(&directory),
        store: Arc::clone(&store),
        transport: Arc::clone(&transport),
        clock: Arc::clone(&clock),
        tasks: tasks.clone(),
    };
    let api = Api::new(Context {
        hub: Arc::clone(&hub),
        directory: Arc::clone(&directory),
        messages,
        dead_letters,
        live: Arc::clone(&live),
        progress,
        credentials: Credentials::new(),
        clock: Arc::clone(&clock),
        tasks: tasks.clone(),
        limits: StreamLimits::from(&settings),
    });
    let broker = rabbitmq.clone();
    let registries = peers.registries;
    let parts = Parts {
        hub,
        directory,
        registry,
        registries,
        transport,
        rabbitmq,
        store: Arc::clone(&store),
        clock,
        live,
        shown,
    };
    workers::spawn(parts, writer, &settings, tasks, core);
    Ok(Service { store, redis, rabbitmq: broker, routes: api.routes() })
}

/// The transport that the settings name; and as itself where it has work of its own to do.
fn transport(settings: &Settings, clock: &Arc<dyn Clock>) -> (Arc<dyn Transport>, Option<Arc<RabbitMq>>) {
    let mailbox = MailboxLimits { messages: settings.mailbox_limit, bytes: settings.mailbox_bytes.0 };
    match settings.transport {
        TransportKind::Direct => (Arc::new(Direct::new(mailbox, Some(settings.answer_wait))), None),
        TransportKind::Rabbitmq => {
            let limits = RabbitMqLimits {
                mailbox,
                queue: settings.queue_limit,
                deliveries: settings.delivery_limit,
                answer_wait: settings.answer_wait,
                linger: LINGER,
            };
            let rabbitmq = Arc::new(RabbitMq::new(settings.rabbitmq.clone(), limits, Arc::clone(clock)));
            (Arc::clone(&rabbitmq) as _, Some(rabbitmq))
        }
    }
}

/// How live messages are carried: over Redis where there is one, else within this process.
fn live(settings: &Settings, redis: Option<Redis>, tasks: &Tasks) -> Arc<dyn Live> {
    let feed = FeedLimits { messages: settings.live_buffer, bytes: settings.live_buffer_bytes.0 };
    let limits = LiveLimits { subscriptions: settings.live_subscriptions, feed };
    let Some(redis) = redis else { return Arc::new(LiveDirect::new(limits)) };
    let live = Arc::new(LiveRedis::new(redis, limits));
    tasks.spawn("communication.live", OnExit::StopService, Arc::clone(&live).run(tasks.shutdown().clone()));
    live
}

/// The broker behind its lock, told by the transport what arrives and what expires.
fn hub(
    settings: &Settings,
    transport: &Arc<dyn Transport>,
    rabbitmq: Option<&Arc<RabbitMq>>,
    journal: &Arc<Journal>,
    clock: &Arc<dyn Clock>,
) -> Arc<Hub> {
    let limits = Limits {
        queue: settings.queue_limit,
        deliveries: settings.delivery_limit,
        spill_after: settings.spill_after,
        output: settings.max_output.0,
        foreign_results: settings.kept_results,
    };
    let work = rabbitmq.map(|rabbitmq| Arc::clone(rabbitmq) as Arc<dyn WorkQueues>);
    let broker = Broker::new(limits, Arc::clone(transport), work.clone(), Arc::clone(journal), Arc::clone(clock));
    let hub = Arc::new(Hub::new(broker));
    let sink: Arc<dyn Sink> = Arc::clone(&hub) as _;
    transport.start(Arc::downgrade(&sink));
    if let Some(work) = work {
        let sink: Arc<dyn WorkSink> = Arc::clone(&hub) as _;
        work.start(Arc::downgrade(&sink));
    }
    hub
}

/// Reads what is unfinished, in the order of acceptance. What has used up its deliveries is buried: it may be what ended the
/// process.
async fn refill(store: &dyn Store, transport: &dyn Transport, hub: &Hub, limit: u32) -> sqlx::Result<()> {
    let mut after = 0;
    loop {
        let page = store.unfinished(after, LOADED_AT_ONCE).await?;
        for (envelope, deliveries, _) in page.rows {
            after = envelope.sequence;
            let envelope = Arc::new(envelope);
            if deliveries < limit {
                transport.readmit(envelope, deliveries);
            } else {
                let delivery = Delivery { envelope, count: deliveries };
                hub.broker().bury_message(&delivery, Reason::DeliveryLimit, "its last delivery ended with the process");
            }
        }
        if page.is_last {
            return Ok(());
        }
    }
}

impl From<&Settings> for StreamLimits {
    fn from(settings: &Settings) -> Self {
        Self {
            heartbeat_interval: settings.heartbeat_interval,
            session_lease: settings.session_lease,
            max_credits: settings.max_credits,
            session_buffer: settings.session_buffer,
            orchestrator_buffer: settings.orchestrator_buffer,
        }
    }
}

impl Service {
    /// All its gRPC services.
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// The same, called in process.
    pub fn link(&self) -> Link {
        Link::local(self.routes.clone())
    }

    /// How the things do that it needs.
    pub fn checks(&self) -> Checks {
        let store = Arc::clone(&self.store);
        let mut checks = Checks::new().with("database", HealthStatus::Unhealthy, move || {
            let store = Arc::clone(&store);
            async move {
                store.ping().await.map_err(|error| Complaint::failed(HealthStatus::Unhealthy, errors::chain(&error)))
            }
        });
        if let Some(rabbitmq) = self.rabbitmq.clone() {
            // Without it messages are taken and recorded, and delivered when it is back.
            checks = checks.with("broker", HealthStatus::Degraded, move || {
                let is_connected = rabbitmq.is_connected();
                let away = || Complaint::degraded("there is no connection to RabbitMQ");
                async move { if is_connected { Ok(()) } else { Err(away()) } }
            });
        }
        let Some(redis) = self.redis.clone() else { return checks };
        // Without it each replica knows the agents that it has seen itself.
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

    /// Closes the database; after its tasks have ended.
    pub async fn close(self) {
        self.store.close().await;
    }
}
