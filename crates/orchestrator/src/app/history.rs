//! From a log back to a state (I4, I5).
//!
//! An execution that was continued has all that goes on in the event with which its present run began. So replay needs the first
//! event, which says what it is, and those of the present run: where a log is long, what is between is not read, and it may not be
//! there any more.

use std::sync::Arc;

use domain::ExecutionId;
use workflow::{
    Breach, Event, Execution, Plan, Recorded,
    invariant::{chained, follows},
};

use super::{Compiled, Plans};
use crate::{
    error::OrchestratorError,
    store::{EventRow, Store},
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
    /// Its execution may have been continued, and earlier runs removed.
    may_have_gap: bool,
    /// The event before the gap. Nothing counts after it before an event that begins a run.
    gap: Option<u64>,
}

impl Replay {
    pub(super) fn new(plan: &Arc<Plan>) -> Self {
        let (execution, may_have_gap) = (Execution::new(Arc::clone(plan)), plan.continues());
        Self { execution, hash: [0; 32], read: 0, may_have_gap, gap: None }
    }

    /// Checks that a row continues the log (I6), before it is read. Once, events of earlier runs may be missing.
    pub(super) fn follow(&mut self, row: &EventRow) -> Result<Chained, Breach> {
        let follows = follows(self.read, row.sequence);
        if follows.is_err()
            && self.read > 0
            && std::mem::take(&mut self.may_have_gap)
            && let Ok(hash) = <[u8; 32]>::try_from(row.hash.as_slice())
        {
            self.gap = Some(self.read);
            (self.hash, self.read) = (hash, row.sequence);
            return Ok(Ok(()));
        }
        follows?;
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
            Some(last) => follows(last, self.read).map(|()| self),
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
    let unreadable = |message: String| OrchestratorError::Unreadable(id, message);
    let read = async |after| store.events(id, after, PAGE).await.map_err(|error| OrchestratorError::of_log(id, error));
    let mut page = read(0).await?;
    let Some(first) = page.rows.first() else { return Ok(None) };
    let first = Event::decode(&first.data).map_err(|error| unreadable(errors::chain(&error)))?;
    let compiled = compiled(plans, id, &first).await?;
    let (mut replay, mut breach) = (Replay::new(&compiled.plan), None);
    if !page.is_last && compiled.plan.continues() {
        page.rows.truncate(1);
    }
    loop {
        for row in &page.rows {
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
