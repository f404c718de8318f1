//! Shards that come and go.

use std::sync::Arc;

use domain::ExecutionId;
use tokio::sync::oneshot;

use super::worker::Worker;
use crate::{app::Loaded, store::Held};

/// Shards that are being given up: nothing new is decided of them, but what was decided may be under way.
pub(super) struct Leaving {
    shards: Arc<[u32]>,
    /// The number of the last batch that can have something of them.
    last: u64,
    done: oneshot::Sender<()>,
}

impl Worker {
    pub(super) fn take_shards(&mut self, held: &[Held], recovered: Vec<(ExecutionId, Loaded)>) {
        for held in held {
            self.shared.holdings.adopt(*held);
        }
        for (id, loaded) in recovered {
            self.adopt(id, loaded);
        }
    }

    /// Begins to give shards up; [`Worker::finish_leaving`] ends it. The holdings say so already, which keeps new inputs out.
    pub(super) fn give_up(&mut self, shards: &Arc<[u32]>, is_lost: bool, done: oneshot::Sender<()>) {
        if is_lost {
            self.drop_shards(shards);
        }
        self.leaving.push(Leaving { shards: Arc::clone(shards), last: self.batch, done });
    }

    /// Gives up what has nothing under way any more.
    pub(super) fn finish_leaving(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let oldest = self.in_flight.front().map(|after| after.number);
        let is_open = !self.open.is_empty();
        let is_over = |leaving: &Leaving| {
            oldest.is_none_or(|oldest| oldest > leaving.last) && (self.batch > leaving.last || !is_open)
        };
        let (over, leaving) = std::mem::take(&mut self.leaving).into_iter().partition(is_over);
        self.leaving = leaving;
        for Leaving { shards, done, .. } in over {
            self.drop_shards(&shards);
            // Who does not wait any more needs no answer.
            let _ = done.send(());
        }
    }

    /// Takes all executions of these shards out of memory. What is open of them is not committed.
    fn drop_shards(&mut self, shards: &[u32]) {
        let shared = Arc::clone(&self.shared);
        let is_dropped = |id: &ExecutionId| shards.contains(&shared.holdings.shard(*id));
        let dropped: Vec<_> = self.live.keys().filter(|id| is_dropped(id)).copied().collect();
        for id in dropped {
            // Callers that wait for its end ask again when their channel closes.
            self.remove(id);
            if let Some(share) = self.open.take(id) {
                share.replies.into_iter().for_each(|answer| answer(false));
            }
            self.refusals.remove(&id);
        }
        // What is being read is old when the shard comes back.
        let reading: Vec<_> = self.loading.keys().filter(|id| is_dropped(id)).copied().collect();
        for id in reading {
            self.stop_loading(id);
        }
        shared.watchers.end(|id| is_dropped(&id));
        self.ended.retain(|id, _| !is_dropped(id));
        self.ended_order.retain(|id| !is_dropped(id));
    }
}
