//! From a log back to a state (I4, I5).
//!
//! An execution that was continued has all that goes on in the event with which its present run began. So replay needs the first
//! event, which says what it is, and those of the present run: where a log is long, what is between is not read, and it may not be
//! there any more. Up to where it was removed is written down: nothing else may be missing.

use std::sync::Arc;

use ::store::Page;
use domain::ExecutionId;
use workflow::{
    Breach, Event, Execution, Invariant, Plan, Recorded,
    invariant::{chained, follows},
};

use super::{Compiled, Plans};
use crate::{
    error::OrchestratorError,
    hash::HashMap,
    store::{EventRow, Pruned, Store},
};

/// Events that one read of a log gets.
pub(super) const PAGE: usize = 1_000;

/// An execution rebuilt from its log.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) execution: Execution,
    /// Of the last event.
    pub(crate) hash: [u8; 32],
    /// The first event that is not what was written (I6).
    pub(crate) breach: Option<Breach>,
    pub(crate) compiled: Arc<Compiled>,
}

/// A log that is being read.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) execution: Execution,
    /// Of the last event read.
    pub(super) hash: [u8; 32],
    /// Its number.
    pub(super) read: u64,
    /// The event before what is not there, or not read. Nothing counts after it before an event that begins a run.
    gap: Option<u64>,
}

impl Replay {
    pub(super) fn new(plan: &Arc<Plan>) -> Self {
        Self { execution: Execution::new(Arc::clone(plan)), hash: [0; 32], read: 0, gap: None }
    }

    /// Goes on where the chain does after what was removed before a row, if there is something. Answers whether the row is still
    /// to be read: more may have been removed since it was.
    pub(super) async fn reach(&mut self, store: &dyn Store, id: ExecutionId, row: &EventRow) -> sqlx::Result<bool> {
        if self.read > 0
            && row.sequence > self.read + 1
            && let Some(Pruned { to, hash }) = store.pruned(id).await?
            && row.sequence <= to + 1
        {
            self.resume_after(to, &hash);
        }
        Ok(row.sequence > self.read)
    }

    /// Goes on after an event of an earlier run, which is not read: its hash says where the chain goes on.
    fn resume_after(&mut self, sequence: u64, hash: &[u8]) {
        if let Ok(hash) = <[u8; 32]>::try_from(hash) {
            self.gap.get_or_insert(self.read);
            (self.hash, self.read) = (hash, sequence);
        }
    }

    /// Checks that a row continues the log (I6), before it is read.
    pub(super) fn follow(&mut self, row: &EventRow) -> Result<Chained, Breach> {
        follows(self.read, row.sequence)?;
        self.read = row.sequence;
        let chained = chained(&self.hash, row.sequence, row.at, &row.data, &row.hash);
        // The next one is measured by what is there, so that each fault is told once.
        if let Ok(hash) = <[u8; 32]>::try_from(row.hash.as_slice()) {
            self.hash = hash;
        }
        Ok(chained.map(drop))
    }

    /// Applies the event of the row that was followed last.
    pub(super) fn apply(&mut self, row: &EventRow, event: Event) {
        if event.is_snapshot() {
            self.gap = None;
        }
        if self.gap.is_none() {
            self.execution.apply(&Recorded { sequence: row.sequence, at: row.at, event });
        }
    }

    /// Ends the reading.
    pub(super) fn finish(self) -> Result<Self, Breach> {
        match self.gap {
            Some(last) => Err(Invariant::I6.breach(format!("event {} is missing", last + 1))),
            None => Ok(self),
        }
    }
}

/// Whether the hash of an event fits.
type Chained = Result<(), Breach>;

/// Replays a log; `None` where there is none.
pub(crate) async fn load(
    store: &dyn Store,
    plans: &Plans,
    id: ExecutionId,
) -> Result<Option<Loaded>, OrchestratorError> {
    let page = store.events(id, 0, PAGE).await.map_err(|error| OrchestratorError::of_log(id, error))?;
    rebuild(store, plans, id, page).await
}

