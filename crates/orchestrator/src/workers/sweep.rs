//! The safety net (I7): looks for executions that nothing will wake, repairs them, and counts. The count must stay zero.

use std::{collections::HashSet, convert::Infallible, sync::atomic::Ordering};

use domain::ExecutionId;
use lifecycle::Shutdown;
use workflow::{Command, Effect};

use super::{Input, Workers, worker::Worker};
use crate::metrics;

/// Sweeps until the service ends.
pub(super) async fn run(workers: Workers, shutdown: Shutdown) -> Result<(), Infallible> {
    /// Every so many sweeps memory is compared with the database.
    const DATABASE_EVERY: u32 = 12;
    let mut sweeps = 0_u32;
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            () = tokio::time::sleep(workers.shared.settings.sweep_interval) => {}
            () = shutdown.draining() => return Ok(()),
        }
        sweeps = sweeps.wrapping_add(1);
        let mut known = None;
        if sweeps.is_multiple_of(DATABASE_EVERY) {
            match workers.shared.store.live().await {
                Ok(live) => known = Some(workers.split(live)),
                Err(error) => tracing::warn!(error = errors::chain(&error), "the sweeper cannot read the executions"),
            }
        }
        let mut known = known.map(IntoIterator::into_iter);
        for worker in workers.inputs.iter() {
            let known = known.as_mut().and_then(Iterator::next);
            let _ = worker.send(Input::Sweep { known }).await;
        }
    }
}

impl Worker {
    pub(super) fn sweep(&mut self, known: Option<Vec<ExecutionId>>) {
        let ids: Vec<_> = self.live.iter().filter(|(_, live)| live.pending == 0).map(|(id, _)| *id).collect();
        let mut repairs = 0;
        for id in ids {
            repairs += self.repair(id);
        }
        for id in known.unwrap_or_default() {
            let is_here = self.live.contains_key(&id) || self.ended.contains_key(&id) || self.loading.contains_key(&id);
            if !is_here {
                // It may have ended since the database was asked; reading it tells.
                self.load(id, None);
            }
        }
        metrics::stuck(self.index, repairs);
        if repairs > 0 {
            tracing::warn!(repairs, "executions were stuck, and were repaired");
            metrics::repaired(repairs as u64);
            self.shared.repaired.fetch_add(repairs as u64, Ordering::Relaxed);
        }
    }

    /// Answers how many things it repaired.
    fn repair(&mut self, id: ExecutionId) -> usize {
        let now = self.shared.now();
        let Some(live) = self.live.get(&id) else { return 0 };
        let is_late = live.execution.next_due().is_some_and(|due| due <= now);
        let is_asleep = live.execution.wakeups() == 0;
        let lost: Vec<_> =
            live.execution.tasks_out().into_iter().filter(|task| !live.tasks.contains_key(task)).collect();
        let stale: Vec<_> = live.tasks.keys().filter(|task| !live.execution.is_current(**task)).copied().collect();
        let orders: HashSet<_> = lost.iter().copied().collect();
        let owed = if orders.is_empty() { Vec::new() } else { live.execution.outstanding() };
        for task in stale {
            self.forget(id, task);
        }
        for effect in owed {
            if matches!(&effect, Effect::Dispatch(order) if orders.contains(&order.task)) {
                self.perform(id, effect);
            }
        }
        if is_asleep || is_late {
            // A tick is never refused once there is a first event.
            let _ = self.decide(id, Command::Tick);
        }
        lost.len() + usize::from(is_asleep)
    }
}
