//! When what the store has put off is done: while nothing comes, and else when it is much.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    Shared,
    writer::{Job, MOST},
};
use crate::{metrics, store::Arrears};

/// Nothing comes when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(20);
/// Before it is tried again where the database did not take it.
const PAUSE: Duration = Duration::from_secs(1);

/// Sees to what the store has put off.
pub(super) struct Settling {
    not_before: Instant,
}

impl Settling {
    pub(super) fn new() -> Self {
        Self { not_before: Instant::now() }
    }

    /// The next jobs; none when there will be no more.
    pub(super) async fn receive(
        &mut self,
        shared: &Shared,
        jobs: &mut mpsc::Receiver<Job>,
        waiting: &mut Vec<Job>,
    ) -> usize {
        loop {
            let received = jobs.recv_many(waiting, MOST);
            if shared.store.arrears() == Arrears::None {
                return received.await;
            }
            let quiet = self.not_before.max(Instant::now() + QUIET);
            // Cancel-safe.
            match timeout_at(quiet, received).await {
                Ok(count) => return count,
                Err(_) => self.settle(shared).await,
            }
        }
    }

    /// After a commit.
    pub(super) async fn keep_up(&mut self, shared: &Shared) {
        if shared.store.arrears() == Arrears::Due && Instant::now() >= self.not_before {
            self.settle(shared).await;
        }
    }

    async fn settle(&mut self, shared: &Shared) {
        let started = Instant::now();
        match shared.store.settle().await {
            Ok(()) => metrics::settled(started.elapsed()),
            Err(error) => {
                tracing::error!(error = errors::chain(&error), "commits wait to be put in their place");
                self.not_before = Instant::now() + PAUSE;
            }
        }
    }
}