/// Replays the logs of many, each as [`load`] does. Those that are short are read together.
pub(crate) async fn load_all(
    store: &dyn Store,
    plans: &Plans,
    ids: &[ExecutionId],
) -> Vec<(ExecutionId, Result<Option<Loaded>, OrchestratorError>)> {
    // What is not there is read by itself, which shows what is wrong with it.
    let mut logs: HashMap<_, _> = store.logs(ids).await.unwrap_or_default().into_iter().collect();
    let mut all = Vec::with_capacity(ids.len());
    for id in ids {
        let loaded = match logs.remove(id) {
            Some(rows) => rebuild(store, plans, *id, Page { rows, is_last: true }).await,
            None => load(store, plans, *id).await,
        };
        all.push((*id, loaded));
    }
    all
}

/// Replays a log that begins with this page.
async fn rebuild(
    store: &dyn Store,
    plans: &Plans,
    id: ExecutionId,
    mut page: Page<EventRow>,
) -> Result<Option<Loaded>, OrchestratorError> {
    let unreadable = |message: String| OrchestratorError::Unreadable(id, message);
    let read = async |after| store.events(id, after, PAGE).await.map_err(|error| OrchestratorError::of_log(id, error));
    let Some(first) = page.rows.first() else { return Ok(None) };
    let first = Event::decode(&first.data).map_err(|error| unreadable(errors::chain(&error)))?;
    let compiled = compiled(plans, id, &first).await?;
    let (mut replay, mut breach) = (Replay::new(&compiled.plan), None);
    if !page.is_last && compiled.plan.continues() {
        page.rows.truncate(1);
    }
    loop {
        for row in &page.rows {
            if !replay.reach(store, id, row).await? {
                continue;
            }
            let fits = replay.follow(row).map_err(|breach| unreadable(breach.what))?;
            breach = breach.or(fits.err());
            let event = Event::decode(&row.data).map_err(|error| unreadable(errors::chain(&error)))?;
            replay.apply(row, event);
        }
        if page.is_last {
            break;
        }
        let mut after = replay.read;
        if after == 1 {
            // With the last event of the run before, which says where the chain goes on.
            let run = present_run(store, id).await?;
            after = run.map_or(after, |run| run.saturating_sub(2).max(after));
        }
        page = read(after).await?;
        if after > replay.read
            && let Some(last) = page.rows.first()
        {
            replay.resume_after(last.sequence, &last.hash);
        }
    }
    let Replay { execution, hash, .. } = replay.finish().map_err(|breach| unreadable(breach.what))?;
    Ok(Some(Loaded { execution, hash, breach, compiled }))
}

async fn compiled(plans: &Plans, id: ExecutionId, first: &Event) -> Result<Arc<Compiled>, OrchestratorError> {
    let Event::Accepted { namespace, workflow_id, workflow_version, .. } = first else {
        return Err(OrchestratorError::Unreadable(id, "the first event is not `accepted`".to_owned()));
    };
    plans.compiled(namespace, *workflow_id, *workflow_version).await
}

