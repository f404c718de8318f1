//! The way of one replica to the database, and what goes wrong on it.

use std::{io, sync::Arc, time::Duration};

use ::store::Page;
use async_trait::async_trait;
use domain::{ExecutionId, Namespace, Timestamp, WorkflowId};
use tokio::sync::oneshot;
use workflow::Holder;

use super::{
    database::{Database, Tables},
    ground::Ground,
    process::Process,
};
use crate::store::{
    Append, AppendError, EventRow, ExecutionFilter, Granted, Held, LockOrder, LockRow, Owner, Pruned, Replica, Store,
    Summary, WorkflowFilter, WorkflowRef, WorkflowRow, Written,
};

/// A pool of connections.
pub(super) struct Connection {
    pub(super) ground: Arc<Ground>,
    pub(super) database: Arc<Database>,
    pub(super) process: Process,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Happens,
    /// It never reaches the database.
    Fails,
    /// It happens, and nobody hears of it.
    Unanswered,
    /// The replica ends, and it happens all the same.
    CrashBefore,
    /// It happens, and then the replica ends.
    CrashAfter,
}

fn lost() -> sqlx::Error {
    sqlx::Error::Io(io::Error::from(io::ErrorKind::ConnectionReset))
}

impl Connection {
    fn fate(&self, is_commit: bool) -> (Fate, Duration, Duration) {
        let trouble = self.ground.trouble();
        let pause = || match self.ground.chance(trouble.slow) {
            true if self.ground.chance(0.1) => self.ground.while_of(500..6_000),
            true => self.ground.while_of(1..60),
            false => Duration::ZERO,
        };
        let (before, after) = (pause(), pause());
        let fate = if self.ground.chance(trouble.fails) {
            Fate::Fails
        } else if self.ground.chance(trouble.unanswered) {
            Fate::Unanswered
        } else if is_commit && self.ground.chance(trouble.crash) {
            if self.ground.chance(0.5) { Fate::CrashBefore } else { Fate::CrashAfter }
        } else {
            Fate::Happens
        };
        (fate, before, after)
    }

    /// Does something in the database, or not. The database works on while a replica that asked is stopped or gone.
    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        is_commit: bool,
        act: impl FnOnce(&Database) -> T + Send + 'static,
    ) -> Result<T, sqlx::Error> {
        let (fate, before, after) = self.fate(is_commit);
        if fate == Fate::Happens && before.is_zero() && after.is_zero() {
            return Ok(act(&self.database));
        }
        self.ground.tell(&self.process, || format!("{what}: {fate:?}, {before:?} before and {after:?} after it"));
        let (answer, answered) = oneshot::channel();
        let (database, process) = (Arc::clone(&self.database), self.process.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "the database is not a part of the replica, and ends with the history"
        )]
        drop(tokio::spawn(async move {
            if fate == Fate::CrashBefore {
                process.kill(&format!("before {what}"));
            }
            pause(before).await;
            if fate == Fate::Fails {
                return;
            }
            let done = act(&database);
            if fate == Fate::CrashAfter {
                process.kill(&format!("after {what}"));
            }
            pause(after).await;
            if fate == Fate::Happens {
                // Who asked may be gone.
                let _ = answer.send(done);
            }
        }));
        answered.await.map_err(|_| lost())
    }

    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        act: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> sqlx::Result<T> {
        self.ask(what, false, |database| act(&mut database.tables())).await
    }
}

