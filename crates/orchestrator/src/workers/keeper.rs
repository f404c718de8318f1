//! Keeps the shards of this replica: renews their lease, shares them with the replicas that come and go, recovers what it
//! takes, and gives everything back at a stop.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::ExecutionId;
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use lifecycle::{Shutdown, crash_point};
use tokio::{sync::oneshot, time::Instant};

use super::{Fenced, Input, Shared, Workers};
use crate::{
    app::{Loaded, load_all},
    error::{OrchestratorError, StartError},
    hash::{HashMap, HashSet},
    metrics,
    store::{Held, Replica},
};

/// How often the lease is renewed within its time, and the longest pause: what another gives back is to be taken soon.
const RENEWALS: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Of all shards, those that are taken over at once, as one part in so many: each part serves as soon as it is read.
const PARTS: usize = 8;

/// The keeper of a replica's shards.
///
/// Reading what has not ended may take longer than a lease; meanwhile the lease is renewed, of what is read and what is served.
pub(crate) struct Keeper {
    workers: Workers,
    replica: Replica,
    /// Drains before the keeper is to end: from then on others are to have the shards.
    edge: Shutdown,
    /// Epochs by shard, as the database gave them, of those that are served.
    held: BTreeMap<u32, i64>,
    recovering: Option<Recovering>,
    /// Shards that workers are letting go of: until they have nothing of them any more this replica takes no others, which
    /// could be the same ones.
    leaving: HashMap<u32, Instant>,
    departures: FuturesUnordered<BoxFuture<'static, Arc<[u32]>>>,
}

/// Shards that are held, and whose executions are being read.
struct Recovering {
    shards: Vec<Held>,
    recovered: BoxFuture<'static, Result<Vec<(ExecutionId, Loaded)>, OrchestratorError>>,
}

impl Keeper {
    pub(crate) fn new(workers: Workers, replica: Replica, edge: Shutdown) -> Self {
        let (leaving, departures) = (HashMap::default(), FuturesUnordered::new());
        Self { workers, replica, edge, held: BTreeMap::new(), recovering: None, leaving, departures }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.workers.shared()
    }

    fn period(&self) -> Duration {
        (self.shared().settings.lease / RENEWALS).min(LONGEST_PAUSE)
    }

    /// Takes what there is for it, and recovers it: what a start waits for. Where that fails, no others are to count on it.
    pub(crate) async fn begin(&mut self) -> Result<(), StartError> {
        let begun = self.take_first().await;
        if begun.is_err() {
            // What it has announced ends by itself.
            let _ = self.shared().store.leave(&self.replica.id).await;
        }
        begun
    }

    async fn take_first(&mut self) -> Result<(), StartError> {
        self.keep(self.shared().is_alone).await?;
        while self.recovering.is_some() {
            let period = self.period();
            // All arms are cancel-safe.
            tokio::select! {
                biased;
                recovered = recovered(&mut self.recovering) => self.adopt(recovered).await.map_err(|error| StartError::Unread(error.into()))?,
                () = tokio::time::sleep(period) => {}
            }
            self.keep(false).await?;
        }
        Ok(())
    }

