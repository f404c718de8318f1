//! Tells the registry who is there: everybody at an interval, and at once whoever has come or gone.
//!
//! While one report is on its way, what happens meanwhile becomes the next: a storm of sessions makes few calls.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{sync::watch, time::MissedTickBehavior};

use crate::app::{Directory, Hub, Report};
use crate::error::CommunicationError;

/// Reports of one call.
const CHUNK: usize = 5_000;

pub(super) async fn run(
    hub: Arc<Hub>,
    directory: Arc<Directory>,
    every: Duration,
    mut over: watch::Receiver<bool>,
) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // All arms are cancel-safe.
        let (all, ended) = tokio::select! {
            _ = ticks.tick() => (true, false),
            () = hub.changed() => (false, false),
            _ = over.wait_for(|over| *over) => (false, true),
        };
        let mut reports = hub.take_unreported();
        if all {
            let mut broker = hub.broker();
            let now = std::time::Instant::now();
            broker.offer_again(now);
            broker.tidy(now);
            reports.extend(broker.reports());
        }
        report(&hub, &directory, reports).await;
        if ended {
            return Ok(());
        }
    }
}

async fn report(hub: &Hub, directory: &Directory, reports: Vec<Report>) {
    for chunk in reports.chunks(CHUNK) {
        match directory.report(chunk).await {
            Ok(unknown) => {
                let mut broker = hub.broker();
                for agent in unknown {
                    broker.expel(agent, &CommunicationError::AgentNotFound(agent.to_string()).into());
                }
            }
            Err(error) => {
                // Sessions go on without the registry, and are reported again; ends of sessions are kept.
                tracing::warn!(error = errors::chain(&error), reports = chunk.len(), "cannot report sessions");
                hub.report_again(chunk.to_vec());
            }
        }
    }
}
