//! Publishes the progress of tasks, many at once where much comes. Where that is not possible now it is dropped: what comes
//! later tells more.

use std::{convert::Infallible, sync::Arc};

use tokio::sync::{mpsc, watch};

use crate::{
    app::{self, Shown},
    metrics,
    transport::Live,
};

/// What one call publishes at most.
const AT_ONCE: usize = 64;

/// Until the last session is over.
pub(super) async fn run(
    live: Arc<dyn Live>,
    mut waiting: mpsc::Receiver<Shown>,
    mut over: watch::Receiver<bool>,
) -> Result<(), Infallible> {
    let publish = async {
        let mut batch = Vec::with_capacity(AT_ONCE);
        while waiting.recv_many(&mut batch, AT_ONCE).await > 0 {
            let taken = batch.len();
            let messages: Vec<_> = batch.drain(..).filter_map(Shown::into_message).collect();
            let count = messages.len();
            if count < taken {
                app::dropped("unfit", taken - count);
            }
            if count == 0 {
                continue;
            }
            match live.publish(messages).await {
                Ok(()) => ::metrics::counter!(metrics::LIVE_PUBLISHED).increment(count as u64),
                Err(error) => {
                    app::dropped("unavailable", count);
                    tracing::debug!(error = errors::chain(&error), count, "progress is not published");
                }
            }
        }
    };
    // Both arms are cancel-safe: what is dropped at the end is not missed.
    tokio::select! {
        () = publish => {}
        _ = over.wait_for(|over| *over) => {}
    }
    Ok(())
}
