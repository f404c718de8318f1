//! Locks that executions share, as the worker of an execution sees them.
//!
//! Every wait has a number, and a grant counts for the wait for which it was asked. What is asked for and given back goes to
//! the keeper of locks in one line, after the commit of what wants it: so a lock that was given back is not taken for one that
//! was asked for after that.

use domain::ExecutionId;
use tokio::sync::mpsc;
use workflow::{Command, Effect, Holder, Lock};

use super::{lock_keeper::Numbered, worker::Worker};
use crate::store::{Deed, Held, LockKey, LockOrder, LockRow};

/// A wait for a lock.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    number: u64,
    lock: Lock,
}

impl Worker {
    /// Notes who waits for a lock, and makes the order for it; nothing for any other effect.
    pub(super) fn note_lock(&mut self, id: ExecutionId, effect: &Effect) -> Option<Numbered> {
        match effect {
            Effect::Acquire { holder, lock } => {
                self.waits += 1;
                let number = self.waits;
                if let Some(live) = self.live.get_mut(&id) {
                    live.locks.insert(*holder, Waiting { number, lock: lock.clone() });
                }
                self.acquire(id, *holder, number, lock)
            }
            Effect::Release { holder, lock } => {
                let live = self.live.get_mut(&id)?;
                if live.locks.get(holder).is_some_and(|waiting| waiting.lock == *lock) {
                    live.locks.remove(holder);
                }
                let key = LockKey::new(live.execution.namespace()?, lock);
                self.release_order(id, *holder, key)
            }
            Effect::Dispatch(_)
            | Effect::Withdraw { .. }
            | Effect::Run(_)
            | Effect::CancelChild { .. }
            | Effect::FindVoters { .. }
            | Effect::Ended => None,
        }
    }

    fn acquire(&self, id: ExecutionId, holder: Holder, number: u64, lock: &Lock) -> Option<Numbered> {
        let live = self.live.get(&id)?;
        let key = LockKey::new(live.execution.namespace()?, lock);
        let deed = Deed::Acquire { name: lock.name.clone(), most: lock.limit, at: self.shared.now() };
        Some(Numbered { number, order: LockOrder { execution: id, holder, key, held: live.held, deed } })
    }

    fn release_order(&self, id: ExecutionId, holder: Holder, key: LockKey) -> Option<Numbered> {
        let held: Held = self.shared.holdings.held(id)?;
        Some(Numbered { number: 0, order: LockOrder { execution: id, holder, key, held, deed: Deed::Release } })
    }

    /// Hands orders to the keeper, as far as it has room: for one it has.
    pub(super) fn order_locks(&mut self, permit: mpsc::Permit<'_, Numbered>, keeper: &mpsc::Sender<Numbered>) {
        let Some(first) = self.lock_orders.pop_front() else { return };
        permit.send(first);
        while let Some(order) = self.lock_orders.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(order)) = keeper.try_send(order) {
                return self.lock_orders.push_front(order);
            }
        }
    }

    /// Asks again for every lock that an execution waits for: behind what waits for its commit. That may give the same lock back,
    /// and would take it from whoever was answered before that.
    pub(super) fn review(&mut self, id: ExecutionId) {
        let Some(live) = self.live.get(&id) else { return };
        let is_committed = live.pending == 0;
        let waiting = live.locks.iter().map(|(holder, waiting)| (*holder, waiting.clone())).collect::<Vec<_>>();
        for (holder, Waiting { number, lock }) in waiting {
            let order = self.acquire(id, holder, number, &lock);
            if is_committed {
                self.lock_orders.extend(order);
            } else {
                self.open.share(id).locks.extend(order);
            }
        }
    }

    /// The lock was given to the wait with this number.
    pub(super) fn granted(&mut self, id: ExecutionId, holder: Holder, number: u64) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if live.locks.get(&holder).is_some_and(|waiting| waiting.number == number) {
            live.locks.remove(&holder);
            // A grant is never refused, only dropped.
            let _ = self.decide(id, Command::Granted { holder });
        }
    }

    /// What the database says of locks: gives back what nobody holds any more, and asks again for what was given and not heard
    /// of. What waits for a commit is not known to either yet.
    pub(super) fn compare_locks(&mut self, rows: Vec<LockRow>) {
        for LockRow { execution: id, holder, key, is_granted, has_ended, .. } in rows {
            let is_lost = match self.live.get(&id) {
                Some(live) if live.pending > 0 => false,
                Some(live) if live.wants(holder, key) => {
                    if is_granted && live.locks.contains_key(&holder) {
                        self.review(id);
                    }
                    false
                }
                Some(_) => true,
                // It was read before its execution went on, or is being read.
                None => has_ended && !self.loading.contains_key(&id),
            };
            if is_lost && self.writes(id) {
                let order = self.release_order(id, holder, key);
                self.lock_orders.extend(order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::{Payload, SignalId};
    use serde_json::json;

    use super::*;
    use crate::workers::bench::{commit, shared, worker};

    fn orders(worker: &mut Worker) -> Vec<(u64, bool)> {
        worker.lock_orders.drain(..).map(|ordered| (ordered.number, ordered.order.is_acquire())).collect()
    }

    #[tokio::test]
    async fn who_looks_at_a_lock_while_it_is_being_given_back_asks_for_it_after_that() {
        let directory = tempfile::tempdir().unwrap();
        let definition = json!({ "name": "keyed", "config": { "concurrency_key": "one" }, "steps": [
            { "id": "wait", "signal": { "name": "go" } },
            { "id": "end", "depends_on": ["wait"],
              "end": { "status": "failed", "error": { "code": "asked_for", "message": "as asked" } } },
        ] });
        let (mut worker, id) = worker(&shared(directory.path()).await, &definition).await;
        assert_eq!(orders(&mut worker), [(1, true)]);
        worker.granted(id, Holder::Execution, 1);
        commit(&mut worker).await;

        let signal = Command::Signal {
            id: SignalId::from_parts(1, 1),
            name: "go".to_owned(),
            payload: Payload::null(),
            sender: String::new(),
        };
        worker.decide(id, signal).unwrap();
        worker.decide(id, Command::Retry { lost: None }).unwrap();
        // Before the commit the database says still that it has the lock.
        worker.review(id);
        assert_eq!(orders(&mut worker), []);
        commit(&mut worker).await;
        assert_eq!(orders(&mut worker), [(0, false), (2, true), (2, true)]);
        // Of what is committed it asks at once.
        worker.review(id);
        assert_eq!(orders(&mut worker), [(2, true)]);
    }
}
