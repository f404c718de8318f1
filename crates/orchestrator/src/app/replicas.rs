//! The other replicas: which of them writes a shard, and the way there.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use contracts::Link;
use tokio::time::Instant;

use crate::{
    hash::HashMap,
    store::{Replica, Store},
};

/// Makes a link to the gRPC of another replica, given its `host:port`.
pub type Connect = Arc<dyn Fn(&str) -> Link + Send + Sync>;

/// How this replica takes part in a cluster.
#[derive(Clone)]
pub struct Cluster {
    /// `host:port` at which the other replicas reach it.
    pub address: String,
    /// The way to them.
    pub connect: Connect,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cluster").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What is known of the other replicas.
pub(crate) struct Replicas {
    store: Arc<dyn Store>,
    /// This replica.
    own: String,
    /// Absent where there are no others.
    connect: Option<Connect>,
    known: Mutex<Known>,
    /// One read of the owners is enough for all who want to know.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    read_at: Option<Instant>,
    owners: HashMap<u32, Replica>,
    links: HashMap<String, Link>,
}

/// How long what was read is believed: a wrong guess costs one call more.
const BELIEVED: Duration = Duration::from_millis(200);

impl Replicas {
    pub(crate) fn new(store: Arc<dyn Store>, own: String, connect: Option<Connect>) -> Self {
        Self { store, own, connect, known: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// The way to the replica that writes a shard; none where that is nobody, or this one.
    pub(crate) async fn owner(&self, shard: u32) -> sqlx::Result<Option<Link>> {
        if self.connect.is_none() {
            return Ok(None);
        }
        self.refresh().await?;
        let owner = self.known().owners.get(&shard).cloned();
        Ok(owner.filter(|owner| owner.id != self.own).and_then(|owner| self.link(&owner.address)))
    }

    /// The ways to all others that write something.
    pub(crate) async fn others(&self) -> sqlx::Result<Vec<Link>> {
        if self.connect.is_none() {
            return Ok(Vec::new());
        }
        self.refresh().await?;
        let mut addresses: Vec<_> = self
            .known()
            .owners
            .values()
            .filter(|owner| owner.id != self.own)
            .map(|owner| owner.address.clone())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses.iter().filter_map(|address| self.link(address)).collect())
    }

    fn is_believed(&self) -> bool {
        self.known().read_at.is_some_and(|at| at.elapsed() < BELIEVED)
    }

    async fn refresh(&self) -> sqlx::Result<()> {
        if self.is_believed() {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        if self.is_believed() {
            return Ok(());
        }
        let owners = self.store.owners().await?;
        let mut known = self.known();
        known.owners = owners.into_iter().map(|owner| (owner.shard, owner.replica)).collect();
        known.read_at = Some(Instant::now());
        let Known { owners, links, .. } = &mut *known;
        links.retain(|address, _| owners.values().any(|owner| owner.address == *address));
        Ok(())
    }

    fn link(&self, address: &str) -> Option<Link> {
        let connect = self.connect.as_ref()?;
        Some(self.known().links.entry(address.to_owned()).or_insert_with(|| connect(address)).clone())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
