//! Removes what was dealt with long ago, in small steps, so that the writer never waits for long.

use std::{convert::Infallible, sync::Arc, time::Duration};

use domain::Clock;
use lifecycle::Shutdown;

use crate::store::Store;

/// How often it looks.
const EVERY: Duration = Duration::from_mins(1);
/// Rows of one step.
const STEP: i64 = 1_000;

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) messages: Duration,
    pub(super) dead_letters: Duration,
}

pub(super) async fn run(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    kept: Kept,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.draining() => return Ok(()),
        }
        while !shutdown.is_draining() {
            let now = clock.now();
            match store.clean(now - kept.messages, now - kept.dead_letters, STEP).await {
                Ok(removed) if removed < STEP.unsigned_abs() => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove old messages");
                    break;
                }
            }
        }
    }
}
