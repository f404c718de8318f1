//! How it stops: sessions are asked to leave and get time to finish; what is left is ended; then tasks on their way to work
//! queues get there.

use std::{convert::Infallible, sync::Arc, time::Duration};

use lifecycle::Shutdown;
use tokio::{sync::watch, time::timeout};

use crate::{app::Hub, error::CommunicationError};

/// How long ended sessions have to be closed by their tasks.
const CLOSING: Duration = Duration::from_secs(1);
/// How long the message broker has to say whether it has the tasks on their way to it. Of what it does not say so in time
/// orchestrators take it that it is lost, and it is there twice.
const LEAVING: Duration = Duration::from_secs(5);

/// Waits for the drain, then goes through it; `over` turns true when no session is left.
pub(super) async fn run(
    hub: Arc<Hub>,
    shutdown: Shutdown,
    patience: Duration,
    over: watch::Sender<bool>,
) -> Result<(), Infallible> {
    shutdown.draining().await;
    hub.broker().drain_all();
    if timeout(patience, hub.no_sessions()).await.is_err() {
        tracing::warn!(?patience, "sessions have not finished in time, ending them");
        hub.broker().end_sessions(&CommunicationError::Stopping.into());
        // Their tasks close them; whoever does not get to it is cut later.
        let _ = timeout(CLOSING, hub.no_sessions()).await;
    }
    if timeout(LEAVING, hub.nothing_leaves()).await.is_err() {
        tracing::warn!("the message broker has not said in time which tasks it has");
    }
    hub.broker().finish();
    over.send_replace(true);
    Ok(())
}
