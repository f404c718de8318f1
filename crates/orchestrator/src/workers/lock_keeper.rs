//! Keeps locks that executions share in the database: does what workers order, in their order, as many orders at once as wait.
//!
//! An order is done again until it is done, or its shard is another's. Who has got a lock is told: the worker that asked, and
//! whoever writes an execution that has waited. That one is told only to look, which is asking again: what it hears then is
//! about the wait that it asks for, and not about one that is over.

use std::{convert::Infallible, sync::Arc, time::Duration};

use lifecycle::{Shutdown, crash_point};
use tokio::sync::mpsc;

use super::{Chore, Input, Shared, Workers};
use crate::{
    hash::HashSet,
    store::{Granted, LockOrder},
};

/// Orders that may wait; beyond it workers keep them.
pub(super) const QUEUE: usize = 1_024;
/// Orders of one transaction. With SQLite it holds commits up for as long as it takes.
const MOST: usize = 64;
/// Before orders that have failed are done again.
const AGAIN: Duration = Duration::from_millis(250);

/// An order, and of which wait it is.
#[derive(Debug)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) order: LockOrder,
}

/// Does orders until all workers have ended.
pub(super) async fn run(
    workers: Workers,
    mut orders: mpsc::Receiver<Numbered>,
    chores: mpsc::Sender<Chore>,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let mut waiting = Vec::with_capacity(MOST);
    while orders.recv_many(&mut waiting, MOST).await > 0 {
        let (numbers, orders): (Vec<_>, Vec<_>) = waiting.drain(..).map(|next| (next.number, next.order)).unzip();
        let granted = insist(&workers.shared, &orders, &shutdown).await;
        tell(&workers, &chores, &numbers, &orders, granted).await;
    }
    Ok(())
}

/// Has them done, together or, where the database refuses some of them, one by one without those.
async fn insist(shared: &Arc<Shared>, orders: &[LockOrder], shutdown: &Shutdown) -> Granted {
    let mut granted = Granted::default();
    let mut parts: Vec<&[LockOrder]> = vec![orders];
    while let Some(part) = parts.pop() {
        crash_point("orchestrator.lock.before");
        let changed = shared.store.change_locks(&shared.owner, part).await;
        crash_point("orchestrator.lock.after");
        match changed {
            Ok(done) => {
                granted.asked.extend(done.asked);
                granted.others.extend(done.others);
            }
            Err(error) if ::store::is_refused(&error) => match part {
                [] => {}
                [only] => tracing::error!(
                    error = errors::chain(&error),
                    execution.id = %only.execution,
                    "the database refuses an order about a lock; the sweeper tries again"
                ),
                more => parts.extend(more.chunks(1).rev()),
            },
            // Whoever has the shards next finds it out.
            Err(_) if shutdown.is_draining() => return granted,
            Err(error) => {
                tracing::warn!(error = errors::chain(&error), "locks cannot be changed; they are again in a moment");
                tokio::time::sleep(AGAIN).await;
                parts.push(part);
            }
        }
    }
    granted
}

async fn tell(
    workers: &Workers,
    chores: &mpsc::Sender<Chore>,
    numbers: &[u64],
    orders: &[LockOrder],
    Granted { asked, others }: Granted,
) {
    let asked: HashSet<_> = asked.into_iter().collect();
    for (number, order) in numbers.iter().zip(orders) {
        let (id, holder) = (order.execution, order.holder);
        if order.is_acquire() && asked.contains(&(id, holder, order.key)) {
            workers.tell(id, Input::Granted { id, holder, number: *number }).await;
        }
    }
    for id in others {
        if workers.shared.holdings.held(id).is_some() {
            workers.tell(id, Input::Review { id }).await;
        } else {
            // Where the runner has no room, its owner finds out when it sweeps.
            let _ = chores.try_send(Chore::Review { id });
        }
    }
}