async fn pause(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

fn copy(append: &Append) -> Append {
    Append { events: append.events.clone(), summaries: append.summaries.clone(), claims: append.claims.clone() }
}

#[async_trait]
impl Store for Connection {
    async fn append(&self, owner: &str, append: &Append) -> Result<(), AppendError> {
        let (owner, append) = (owner.to_owned(), copy(append));
        self.ask("a commit", true, move |database| database.append(&owner, &append)).await?
    }

    async fn events(&self, id: ExecutionId, after: u64, limit: usize) -> sqlx::Result<Page<EventRow>> {
        self.read("a read of a log", move |tables| tables.events(id, after, limit)).await
    }

    async fn logs(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<(ExecutionId, Vec<EventRow>)>> {
        let ids = ids.to_vec();
        self.read("a read of logs", move |tables| tables.logs(&ids)).await
    }

    async fn prune(&self, id: ExecutionId, run: u64, before: Timestamp, limit: u64) -> sqlx::Result<u64> {
        self.ask("a pruning", true, move |database| database.tables().prune(id, run, before, limit)).await
    }

    async fn pruned(&self, id: ExecutionId) -> sqlx::Result<Option<Pruned>> {
        self.read("a read of what was removed", move |tables| tables.removed(id)).await
    }

    async fn summary(&self, id: ExecutionId) -> sqlx::Result<Option<Summary>> {
        self.read("a read of a summary", move |tables| tables.summary(id)).await
    }

    async fn list(&self, _: &ExecutionFilter) -> sqlx::Result<Vec<Summary>> {
        unreachable!("nobody lists in a history")
    }

    async fn ended(&self, ids: &[ExecutionId]) -> sqlx::Result<Vec<ExecutionId>> {
        let ids = ids.to_vec();
        self.read("a read of what has ended", move |tables| tables.ended(&ids)).await
    }

    async fn live(&self, shards: &[u32]) -> sqlx::Result<Vec<ExecutionId>> {
        let shards = shards.to_vec();
        self.read("a read of what lives", move |tables| tables.live(&shards)).await
    }

    async fn change_locks(&self, owner: &str, orders: &[LockOrder]) -> sqlx::Result<Granted> {
        let (owner, orders) = (owner.to_owned(), orders.to_vec());
        self.ask("a change of locks", true, move |database| database.change_locks(&owner, &orders)).await
    }

    async fn lock_rows(&self, shards: &[u32], after: i64, limit: i64) -> sqlx::Result<Vec<LockRow>> {
        let shards = shards.to_vec();
        self.read("a read of locks", move |tables| tables.locks.rows(&tables.summaries, &shards, after, limit)).await
    }

    async fn lock_places(&self, _: ExecutionId) -> sqlx::Result<Vec<(Holder, u32)>> {
        self.read("a read of places", |_| Vec::new()).await
    }

    async fn make_shards(&self, count: u32) -> sqlx::Result<u32> {
        self.read("making the shards", move |tables| tables.make_shards(count)).await
    }

    async fn announce(&self, replica: &Replica, lease: Duration) -> sqlx::Result<Vec<Replica>> {
        let replica = replica.clone();
        self.read("an announcement", move |tables| tables.announce(&replica, lease)).await
    }

    async fn claim(&self, owner: &str, most: usize, lease: Duration, take_over: bool) -> sqlx::Result<Vec<Held>> {
        let (owner, process, ground) = (owner.to_owned(), self.process.clone(), Arc::clone(&self.ground));
        self.ask("a claim", true, move |database| {
            let is_theft = ground.chance(ground.trouble().theft);
            let claimed = database.tables().claim(&owner, most, lease, take_over, is_theft);
            if !claimed.is_empty() {
                ground.tell(&process, || format!("takes {claimed:?}"));
            }
            claimed
        })
        .await
    }

    async fn renew(&self, owner: &str, lease: Duration) -> sqlx::Result<Vec<Held>> {
        let owner = owner.to_owned();
        self.read("a renewal", move |tables| tables.renew(&owner, lease)).await
    }

    async fn release(&self, owner: &str, shards: &[u32]) -> sqlx::Result<()> {
        let (owner, shards) = (owner.to_owned(), shards.to_vec());
        self.ground.tell(&self.process, || format!("gives back {shards:?}"));
        self.ask("a release", true, move |database| database.tables().release(&owner, &shards)).await
    }

    async fn leave(&self, owner: &str) -> sqlx::Result<()> {
        let owner = owner.to_owned();
        self.ask("a farewell", true, move |database| database.tables().leave(&owner)).await
    }

    async fn owners(&self) -> sqlx::Result<Vec<Owner>> {
        self.read("a read of the owners", |tables| tables.owners()).await
    }

    async fn create_workflow(&self, _: &WorkflowRow) -> sqlx::Result<Written> {
        unreachable!("the workflows of a history are there before it")
    }

    async fn update_workflow(&self, _: &WorkflowRow) -> sqlx::Result<Written> {
        unreachable!("the workflows of a history stay as they are")
    }

    async fn archive_workflow(&self, _: WorkflowId, _: Option<u32>, _: Timestamp) -> sqlx::Result<bool> {
        unreachable!("the workflows of a history stay")
    }

    async fn workflow(
        &self,
        _: &Namespace,
        workflow: &WorkflowRef,
        _: Option<u32>,
    ) -> sqlx::Result<Option<WorkflowRow>> {
        let workflow = workflow.clone();
        self.read("a read of a workflow", move |tables| tables.workflow(&workflow)).await
    }

    async fn workflows(&self, _: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>> {
        unreachable!("nobody lists in a history")
    }

    async fn ping(&self) -> sqlx::Result<()> {
        Ok(())
    }

    async fn close(&self) {}
}
