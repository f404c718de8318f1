//! What runs by itself.

mod writer;

use std::{convert::Infallible, sync::Arc, time::Duration};

use domain::Clock;
use lifecycle::{OnExit, Shutdown, Tasks};
use tokio::time::{MissedTickBehavior, interval};

pub(crate) use self::writer::{Accept, Writer};
use crate::{
    app::{agents::Agents, hub::Hub},
    store::Store,
};

/// How often time is looked at: delays, leases and expiries are late by this at most.
const TICK: Duration = Duration::from_millis(50);
/// Sessions in one report.
const REPORTS: usize = 1000;
/// How often old messages are removed.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Messages that one statement removes: few, so that new ones do not wait.
const SWEEP_ROWS: i64 = 1000;

/// What the workers need.
pub(crate) struct Workers {
    pub(crate) hub: Arc<Hub>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) report_every: Duration,
    pub(crate) retention: Duration,
}

/// Starts them all.
pub(crate) fn spawn(workers: Workers, writer: Writer, tasks: &Tasks) {
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("communication.writer", OnExit::StopService, writer.run(shutdown.clone()));
    let Workers { hub, agents, store, clock, report_every, retention } = workers;
    tasks.spawn("communication.ticks", OnExit::StopService, ticks(Arc::clone(&hub), shutdown.clone()));
    tasks.spawn("communication.presence", OnExit::StopService, presence(hub, agents, report_every, shutdown.clone()));
    tasks.spawn("communication.retention", OnExit::StopService, sweep(store, clock, retention, shutdown));
}

async fn ticks(hub: Arc<Hub>, shutdown: Shutdown) -> Result<(), Infallible> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = ticks.tick() => hub.tick(),
            () = shutdown.draining() => return Ok(()),
        }
    }
}

/// Tells the registry which sessions live: ended ones at once, all of them now and then.
async fn presence(hub: Arc<Hub>, agents: Arc<Agents>, every: Duration, shutdown: Shutdown) -> Result<(), Infallible> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // All arms are cancel-safe.
        let all = tokio::select! {
            _ = ticks.tick() => true,
            () = hub.sessions_closed() => false,
            () = shutdown.draining() => break,
        };
        report(&hub, &agents, all).await;
    }
    hub.stop();
    // The registry may stop at the same time: sessions that cannot be reported end by their lease there.
    report(&hub, &agents, false).await;
    Ok(())
}

async fn report(hub: &Hub, agents: &Agents, all: bool) {
    for sessions in hub.presence(all).chunks(REPORTS) {
        match agents.report(sessions).await {
            Ok(unknown) => unknown.iter().for_each(|id| hub.close_agent(id)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, sessions = sessions.len(), "cannot report sessions to the registry");
            }
        }
    }
}

async fn sweep(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    retention: Duration,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.draining() => return Ok(()),
        }
        while !shutdown.is_draining() {
            match store.sweep(clock.now() - retention, SWEEP_ROWS).await {
                Ok(swept) if swept < SWEEP_ROWS as u64 => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove old messages");
                    break;
                }
            }
        }
    }
}
