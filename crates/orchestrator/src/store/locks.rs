//! Locks that executions share, as both databases keep them.

use domain::{ExecutionId, Namespace, Timestamp};
use workflow::{Holder, Lock, LockKind};

use super::{Held, unreadable};

/// Waiting holders of one key that one transaction looks at: with the next one the others get their turn.
pub(super) const GRANTED_AT_ONCE: i64 = 256;

/// Which lock: a hash of what says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LockKey([u8; 32]);

impl LockKey {
    pub(crate) fn new(namespace: &Namespace, lock: &Lock) -> Self {
        let kind: &[u8] = match lock.kind {
            LockKind::Turn => b"/turn/",
            LockKind::Mutex => b"/mutex/",
        };
        let mut hasher = blake3::Hasher::new();
        // A namespace has no slash in it.
        hasher.update(namespace.as_str().as_bytes()).update(kind).update(lock.name.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    pub(super) fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }

    pub(super) fn read(bytes: &[u8]) -> sqlx::Result<Self> {
        bytes.try_into().map(Self).map_err(|_| unreadable("key"))
    }

    /// The advisory lock under which its rows are changed.
    pub(super) fn advisory(self) -> i64 {
        self.0[..8].iter().fold(0, |number, byte| (number << 8) | i64::from(*byte))
    }
}

impl std::fmt::Debug for LockKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:016x}", self.advisory())
    }
}

/// Something to do with a lock.
#[derive(Clone, Debug)]
pub(crate) struct LockOrder {
    pub(crate) execution: ExecutionId,
    pub(crate) holder: Holder,
    pub(crate) key: LockKey,
    /// The shard of the execution: where it is another's by now, nothing is done.
    pub(crate) held: Held,
    pub(crate) deed: Deed,
}

/// What to do with a lock.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// Stand in its queue. Who does, or has it, stays where it is.
    Acquire { name: String, most: u32, at: Timestamp },
    /// Give it back, or the place in its queue.
    Release,
}

impl LockOrder {
    pub(crate) fn is_acquire(&self) -> bool {
        matches!(self.deed, Deed::Acquire { .. })
    }
}

/// A name as a column for people has it.
pub(super) fn shown(name: &str) -> String {
    /// More is nothing that anybody reads.
    const MOST: usize = 200;
    name.chars().filter(|letter| *letter != '\0').take(MOST).collect()
}

/// Orders in rounds, in each of which a holder has at most one: what comes later is done later.
pub(super) fn rounds<'a>(orders: &[&'a LockOrder]) -> Vec<Vec<&'a LockOrder>> {
    let mut rounds: Vec<Vec<&LockOrder>> = Vec::new();
    let mut seen: crate::hash::HashMap<_, usize> = crate::hash::HashMap::default();
    for order in orders {
        let round = seen.entry((order.execution, order.holder, order.key)).or_default();
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        rounds[*round].push(order);
        *round += 1;
    }
    rounds
}

/// A holder of a lock, or one that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockRow {
    pub(crate) ticket: i64,
    pub(crate) execution: ExecutionId,
    pub(crate) holder: Holder,
    pub(crate) key: LockKey,
    pub(crate) is_granted: bool,
    /// Has its execution ended?
    pub(crate) has_ended: bool,
}

/// Who has a lock now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Of those that asked for it in these orders.
    pub(crate) asked: Vec<(ExecutionId, Holder, LockKey)>,
    /// Executions that waited for it since earlier.
    pub(crate) others: Vec<ExecutionId>,
}

impl Granted {
    /// `woken`: everybody who has just got it. Whoever asked for one lock may have waited for another.
    pub(crate) fn new(
        asked: Vec<(ExecutionId, Holder, LockKey)>,
        mut woken: Vec<(ExecutionId, Holder, LockKey)>,
    ) -> Self {
        let answered: crate::hash::HashSet<_> = asked.iter().copied().collect();
        woken.retain(|holder| !answered.contains(holder));
        Self { asked, others: woken.into_iter().map(|(id, ..)| id).collect() }
    }
}

/// A holder as the tables keep it.
pub(super) fn holder_text(holder: Holder) -> String {
    serde_json::to_string(&holder).unwrap_or_default()
}

pub(super) fn holder_of(text: &str) -> sqlx::Result<Holder> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
