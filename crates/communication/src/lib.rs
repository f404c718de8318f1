#![doc = include_str!("../README.md")]

mod api;
mod app;
mod error;
mod metrics;
mod settings;
mod store;
mod transport;
mod workers;

use std::sync::Arc;

use ::store::Sqlite;
use contracts::{
    Link, MAX_MESSAGE_BYTES,
    communication::v1::{
        agent_session_service_server::AgentSessionServiceServer, dead_letter_service_server::DeadLetterServiceServer,
        message_service_server::MessageServiceServer, task_service_server::TaskServiceServer,
    },
};
use domain::Clock;
use lifecycle::Tasks;
use tokio::sync::mpsc;
use tonic::service::Routes;

use self::{
    api::{Api, Shared, Terms},
    app::{
        agents::Agents,
        hub::{Hub, Limits},
        letters::{self, Letters},
    },
    store::{SqliteStore, Store},
    transport::Direct,
    workers::{Workers, Writer},
};
pub use self::{error::StartError, settings::Settings};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/communication");

/// Messages that wait for the writer; with more, senders wait.
const ACCEPTS: usize = 4096;

/// The services that communication calls.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The registry: who the agents are.
    pub registry: Link,
}

/// Running communication.
#[derive(Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    api: Api,
}

/// Opens the database and fills the mailboxes. Tasks come from the orchestrators, when they attach.
pub async fn start(
    settings: Settings,
    peers: Peers,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Service, StartError> {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::new(Sqlite::open(&settings.database, &MIGRATIONS).await?));
    let limits = Limits {
        delivery_limit: settings.delivery_limit,
        queue_limit: settings.queue_limit,
        mailbox_limit: settings.mailbox_limit,
        max_output: settings.max_output.0,
        lease: settings.lease,
    };
    let hub = Arc::new(Hub::new(limits, Arc::clone(&clock)));
    hub.refill(letters::pending(&*store).await.map_err(StartError::Load)?);
    let agents = Arc::new(Agents::new(peers.registry, settings.registry_timeout));
    let (accepts, waiting) = mpsc::channel(ACCEPTS);
    let writer = Writer { hub: Arc::clone(&hub), store: Arc::clone(&store), accepts: waiting, backlog: Vec::new() };
    let workers = Workers {
        hub: Arc::clone(&hub),
        agents: Arc::clone(&agents),
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        report_every: settings.heartbeat_interval,
        retention: settings.retention,
    };
    workers::spawn(workers, writer, tasks);
    let letters = Arc::new(Letters {
        store: Arc::clone(&store),
        transport: Box::new(Direct { hub: Arc::clone(&hub), accepts }),
        agents: Arc::clone(&agents),
        clock: Arc::clone(&clock),
        max_payload: settings.max_payload.0,
    });
    let terms = Terms {
        max_credits: settings.max_credits,
        heartbeat_interval_ms: settings.heartbeat_interval.as_millis() as u32,
        lease_ms: settings.lease.as_millis() as u32,
        stream_buffer: settings.stream_buffer,
    };
    let api = Api::new(Shared { hub, letters, agents, clock, tasks: tasks.clone(), terms });
    Ok(Service { store, api })
}

macro_rules! server {
    ($server:ident, $api:expr) => {
        $server::new($api.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    };
}

impl Service {
    /// Its gRPC services.
    pub fn routes(&self) -> Routes {
        Routes::new(server!(AgentSessionServiceServer, self.api))
            .add_service(server!(TaskServiceServer, self.api))
            .add_service(server!(MessageServiceServer, self.api))
            .add_service(server!(DeadLetterServiceServer, self.api))
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
