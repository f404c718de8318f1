//! What runs by itself.

mod changes;

use std::{convert::Infallible, sync::Arc, time::Duration};

use lifecycle::{OnExit, Tasks};

use crate::app::Registry;

/// How often leases are looked at: an agent is offline at most this long after its lease.
const LEASES_EVERY: Duration = Duration::from_secs(1);
/// How often the database is told who was heard of.
const HEARD_EVERY: Duration = Duration::from_secs(30);

/// Ends leases; follows what other replicas write; tells the database who was heard of, once more at the end.
pub(crate) fn spawn(registry: &Arc<Registry>, tasks: &Tasks) {
    let shutdown = tasks.shutdown().clone();
    let leases = Arc::clone(registry);
    tasks.spawn("registry.leases", OnExit::StopService, async move {
        let mut ticks = tokio::time::interval(LEASES_EVERY);
        loop {
            // Both arms are cancel-safe.
            tokio::select! {
                _ = ticks.tick() => leases.expire(),
                () = shutdown.draining() => return Ok::<(), Infallible>(()),
            }
        }
    });
    if let Some(changes) = registry.changes() {
        let follow = changes::follow(Arc::clone(registry), changes, tasks.shutdown().clone());
        tasks.spawn("registry.changes", OnExit::StopService, follow);
    }
    let shutdown = tasks.shutdown().clone();
    let registry = Arc::clone(registry);
    tasks.spawn("registry.heard", OnExit::StopService, async move {
        let mut ticks = tokio::time::interval(HEARD_EVERY);
        loop {
            // Both arms are cancel-safe.
            let ended = tokio::select! {
                _ = ticks.tick() => false,
                () = shutdown.draining() => true,
            };
            if let Err(error) = registry.note_heard().await {
                // It is told again with the next heartbeats.
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot note heartbeats");
            }
            if ended {
                return Ok::<(), Infallible>(());
            }
        }
    });
}
