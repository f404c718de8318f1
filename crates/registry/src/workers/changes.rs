//! Keeps the index what the database is, whoever writes.
//!
//! Every agent that is told of is read anew. Where the connection was lost, or a read failed, everything is read anew once
//! listening has begun again: what was committed before is then in the read, and what is committed after is told.

use std::{convert::Infallible, sync::Arc, time::Duration};

use lifecycle::Shutdown;

use crate::{
    app::Registry,
    metrics,
    store::{Changes, Told},
};

/// Pause after a failure. Meanwhile the index answers as it is.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn follow(
    registry: Arc<Registry>,
    mut changes: Changes,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let follow = async {
        loop {
            let done = match changes.next().await {
                Ok(Told::Anything) => registry.reload().await,
                Ok(Told::Agents(ids)) => registry.refresh(&ids).await,
                Err(error) => Err(error),
            };
            ::metrics::gauge!(metrics::FOLLOWS).set(if done.is_ok() { 1.0 } else { 0.0 });
            if let Err(error) = done {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot follow changes of agents now");
                changes.begin_anew();
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    // Both arms are cancel-safe: at the end the index does not matter any more.
    tokio::select! {
        () = follow => {}
        () = shutdown.draining() => {}
    }
    Ok(())
}
