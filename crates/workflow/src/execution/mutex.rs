//! Mutexes: who has one, who waits, and who would wait for ever.

use std::collections::{BTreeSet, VecDeque};

use super::state::State;
use crate::{Lock, LockKind, Unit};

/// A mutex of a unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held {
    pub(super) key: MutexKey,
    /// Or does it wait?
    pub(super) taken: bool,
    /// A block around it has it, so that it is shared among what is in there, and asked of nobody else.
    pub(super) nested: bool,
}

impl Held {
    /// Is it the shell that is asked for it?
    pub(super) fn is_outside(&self) -> bool {
        self.key.global && !self.nested
    }
}

/// Which mutex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MutexKey {
    /// Among all executions, or within this one.
    pub(super) global: bool,
    pub(super) name: String,
}

/// Who has a mutex within the execution.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Exclusion {
    /// The last has it; each of the others is a block around the next.
    pub(super) holders: Vec<Unit>,
    pub(super) waiting: VecDeque<Unit>,
    /// For whom the shell keeps it. That may have ended: what it shared the mutex with can outlive it, where a body of a loop
    /// left it to itself, and then the mutex is given back with the last of them.
    pub(super) kept_for: Option<Unit>,
}

/// The lock of a mutex that executions share.
pub(super) fn global_mutex(name: &str) -> Lock {
    Lock { kind: LockKind::Mutex, name: name.to_owned(), limit: 1 }
}

impl State {
    /// Whether a block around the unit has the mutex.
    pub(super) fn is_nested(&self, key: &MutexKey, unit: Unit) -> bool {
        let holders = self.mutexes.get(key).map(|mutex| mutex.holders.as_slice()).unwrap_or_default();
        holders.iter().any(|holder| self.is_around(*holder, unit))
    }

    /// May the unit take the mutex now, as far as this execution goes?
    pub(super) fn may_take(&self, mutex: &Exclusion, unit: Unit) -> bool {
        mutex.holders.last().is_none_or(|holder| self.is_around(*holder, unit))
    }

    /// Would each wait for the other if the unit waited for the mutex? A holder waits for what is inside it.
    pub(super) fn would_deadlock(&self, key: &MutexKey, unit: Unit) -> bool {
        let mut keys = vec![key];
        let mut seen = BTreeSet::new();
        while let Some(key) = keys.pop() {
            let Some(&holder) = self.mutexes.get(key).and_then(|mutex| mutex.holders.last()) else { continue };
            if !seen.insert(key) {
                continue;
            }
            for (other, mutex) in &self.mutexes {
                if mutex.waiting.iter().any(|waiting| self.is_around(holder, *waiting)) {
                    let holders = &mutex.holders;
                    if holders.last().is_some_and(|holder| *holder == unit || self.is_around(*holder, unit)) {
                        return true;
                    }
                    keys.push(other);
                }
            }
        }
        false
    }

    /// The mutex that the shell keeps for the unit.
    pub(super) fn kept_for(&self, unit: Unit) -> Option<&String> {
        let kept = self.mutexes.iter().find(|(_, mutex)| mutex.kept_for == Some(unit));
        kept.map(|(key, _)| &key.name)
    }
}