    /// Keeps them until the service ends. Where this process is said to be alone with its database, losing a shard ends it.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Fenced> {
        let edge = self.edge.clone();
        let mut is_told = false;
        loop {
            let (shared, period) = (Arc::clone(self.shared()), self.period());
            // All arms are cancel-safe.
            tokio::select! {
                biased;
                () = shutdown.draining() => return Ok(()),
                () = edge.draining(), if !is_told => is_told = true,
                () = tokio::time::sleep(period) => {}
                () = shared.holdings.doubt.notified() => {}
                Some(gone) = self.departures.next(), if !self.departures.is_empty() => self.gone(&gone),
                recovered = recovered(&mut self.recovering) => {
                    if let Err(error) = self.adopt(recovered).await {
                        tracing::warn!(error = errors::chain(&error), "cannot read what has not ended in shards; others may");
                        continue;
                    }
                }
            }
            let kept = tokio::time::timeout(shared.settings.lease, self.keep(false));
            let kept = tokio::select! {
                biased;
                () = shutdown.draining() => return Ok(()),
                kept = kept => kept,
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

    /// One round; answers how many shards were lost. `take_over`: also those that others hold.
    async fn keep(&mut self, take_over: bool) -> sqlx::Result<usize> {
        let shared = Arc::clone(self.shared());
        let lease = shared.settings.lease;
        let asked = Instant::now();
        let renewed = shared.store.renew(&self.replica.id, lease).await?;
        shared.holdings.renewed(asked, lease);
        let lost = self.compare(&renewed);
        self.return_unknown(&renewed).await?;
        let is_going = self.edge.is_draining();
        // Nobody counts on a replica that goes.
        let lives = if is_going { Duration::ZERO } else { lease };
        let replicas = shared.store.announce(&self.replica, lives).await?;
        let target = self.target(&replicas);
        let recovering = self.recovering.as_ref().map_or(0, |recovering| recovering.shards.len());
        if is_going && target == 0 {
            self.give_all_up();
        } else if self.held.len() > target {
            self.hand_over(self.held.len() - target, replicas.len()).await?;
        } else if self.held.len() < target && recovering == 0 && self.leaving.is_empty() {
            let part = if take_over { target } else { shared.holdings.count().div_ceil(PARTS) };
            let most = part.min(target - self.held.len());
            let claimed = shared.store.claim(&self.replica.id, most, lease, take_over).await?;
            crash_point("orchestrator.takeover.claimed");
            self.recover(claimed);
        }
        metrics::shards(self.held.len());
        Ok(lost)
    }

    /// Gives up some of the surplus. While shards are nobody's, those who lack some are to take these first: who is late to
    /// take them, or never does, leaves no more than a part of all unserved.
    async fn hand_over(&mut self, surplus: usize, replicas: usize) -> sqlx::Result<()> {
        let shared = Arc::clone(self.shared());
        let owned = shared.store.owners().await?.len();
        let free = shared.holdings.count().saturating_sub(owned) + self.leaving.len();
        let part = shared.holdings.count().div_ceil(PARTS);
        let given: Vec<_> = self.held.keys().rev().take(surplus.min(part).saturating_sub(free)).copied().collect();
        if !given.is_empty() {
            tracing::info!(shards = given.len(), replicas, "handing shards over");
            self.give_up(&given, false);
        }
        Ok(())
    }

    /// Gives up everything, for others who live.
    fn give_all_up(&mut self) {
        let all: Vec<_> = self.held.keys().copied().collect();
        if !all.is_empty() {
            tracing::info!(shards = all.len(), "handing all shards over");
            self.give_up(&all, false);
        }
    }

    /// Gives up what the database does not say is ours; answers how many that were.
    fn compare(&mut self, renewed: &[Held]) -> usize {
        let shared = Arc::clone(self.shared());
        let is_kept = |held: &Held| renewed.contains(held) && shared.holdings.epoch(held.shard) == held.epoch;
        let held = self.held.iter().map(|(shard, epoch)| Held { shard: *shard, epoch: *epoch });
        let lost: Vec<_> = held.filter(|held| !is_kept(held)).map(|held| held.shard).collect();
        if let Some(recovering) = &mut self.recovering {
            recovering.shards.retain(|held| renewed.contains(held));
        }
        if !lost.is_empty() {
            tracing::warn!(shards = lost.len(), "another replica has taken shards of this one");
            self.give_up(&lost, true);
        }
        lost.len()
    }

    /// Gives back what the database says is ours, and nobody here has: what workers have let go of, and a claim whose answer
    /// was lost. Nor are others to wait for long while something is under way that does not end: once the shard is given back,
    /// it is fenced off.
    async fn return_unknown(&mut self, renewed: &[Held]) -> sqlx::Result<()> {
        let recovering = self.recovering.iter().flat_map(|recovering| &recovering.shards).map(|held| held.shard);
        let patience = self.period();
        let leaving = self.leaving.iter().filter(|(_, since)| since.elapsed() < patience).map(|(shard, _)| *shard);
        let known: HashSet<_> = recovering.chain(self.held.keys().copied()).chain(leaving).collect();
        let unknown: Vec<_> = renewed.iter().map(|held| held.shard).filter(|shard| !known.contains(shard)).collect();
        if !unknown.is_empty() {
            self.shared().store.release(&self.replica.id, &unknown).await?;
            crash_point("orchestrator.handover.after");
        }
        Ok(())
    }

    /// How many shards are its share, among those who live. The first replicas in the order of ids have one more where it does
    /// not come out even. One that goes has none, unless nobody else is there: then it serves until it has gone.
    fn target(&self, replicas: &[Replica]) -> usize {
        let shards = self.shared().holdings.count();
        if self.shared().is_alone {
            return shards;
        }
        let place = match replicas.iter().position(|replica| replica.id == self.replica.id) {
            Some(place) => place,
            None if self.edge.is_draining() && !replicas.is_empty() => return 0,
            None => 0,
        };
        let count = replicas.len().max(1);
        shards / count + usize::from(place < shards % count)
    }

    /// Begins to read what has not ended in shards, which are used when that is done (I4).
    fn recover(&mut self, shards: Vec<Held>) {
        if shards.is_empty() {
            return;
        }
        let (shared, numbers) = (Arc::clone(self.shared()), shards.iter().map(|held| held.shard).collect::<Vec<_>>());
        let recovered = async move { recover(&shared, &numbers).await }.boxed();
        self.recovering = Some(Recovering { shards, recovered });
    }

    /// Lets shards be used that were read, as far as they are still held.
    async fn adopt(
        &mut self,
        recovered: Result<Vec<(ExecutionId, Loaded)>, OrchestratorError>,
    ) -> Result<(), OrchestratorError> {
        let Some(Recovering { shards, .. }) = self.recovering.take() else { return Ok(()) };
        let numbers: Vec<_> = shards.iter().map(|held| held.shard).collect();
        let mut recovered = match recovered {
            Ok(recovered) => recovered,
            Err(error) => {
                // They are nobody's until they are recovered: another may have more luck.
                let _ = self.shared().store.release(&self.replica.id, &numbers).await;
                return Err(error);
            }
        };
        recovered.retain(|(id, _)| numbers.contains(&self.shared().holdings.shard(*id)));
        crash_point("orchestrator.takeover.read");
        tracing::info!(shards = shards.len(), executions = recovered.len(), "took shards over");
        for held in &shards {
            self.held.insert(held.shard, held.epoch);
            self.shared().holdings.expect(*held);
        }
        self.workers.adopt(&shards, recovered).await;
        crash_point("orchestrator.takeover.done");
        Ok(())
    }

    /// Stops writing shards. They are [`Self::gone`] when nothing of them is in memory, and nothing of them is under way to the
    /// database; a slow commit keeps nothing else up meanwhile, the lease least of all.
    fn give_up(&mut self, shards: &[u32], is_lost: bool) {
        for shard in shards {
            self.shared().holdings.clear(*shard);
            self.held.remove(shard);
        }
        let now = Instant::now();
        self.leaving.extend(shards.iter().map(|shard| (*shard, now)));
        let (workers, shards) = (self.workers.clone(), Arc::<[u32]>::from(shards));
        self.departures.push(async move { workers.give_up(shards, is_lost).await }.boxed());
    }

    /// Workers have let go of shards; the next round gives back those that are still ours.
    fn gone(&mut self, shards: &[u32]) {
        crash_point("orchestrator.handover.before");
        for shard in shards {
            self.leaving.remove(shard);
        }
    }
}

/// What was read, when it is; never where nothing is being read. Cancel-safe.
async fn recovered(recovering: &mut Option<Recovering>) -> Result<Vec<(ExecutionId, Loaded)>, OrchestratorError> {
    match recovering {
        Some(recovering) => (&mut recovering.recovered).await,
        None => std::future::pending().await,
    }
}

/// Rebuilds what has not ended (I4). A log that cannot be read keeps nobody else from starting: it is logged, and shows as
/// stuck. Where it may be read a moment later, nothing is rebuilt: what is not in memory counts as ended.
async fn recover(shared: &Shared, shards: &[u32]) -> Result<Vec<(ExecutionId, Loaded)>, OrchestratorError> {
    /// Logs of one read, and reads at once.
    const TOGETHER: usize = 256;
    const AT_ONCE: usize = 2;
    let ids = shared.store.live(shards).await?;
    let reads: Vec<_> = ids.chunks(TOGETHER).map(|ids| load_all(shared.store.as_ref(), &shared.plans, ids)).collect();
    let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
    let mut recovered = Vec::with_capacity(ids.len());
    while let Some(loaded) = reads.next().await {
        for (id, loaded) in loaded {
            match loaded {
                Ok(Some(loaded)) => recovered.push((id, loaded)),
                Ok(None) => tracing::error!(execution.id = %id, "an execution has no log"),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::error!(error = errors::chain(&error), execution.id = %id, "an execution cannot be recovered");
                }
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
    async fn give_up(&self, shards: Arc<[u32]>, is_lost: bool) -> Arc<[u32]> {
        let mut waits = Vec::new();
        for worker in self.inputs.iter() {
            let (done, wait) = oneshot::channel();
            let _ = worker.send(Input::GiveUp { shards: Arc::clone(&shards), is_lost, done }).await;
            waits.push(wait);
        }
        for wait in waits {
            let _ = wait.await;
        }
        shards
    }
}
