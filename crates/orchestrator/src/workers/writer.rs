//! The one writer of the log: merges what waits of all workers into one transaction.
//!
//! At low load a batch commits alone and at once; at high load the batches that came in during a commit make the next. Among
//! replicas a [`Pace`] keeps the batches large.

use std::{convert::Infallible, sync::Arc};

use ::store::Pace;
use domain::ExecutionId;
use lifecycle::crash_point;
use tokio::{sync::mpsc, time::Instant};
use tracing::{Instrument as _, Span};

use super::Shared;
use crate::{
    hash::{HashMap, HashSet},
    metrics, spans,
    store::{Append, AppendError, Summary},
};

/// Batches of one transaction.
const MOST: usize = 256;

/// Another replica has the shards.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("another replica has taken the shards")]
pub(crate) struct Fenced;

/// A batch of one worker.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) worker: usize,
    /// Of the worker when it decided; a failed commit ends a generation, and with it the batches that build on it.
    pub(super) generation: u64,
    /// Executions that it has read again since it learned that their events were refused.
    pub(super) resumed: Vec<ExecutionId>,
    pub(super) append: Append,
    /// Of those executions that are traced.
    pub(super) spans: Vec<Span>,
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Committed,
    Failed,
    /// Committed but for what these executions had in it.
    Except(Arc<HashSet<ExecutionId>>),
}

impl Outcome {
    /// The same for a batch of which these executions were left out.
    fn but_for(&self, mut left_out: HashSet<ExecutionId>) -> Self {
        match self {
            Self::Failed => Self::Failed,
            Self::Committed | Self::Except(_) if left_out.is_empty() => self.clone(),
            Self::Committed => Self::Except(Arc::new(left_out)),
            Self::Except(refused) => {
                left_out.extend(refused.iter());
                Self::Except(Arc::new(left_out))
            }
        }
    }
}

/// Commits until all workers have ended.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<Job>,
    workers: Vec<mpsc::Sender<Outcome>>,
) -> Result<(), Infallible> {
    let mut pace = Pace::new(!shared.is_alone);
    let mut waiting = Vec::with_capacity(MOST);
    // The first generation of each worker whose batches build on nothing that failed.
    let mut valid = vec![0_u64; workers.len()];
    // Executions whose events were refused, and which their worker has not read again yet.
    let mut refused = HashSet::default();
    while jobs.recv_many(&mut waiting, MOST).await > 0 {
        pace.gather(executions(&waiting)).await;
        take_more(&mut jobs, &mut waiting);
        pace.begin(executions(&waiting));
        let mut order = Vec::with_capacity(waiting.len());
        let mut merged = Merged::default();
        for job in waiting.drain(..) {
            let is_valid = job.generation >= valid[job.worker];
            for id in &job.resumed {
                refused.remove(id);
            }
            // A later batch of this round may resume what is left out of this one.
            order.push((job.worker, job.generation, is_valid, refused.clone()));
            if is_valid {
                merged.add(job.append, &refused);
                merged.spans.extend(job.spans);
            }
        }
        let span = spans::committed_together(&merged.spans);
        let outcome = commit(&shared, merged.append, &mut refused).instrument(span).await;
        for (worker, generation, is_valid, left_out) in order {
            let outcome = if is_valid { outcome.but_for(left_out) } else { Outcome::Failed };
            if is_valid && matches!(outcome, Outcome::Failed) {
                valid[worker] = generation + 1;
            }
            // A worker leaves room for every batch in flight; one that has ended needs no answer.
            let _ = workers[worker].send(outcome).await;
        }
    }
    Ok(())
}

fn executions(jobs: &[Job]) -> usize {
    jobs.iter().map(|job| job.append.summaries.len()).sum()
}

/// What has come in meanwhile.
fn take_more(jobs: &mut mpsc::Receiver<Job>, waiting: &mut Vec<Job>) {
    while waiting.len() < MOST
        && let Ok(job) = jobs.try_recv()
    {
        waiting.push(job);
    }
}

/// Commits what it can. What the database refuses is found by halves, and left out.
async fn commit(shared: &Shared, append: Append, refused: &mut HashSet<ExecutionId>) -> Outcome {
    let mut parts = vec![append];
    let mut is_whole = true;
    while let Some(part) = parts.pop() {
        match commit_part(shared, &part).await {
            Ok(()) => {}
            Err(error) if error.is_of_one() => match halves(part) {
                Ok(halves) => parts.extend(halves),
                Err(id) => {
                    if matches!(error, AppendError::Fenced) {
                        shared.holdings.fenced(shared.holdings.shard(id));
                    }
                    refused.insert(id);
                }
            },
            // What is committed already is: it must not be decided again.
            Err(_) if !is_whole => {
                let left = parts.iter().chain([&part]).flat_map(|part| &part.summaries);
                refused.extend(left.map(|summary| summary.id));
                break;
            }
            Err(_) => return Outcome::Failed,
        }
        is_whole = false;
    }
    if refused.is_empty() { Outcome::Committed } else { Outcome::Except(Arc::new(refused.clone())) }
}

/// Both halves of the executions, or the one that there is.
fn halves(mut append: Append) -> Result<[Append; 2], ExecutionId> {
    if let [only] = append.summaries.as_slice() {
        return Err(only.id);
    }
    let summaries = append.summaries.split_off(append.summaries.len() / 2);
    let second: HashSet<_> = summaries.iter().map(|summary| summary.id).collect();
    let (events, kept) = append.events.into_iter().partition(|event| second.contains(&event.execution));
    append.events = kept;
    let claims = append.claims.clone();
    Ok([append, Append { events, summaries, claims }])
}

async fn commit_part(shared: &Shared, append: &Append) -> Result<(), AppendError> {
    if append.events.is_empty() {
        return Ok(());
    }
    let events = append.events.len();
    let started = Instant::now();
    crash_point("orchestrator.commit.before");
    let appended = shared.store.append(&shared.owner, append).await;
    crash_point("orchestrator.commit.after");
    match &appended {
        Ok(()) => metrics::committed(events, started.elapsed()),
        Err(error) => {
            metrics::commit_failed();
            tracing::error!(error = errors::chain(error), events, "a commit of the log failed");
        }
    }
    appended
}

/// Batches in one.
#[derive(Default)]
struct Merged {
    append: Append,
    places: HashMap<ExecutionId, usize>,
    spans: Vec<Span>,
}

impl Merged {
    fn add(&mut self, mut append: Append, refused: &HashSet<ExecutionId>) {
        if !refused.is_empty() {
            append.events.retain(|event| !refused.contains(&event.execution));
            append.summaries.retain(|summary| !refused.contains(&summary.id));
        }
        // Before a shard is held again, everything of its last epoch is answered: there is one claim of each.
        self.append.claims.extend(append.claims);
        if self.append.events.is_empty() {
            self.append.events = append.events;
        } else {
            self.append.events.extend(append.events);
        }
        for summary in append.summaries {
            self.summary(summary);
        }
    }

    /// The later summary of an execution replaces the earlier.
    fn summary(&mut self, summary: Summary) {
        match self.places.get(&summary.id) {
            Some(place) => self.append.summaries[*place] = summary,
            None => {
                self.places.insert(summary.id, self.append.summaries.len());
                self.append.summaries.push(summary);
            }
        }
    }
}
