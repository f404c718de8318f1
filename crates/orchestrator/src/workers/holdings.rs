//! Which shards this replica may write, as everybody in it sees it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use domain::ExecutionId;
use tokio::{sync::Notify, time::Instant};

use crate::store::Held;

/// The epoch of each shard that is held.
///
/// It says what the database said last. That a shard is held here and not any more there is found by the next append, which
/// checks the epoch (I2).
#[derive(Debug)]
pub(crate) struct Holdings {
    /// By shard; zero where it is not held, negative where it is and its executions are on their way into memory.
    epochs: Box<[AtomicI64]>,
    /// When the lease ends by this machine's steady clock, which runs on while the process is stopped; none before the first.
    ends: Mutex<Option<Instant>>,
    /// An append was fenced off: the keeper is to look at once.
    pub(super) doubt: Notify,
    /// The lease was renewed after it had ended: what was to be said meanwhile was not, see [`Self::may_speak_of`].
    pub(crate) regained: Notify,
}

impl Holdings {
    pub(crate) fn new(shards: u32) -> Self {
        let epochs = (0..shards).map(|_| AtomicI64::new(0)).collect();
        Self { epochs, ends: Mutex::new(None), doubt: Notify::new(), regained: Notify::new() }
    }

    /// The shard of an execution.
    pub(crate) fn shard(&self, id: ExecutionId) -> u32 {
        // FNV-1a: fixed for ever, since it decides who may write.
        let hash = id.to_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        (hash % self.epochs.len().max(1) as u64) as u32
    }

    pub(crate) fn count(&self) -> usize {
        self.epochs.len()
    }

    /// All that are held.
    pub(crate) fn shards(&self) -> Vec<u32> {
        (0..).zip(&self.epochs).filter(|(_, epoch)| epoch.load(Ordering::Acquire) > 0).map(|(shard, _)| shard).collect()
    }

    /// How many replicas share the shards, judging by how many are held here; at least one.
    pub(super) fn replicas(&self) -> usize {
        let held = self.epochs.iter().filter(|epoch| epoch.load(Ordering::Relaxed) > 0).count().max(1);
        (self.epochs.len() + held / 2).max(held) / held
    }

    /// Under which epoch the shard of an execution is held.
    pub(crate) fn held(&self, id: ExecutionId) -> Option<Held> {
        let shard = self.shard(id);
        let epoch = self.epochs.get(shard as usize)?.load(Ordering::Acquire);
        (epoch > 0).then_some(Held { shard, epoch })
    }

    /// Under which epoch it is held, where the lease has not ended meanwhile: a process that was stopped finds out before it
    /// speaks.
    pub(crate) fn may_speak_of(&self, id: ExecutionId) -> Option<i64> {
        let held = self.held(id)?;
        let ends = *self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.is_some_and(|ends| Instant::now() < ends).then_some(held.epoch)
    }

    fn set(&self, held: Held) {
        if let Some(epoch) = self.epochs.get(held.shard as usize) {
            epoch.store(held.epoch, Ordering::Release);
        }
    }

    pub(super) fn clear(&self, shard: u32) {
        self.set(Held { shard, epoch: 0 });
    }

    /// An append of this shard was fenced off.
    pub(super) fn fenced(&self, shard: u32) {
        self.clear(shard);
        self.doubt.notify_one();
    }

    /// A worker is about to take this shard; until then nobody may write it.
    pub(super) fn expect(&self, held: Held) {
        self.set(Held { epoch: -held.epoch, ..held });
    }

    /// An expected shard's executions are about to be in memory, and it is written from now on. Not where it was given up
    /// meanwhile.
    pub(super) fn adopt(&self, held: Held) {
        if let Some(epoch) = self.epochs.get(held.shard as usize) {
            // What is not expected any more is on its way out: its executions are dropped as they come.
            let _ = epoch.compare_exchange(-held.epoch, held.epoch, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// The epoch of a shard that is held or expected; zero where no append may succeed, or none has.
    pub(super) fn epoch(&self, shard: u32) -> i64 {
        self.epochs.get(shard as usize).map_or(0, |epoch| epoch.load(Ordering::Acquire).abs())
    }

    /// The lease was asked for at `asked`, and given.
    pub(super) fn renewed(&self, asked: Instant, lease: Duration) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: whoever found the lease ended before this was silent, and is heard of now.
        let had_ended = ends.is_some_and(|ends| ends <= Instant::now());
        *ends = Some(asked + lease);
        if had_ended {
            self.regained.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::{ExecutionId, SystemClock};
    use futures::FutureExt as _;

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    #[test]
    fn an_expected_shard_is_written_once_it_is_in_memory_and_not_where_it_was_given_up() {
        let holdings = Holdings::new(1);
        let (id, held) = (ExecutionId::generate(&SystemClock), Held { shard: 0, epoch: 3 });
        holdings.expect(held);
        assert_eq!((holdings.held(id), holdings.epoch(0), holdings.shards()), (None, 3, vec![]));
        holdings.adopt(held);
        assert_eq!((holdings.held(id), holdings.epoch(0)), (Some(held), 3));
        holdings.expect(held);
        holdings.clear(0);
        holdings.adopt(held);
        assert_eq!((holdings.held(id), holdings.epoch(0)), (None, 0));
    }

    #[test]
    fn the_share_that_is_held_says_how_many_others_there_are() {
        let holdings = Holdings::new(64);
        for (held, replicas) in [(64, 1), (32, 2), (22, 3), (21, 3), (16, 4), (0, 64)] {
            (0..64).for_each(|shard| holdings.set(Held { shard, epoch: i64::from(shard < held) }));
            assert_eq!(holdings.replicas(), replicas, "{held} are held");
        }
    }

    #[test]
    fn who_was_silent_for_lack_of_a_lease_hears_that_it_is_back() {
        let holdings = Holdings::new(1);
        let heard = || holdings.regained.notified().now_or_never().is_some();
        let id = ExecutionId::generate(&SystemClock);
        holdings.set(Held { shard: 0, epoch: 3 });
        assert_eq!(holdings.may_speak_of(id), None, "no lease yet");

        let now = Instant::now();
        holdings.renewed(now, LEASE);
        assert_eq!(holdings.may_speak_of(id), Some(3));
        holdings.renewed(now, LEASE);
        assert!(!heard(), "it never ended");

        let long_ago = now.checked_sub(LEASE * 2).expect("the machine is up for longer than that");
        holdings.renewed(long_ago, LEASE);
        assert_eq!(holdings.may_speak_of(id), None, "it has ended");
        holdings.renewed(Instant::now(), LEASE);
        assert_eq!(holdings.may_speak_of(id), Some(3));
        assert!(heard(), "what was not said is to be said");
    }
}
