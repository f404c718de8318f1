//! What runs by itself. Each worker has a module; this one starts them and has the order in which they stop.

mod agents;
mod presence;
mod progress;
mod retention;
mod stop;
mod writer;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use contracts::Links;
use domain::Clock;
use lifecycle::{OnExit, Tasks};
use tokio::sync::{mpsc, watch};

pub(crate) use self::writer::{Unknown, Writer};
use crate::{
    Settings,
    app::{Directory, Hub, Shown},
    peers::RegistryClient,
    store::Store,
    transport::{Live, RabbitMq, Transport},
};

/// How often delays and expiries are looked at: nothing is later than this.
const ADVANCE_EVERY: Duration = Duration::from_millis(20);

/// What workers work with.
pub(crate) struct Parts {
    pub(crate) hub: Arc<Hub>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) registry: RegistryClient,
    pub(crate) registries: Links,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) rabbitmq: Option<Arc<RabbitMq>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Arc<dyn Live>,
    /// What agents show of their tasks.
    pub(crate) shown: mpsc::Receiver<Shown>,
}

/// Starts them all; on `core` what drains after everything that makes entries has.
pub(crate) fn spawn(parts: Parts, writer: Writer, settings: &Settings, tasks: &Tasks, core: &Tasks) {
    let (sessions_over, _) = watch::channel(false);
    // What is answered while the others stop is recorded, too.
    core.spawn("communication.writer", OnExit::StopService, writer.run(core.shutdown().clone()));
    let Parts { hub, directory, registry, registries, transport, rabbitmq, store, clock, live, shown } = parts;
    if let Some(rabbitmq) = rabbitmq {
        let run = rabbitmq.run(Arc::clone(&store), sessions_over.subscribe());
        tasks.spawn("communication.rabbitmq", OnExit::StopService, run);
    }
    let shutdown = tasks.shutdown().clone();
    let stop = stop::run(Arc::clone(&hub), shutdown.clone(), settings.drain_timeout, sessions_over.clone());
    tasks.spawn("communication.stop", OnExit::StopService, stop);
    let presence = presence::Presence {
        hub: Arc::clone(&hub),
        directory: Arc::clone(&directory),
        registries,
        timeout: settings.registry_timeout,
        every: settings.report_interval,
    };
    let presence = presence::run(presence, sessions_over.subscribe());
    tasks.spawn("communication.presence", OnExit::StopService, presence);
    let progress = progress::run(live, shown, sessions_over.subscribe());
    tasks.spawn("communication.progress", OnExit::StopService, progress);
    let memory = agents::share(Arc::clone(&directory), shutdown.clone());
    tasks.spawn("communication.memory", OnExit::StopService, memory);
    let agents = agents::Agents { hub: Arc::clone(&hub), directory, store: Arc::clone(&store) };
    let agents = agents::run(agents, registry, shutdown.clone());
    tasks.spawn("communication.agents", OnExit::StopService, agents);
    let kept = retention::Kept { messages: settings.message_retention, dead_letters: settings.dead_letter_retention };
    let retention = retention::run(store, Arc::clone(&clock), kept, shutdown);
    tasks.spawn("communication.retention", OnExit::StopService, retention);
    let advance = advance(hub, transport, clock, sessions_over.subscribe());
    tasks.spawn("communication.advance", OnExit::StopService, advance);
}

/// Tells the broker and the transport that time has passed, until the last session is over.
async fn advance(
    hub: Arc<Hub>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    mut over: watch::Receiver<bool>,
) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(ADVANCE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = ticks.tick() => {
                let now = Instant::now();
                transport.advance(clock.now(), now);
                hub.advance(now);
            }
            _ = over.wait_for(|over| *over) => return Ok(()),
        }
    }
}
