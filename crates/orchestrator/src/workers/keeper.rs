//! Keeps the shards of this replica: renews their lease, shares them with the replicas that come and go, recovers what it
//! takes, and gives everything back at a stop.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::ExecutionId;
use futures::{StreamExt as _, stream};
use lifecycle::Shutdown;
use tokio::{sync::oneshot, time::Instant};

use super::{Fenced, Input, Shared, Workers};
use crate::{
    app::{Loaded, load},
    error::OrchestratorError,
    metrics,
    store::{Held, Replica},
};

/// How often the lease is renewed within its time, and the longest pause: what another gives back is to be taken soon.
const RENEWALS: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The keeper of a replica's shards.
pub(crate) struct Keeper {
    workers: Workers,
    replica: Replica,
    /// Epochs by shard, as the database gave them.
    held: BTreeMap<u32, i64>,
}

impl Keeper {
    pub(crate) const fn new(workers: Workers, replica: Replica) -> Self {
        Self { workers, replica, held: BTreeMap::new() }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.workers.shared()
    }

    /// Takes what there is for it, and recovers it: what a start waits for.
    pub(crate) async fn begin(&mut self) -> sqlx::Result<()> {
        let shared = Arc::clone(self.shared());
        let asked = Instant::now();
        let lease = shared.settings.lease;
        let replicas = shared.store.announce(&self.replica, lease).await?;
        let target = self.target(&replicas);
        let claimed = shared.store.claim(&self.replica.id, target, lease, shared.is_alone).await?;
        shared.holdings.renewed(asked, lease);
        self.take(claimed).await
    }

    /// Keeps them until the service ends. Where this process is said to be alone with its database, losing a shard ends it.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Fenced> {
        let period = (self.shared().settings.lease / RENEWALS).min(LONGEST_PAUSE);
        loop {
            let shared = Arc::clone(self.shared());
            // All arms are cancel-safe.
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = shared.holdings.doubt.notified() => {}
                () = shutdown.draining() => return Ok(()),
            }
            let kept = tokio::time::timeout(shared.settings.lease, self.keep());
            let kept = tokio::select! {
                kept = kept => kept,
                () = shutdown.draining() => return Ok(()),
            };
            match kept {
                Ok(Ok(lost)) if lost > 0 && shared.is_alone => return Err(Fenced),
                Ok(Ok(_)) => {}
                // A database that does not answer is no reason to stop: every append checks the epoch anyway (I2).
                Ok(Err(error)) => tracing::warn!(error = errors::chain(&error), "cannot renew the lease of the shards"),
                Err(_) => tracing::warn!("cannot renew the lease of the shards: the database does not answer"),
            }
        }
    }

    /// One round; answers how many shards were lost.
    async fn keep(&mut self) -> sqlx::Result<usize> {
        let shared = Arc::clone(self.shared());
        let lease = shared.settings.lease;
        let asked = Instant::now();
        let renewed = shared.store.renew(&self.replica.id, lease).await?;
        shared.holdings.renewed(asked, lease);
        let is_kept = |held: &Held| renewed.contains(held) && shared.holdings.epoch(held.shard) == held.epoch;
        let held = self.held.iter().map(|(shard, epoch)| Held { shard: *shard, epoch: *epoch });
        let lost: Vec<_> = held.filter(|held| !is_kept(held)).map(|held| held.shard).collect();
        if !lost.is_empty() {
            tracing::warn!(shards = lost.len(), "another replica has taken shards of this one");
            self.give_up(&lost, true).await;
        }
        // What the database says is ours and nobody here knows: a claim whose answer was lost.
        let unknown: Vec<_> = renewed.iter().filter(|held| !self.held.contains_key(&held.shard)).copied().collect();
        if !unknown.is_empty() {
            let unknown: Vec<_> = unknown.into_iter().map(|held| held.shard).collect();
            shared.store.release(&self.replica.id, &unknown).await?;
        }
        let replicas = shared.store.announce(&self.replica, lease).await?;
        let target = self.target(&replicas);
        if self.held.len() > target {
            let surplus: Vec<_> = self.held.keys().rev().take(self.held.len() - target).copied().collect();
            tracing::info!(shards = surplus.len(), replicas = replicas.len(), "handing shards over");
            self.give_up(&surplus, false).await;
            shared.store.release(&self.replica.id, &surplus).await?;
        } else if self.held.len() < target {
            let claimed = shared.store.claim(&self.replica.id, target - self.held.len(), lease, false).await?;
            self.take(claimed).await?;
        }
        metrics::shards(self.held.len());
        Ok(lost.len())
    }

    /// How many shards are its share. The first replicas in the order of ids have one more where it does not come out even.
    fn target(&self, replicas: &[Replica]) -> usize {
        let shards = self.shared().holdings.count();
        if self.shared().is_alone {
            return shards;
        }
        let place = replicas.iter().position(|replica| replica.id == self.replica.id).unwrap_or(0);
        let count = replicas.len().max(1);
        shards / count + usize::from(place < shards % count)
    }

    /// Recovers shards, then lets them be used (I4).
    async fn take(&mut self, claimed: Vec<Held>) -> sqlx::Result<()> {
        if claimed.is_empty() {
            return Ok(());
        }
        let shards: Vec<_> = claimed.iter().map(|held| held.shard).collect();
        self.held.extend(claimed.iter().map(|held| (held.shard, held.epoch)));
        let recovered = match recover(self.shared(), &shards).await {
            Ok(recovered) => recovered,
            Err(error) => {
                // They are nobody's until they are recovered: another may have more luck.
                self.held.retain(|shard, _| !shards.contains(shard));
                let _ = self.shared().store.release(&self.replica.id, &shards).await;
                return Err(error);
            }
        };
        tracing::info!(shards = shards.len(), executions = recovered.len(), "took shards over");
        self.workers.adopt(&claimed, recovered).await;
        Ok(())
    }

    /// Stops writing shards. On return nothing of them is in memory, and nothing of them is under way to the database.
    async fn give_up(&mut self, shards: &[u32], is_lost: bool) {
        for shard in shards {
            self.shared().holdings.clear(*shard);
            self.held.remove(shard);
        }
        self.workers.give_up(shards, is_lost).await;
    }
}

