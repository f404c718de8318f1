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
    /// By shard; zero where it is not held.
    epochs: Box<[AtomicI64]>,
    /// When the lease ends by this machine's steady clock, which runs on while the process is stopped.
    ends: Mutex<Instant>,
    /// An append was fenced off: the keeper is to look at once.
    pub(super) doubt: Notify,
}

impl Holdings {
    pub(crate) fn new(shards: u32) -> Self {
        let epochs = (0..shards).map(|_| AtomicI64::new(0)).collect();
        Self { epochs, ends: Mutex::new(Instant::now()), doubt: Notify::new() }
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
        (Instant::now() < *self.ends.lock().unwrap_or_else(PoisonError::into_inner)).then_some(held.epoch)
    }

    pub(super) fn set(&self, held: Held) {
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

    pub(super) fn epoch(&self, shard: u32) -> i64 {
        self.epochs.get(shard as usize).map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    /// The lease was asked for at `asked`, and given.
    pub(super) fn renewed(&self, asked: Instant, lease: Duration) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = asked + lease;
    }
}
