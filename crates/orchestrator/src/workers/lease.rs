//! Keeping the shards.

use std::sync::Arc;

use lifecycle::Shutdown;

use super::{Fenced, Shared};

/// Renews the lease until the service ends; fails when another replica has taken the shards. A database that does not answer
/// is no reason to stop: every append checks the epoch anyway (I2).
pub(super) async fn run(shared: Arc<Shared>, shutdown: Shutdown) -> Result<(), Fenced> {
    /// How often a lease is renewed within its time.
    const RENEWALS: u32 = 3;
    let period = shared.settings.lease / RENEWALS;
    let mut fenced = shared.fenced.subscribe();
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            // A commit has found it out; the sender is as old as this task.
            _ = fenced.wait_for(|is_fenced| *is_fenced) => return Err(Fenced),
            () = shutdown.draining() => return Ok(()),
        }
        let until = shared.now() + shared.settings.lease;
        match tokio::time::timeout(shared.settings.lease, shared.store.renew(&shared.owner, until)).await {
            Ok(Ok(renewed)) if renewed == shared.epochs.len() as u64 => {}
            Ok(Ok(_)) => {
                shared.fenced.send_replace(true);
                return Err(Fenced);
            }
            Ok(Err(error)) => tracing::warn!(error = errors::chain(&error), "cannot renew the lease of the shards"),
            Err(_) => tracing::warn!("cannot renew the lease of the shards: the database does not answer"),
        }
    }
}