/// The number of the event with which the present run began, looked for from the end; none where it was never continued.
async fn present_run(store: &dyn Store, id: ExecutionId) -> Result<Option<u64>, OrchestratorError> {
    let mut end = store.summary(id).await?.map_or(0, |summary| summary.last_sequence);
    while end > 0 {
        let begin = end.saturating_sub(PAGE as u64);
        let (mut after, mut run) = (begin, None);
        while after < end {
            let page = store.events(id, after, PAGE).await.map_err(|error| OrchestratorError::of_log(id, error))?;
            let begins = |row: &&EventRow| row.sequence <= end && Event::begins_a_run(&row.data);
            run = page.rows.iter().rev().find(begins).map(|row| row.sequence).or(run);
            after = page.rows.last().map_or(end, |row| row.sequence);
        }
        if run.is_some() {
            return Ok(run);
        }
        end = begin;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use settings::Database;
    use workflow::{Definition, Limits, chain};

    use super::*;
    use crate::store::{
        Held, NewEvent, open,
        tests::{LEASE, NOW, append, event, summary},
    };

    /// A log of so many events, a row for each.
    async fn logged(folder: &tempfile::TempDir, events: u64) -> (Arc<dyn Store>, ExecutionId) {
        let store = open(&Database::sqlite(folder.path().join("orchestrator.db"))).await.unwrap();
        store.make_shards(1).await.unwrap();
        let held: Vec<Held> = store.claim("one", 1, LEASE, false).await.unwrap();
        let (summary, mut hash) = (summary(1), [0; 32]);
        for sequence in 1..=events {
            let next = event(&summary, sequence);
            hash = chain(&hash, sequence, NOW, &next.data);
            let next = NewEvent { hash, ..next };
            store.append("one", &append(vec![next], vec![summary.clone()], &held)).await.unwrap();
            store.events(summary.id, 0, 1).await.unwrap();
        }
        (store, summary.id)
    }

    fn replay() -> Replay {
        let json = br#"{"name": "w", "steps": [{"id": "a", "agent_type": "x"}]}"#;
        Replay::new(&Arc::new(Definition::parse(json, Limits::default()).unwrap().plan))
    }

    /// Reads rows; answers with the numbers of those that count.
    async fn follow(
        replay: &mut Replay,
        store: &dyn Store,
        id: ExecutionId,
        rows: &[EventRow],
    ) -> Result<Vec<u64>, Breach> {
        let mut read = Vec::new();
        for row in rows {
            if replay.reach(store, id, row).await.unwrap() {
                replay.follow(row)??;
                read.push(row.sequence);
            }
        }
        Ok(read)
    }

    #[tokio::test]
    async fn what_is_removed_while_a_log_is_read_is_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        let (store, id) = logged(&folder, 20).await;
        let (store, later) = (store.as_ref(), NOW + LEASE);
        let prune = async |rows| assert_eq!(store.prune(id, 20, later, rows).await.unwrap(), rows);
        let page = async |after| store.events(id, after, 3).await.unwrap().rows;
        let mut replay = replay();
        prune(2).await;
        assert_eq!(follow(&mut replay, store, id, &page(0).await).await, Ok(vec![1, 4, 5]));
        prune(4).await;
        assert_eq!(follow(&mut replay, store, id, &page(5).await).await, Ok(vec![8, 9, 10]));
        prune(4).await;
        let old = page(10).await;
        prune(3).await;
        assert_eq!(follow(&mut replay, store, id, &old).await, Ok(vec![]), "all of it has gone since");
        let rest = page(replay.read).await;
        assert_eq!(follow(&mut replay, store, id, &rest).await, Ok(vec![15, 16, 17]));
        assert_eq!(replay.finish().unwrap_err().what, "event 2 is missing", "no run has begun after the gap");
        store.close().await;
    }

    #[tokio::test]
    async fn only_what_was_removed_may_be_missing_and_the_chain_goes_on_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let (store, id) = logged(&folder, 20).await;
        let store = store.as_ref();
        let fault = async |change: fn(&mut Vec<EventRow>)| {
            let mut rows = store.events(id, 0, 100).await.unwrap().rows;
            change(&mut rows);
            follow(&mut replay(), store, id, &rows).await.unwrap_err().what
        };
        assert_eq!(fault(|rows| drop(rows.remove(1))).await, "event 2 is missing");
        assert_eq!(store.prune(id, 10, NOW + LEASE, 5).await.unwrap(), 5);
        assert_eq!(fault(|rows| drop(rows.remove(1))).await, "event 2 is missing");
        assert_eq!(fault(|rows| drop(rows.remove(3))).await, "event 9 is missing");
        let changed = "event 7 is not what was written: its hash does not fit";
        assert_eq!(fault(|rows| rows[1].data.push(b' ')).await, changed);
        store.close().await;
    }
}