/// Rebuilds what has not ended (I4). A log that cannot be read keeps nobody else from starting: it is logged, and shows as
/// stuck.
async fn recover(shared: &Shared, shards: &[u32]) -> sqlx::Result<Vec<(ExecutionId, Loaded)>> {
    /// Logs that are read at once.
    const AT_ONCE: usize = 4;
    let ids = shared.store.live(shards).await?;
    let reads = ids.into_iter().map(|id| async move { (id, load(shared.store.as_ref(), &shared.plans, id).await) });
    let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
    let mut recovered = Vec::new();
    while let Some((id, loaded)) = reads.next().await {
        match loaded {
            Ok(Some(loaded)) => recovered.push((id, loaded)),
            Ok(None) => tracing::error!(execution.id = %id, "an execution has no log"),
            Err(OrchestratorError::Database(error)) => return Err(error),
            Err(error) => {
                tracing::error!(error = errors::chain(&error), execution.id = %id, "an execution cannot be recovered");
            }
        }
    }
    Ok(recovered)
}

impl Workers {
    /// Hands shards and their recovered executions to the workers.
    async fn adopt(&self, claimed: &[Held], recovered: Vec<(ExecutionId, Loaded)>) {
        let mut shares: Vec<(Vec<_>, Vec<_>)> = self.inputs.iter().map(|_| Default::default()).collect();
        for held in claimed {
            shares[self.worker_of(held.shard)].0.push(*held);
        }
        for (id, loaded) in recovered {
            shares[self.index(id)].1.push((id, loaded));
        }
        for (worker, (held, recovered)) in self.inputs.iter().zip(shares) {
            // A worker that has stopped is one of a service that stops.
            let _ = worker.send(Input::Adopt { held, recovered }).await;
        }
    }

    /// Takes shards from the workers, and waits until they have nothing of them any more.
    async fn give_up(&self, shards: &[u32], is_lost: bool) {
        let mut waits = Vec::new();
        for worker in self.inputs.iter() {
            let (done, wait) = oneshot::channel();
            let _ = worker.send(Input::GiveUp { shards: shards.into(), is_lost, done }).await;
            waits.push(wait);
        }
        for wait in waits {
            let _ = wait.await;
        }
    }
}
