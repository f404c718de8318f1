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
use workflow::Invariant;

use super::{Shared, settling::Settling};
use crate::{
    hash::{HashMap, HashSet},
    metrics, spans,
    store::{Append, AppendError, Summary},
};

/// Batches of one transaction.
pub(super) const MOST: usize = 256;
/// Bytes of events of one transaction, beyond those of one batch.
pub(super) const MOST_BYTES: usize = 16 << 20;

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
    let (mut refused, mut in_doubt) = (HashSet::default(), HashSet::default());
    let mut settling = Settling::new();
    while settling.receive(&shared, &mut jobs, &mut waiting).await > 0 {
        pace.gather(executions(&waiting), shared.holdings.replicas()).await;
        take_more(&mut jobs, &mut waiting);
        pace.begin(executions(&waiting));
        let mut rest = waiting.drain(..).peekable();
        while rest.peek().is_some() {
            let mut batches = Vec::with_capacity(rest.len());
            let mut merged = Merged::default();
            while let Some(job) = rest.next_if(|job| merged.has_room_for(&job.append)) {
                let is_valid = job.generation >= valid[job.worker];
                batches.push(merged.take(job, is_valid, &mut refused));
            }
            let span = spans::committed_together(&merged.spans);
            let committed = commit(&shared, merged.append, &mut refused, &mut in_doubt).instrument(span).await;
            for batch in batches {
                if batch.is_valid && !committed {
                    valid[batch.worker] = batch.generation + 1;
                }
                let worker = batch.worker;
                // A worker leaves room for every batch in flight; one that has ended needs no answer.
                let _ = workers[worker].send(batch.outcome(committed, &refused)).await;
            }
            settling.keep_up(&shared).await;
        }
    }
    Ok(())
}

/// A batch whose events are being committed.
struct Batch {
    worker: usize,
    generation: u64,
    is_valid: bool,
    /// Executions whose events were refused before it came, and not read again: what it has of them builds on those.
    left_out: HashSet<ExecutionId>,
}

impl Batch {
    /// `refused`: what is refused now, which a batch of the same commit may have taken up again since.
    fn outcome(self, committed: bool, refused: &HashSet<ExecutionId>) -> Outcome {
        if !self.is_valid || !committed {
            return Outcome::Failed;
        }
        let mut without = self.left_out;
        without.extend(refused);
        if without.is_empty() { Outcome::Committed } else { Outcome::Except(Arc::new(without)) }
    }
}

fn bytes(append: &Append) -> usize {
    append.events.iter().map(|event| event.data.len()).sum()
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

/// Commits what it can. What the database refuses is found by halves, and left out. Answers whether anything else may be
/// committed.
///
/// `refused`: executions whose events were refused, and which their worker has not read again yet. `in_doubt`: those with a commit
/// of which nobody knows whether it will still come about, after they were read again or before.
async fn commit(
    shared: &Shared,
    append: Append,
    refused: &mut HashSet<ExecutionId>,
    in_doubt: &mut HashSet<ExecutionId>,
) -> bool {
    let mut parts = vec![append];
    let mut is_whole = true;
    while let Some(part) = parts.pop() {
        match commit_part(shared, &part).await {
            Ok(()) if in_doubt.is_empty() => {}
            Ok(()) => part.summaries.iter().for_each(|summary| _ = in_doubt.remove(&summary.id)),
            Err(error) if error.is_of_one() => match halves(part) {
                Ok(halves) => parts.extend(halves),
                Err((id, first)) => {
                    let is_ours = in_doubt.remove(&id);
                    note(shared, id, first, &error, is_ours);
                    refused.insert(id);
                }
            },
            Err(_) => {
                in_doubt.retain(|id| shared.holdings.held(*id).is_some());
                in_doubt.extend(part.summaries.iter().map(|summary| summary.id));
                if is_whole {
                    return false;
                }
                // What is committed already is: it must not be decided again.
                let left = parts.iter().chain([&part]).flat_map(|part| &part.summaries);
                refused.extend(left.map(|summary| summary.id));
                break;
            }
        }
        is_whole = false;
    }
    true
}

/// An execution's events, which begin with `first`, are refused. That others have written to its log breaks I2, unless that is what
/// became of a commit of ours.
fn note(shared: &Shared, id: ExecutionId, first: u64, error: &AppendError, is_ours: bool) {
    match error {
        AppendError::Fenced => shared.holdings.fenced(shared.holdings.shard(id)),
        AppendError::Diverged if !is_ours => {
            let what = format!("event {first} is written to a log that somebody else has written to");
            shared.violations.note(id, &Invariant::I2.breach(what));
        }
        AppendError::Diverged | AppendError::Database(_) => {}
    }
}

/// Both halves of the executions, or the one that there is, with the number of its first event.
fn halves(mut append: Append) -> Result<[Append; 2], (ExecutionId, u64)> {
    if let [only] = append.summaries.as_slice() {
        return Err((only.id, append.events.first().map_or(0, |event| event.sequence)));
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
    match &appended {
        Ok(()) => {
            crash_point("orchestrator.commit.after");
            metrics::committed(events, started.elapsed());
        }
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
    /// Of its events.
    bytes: usize,
    places: HashMap<ExecutionId, usize>,
    spans: Vec<Span>,
}

impl Merged {
    /// May it be committed together with what there is? Not where that becomes too large for one statement; and not under
    /// another epoch of a shard, since there is one claim of each.
    fn has_room_for(&self, append: &Append) -> bool {
        let is_same =
            |(shard, epoch): (&u32, &i64)| self.append.claims.get(shard).is_none_or(|claimed| claimed == epoch);
        let is_first = self.append.events.is_empty();
        (is_first || self.bytes + bytes(append) <= MOST_BYTES) && append.claims.iter().all(is_same)
    }

    /// Adds a batch, as far as it is valid and builds on nothing that was refused.
    fn take(&mut self, job: Job, is_valid: bool, refused: &mut HashSet<ExecutionId>) -> Batch {
        // An execution that is taken up in this batch has nothing older in it.
        for id in &job.resumed {
            refused.remove(id);
        }
        if is_valid {
            self.add(job.append, refused);
            self.spans.extend(job.spans);
        }
        Batch { worker: job.worker, generation: job.generation, is_valid, left_out: refused.clone() }
    }

    fn add(&mut self, mut append: Append, refused: &HashSet<ExecutionId>) {
        if !refused.is_empty() {
            append.events.retain(|event| !refused.contains(&event.execution));
            append.summaries.retain(|summary| !refused.contains(&summary.id));
        }
        self.bytes += bytes(&append);
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

#[cfg(test)]
mod tests {
    use domain::Timestamp;

    use super::*;
    use crate::{
        store::{
            NewEvent,
            tests::{LEASE, append, event, summary},
        },
        workers::bench,
    };

    fn job(id: ExecutionId, resumed: &[ExecutionId], epoch: i64, bytes: usize) -> Job {
        let event = NewEvent {
            execution: id,
            sequence: 1,
            at: Timestamp::from_millis(1),
            data: vec![b' '; bytes],
            hash: [0; 32],
        };
        let append = Append { events: vec![event], summaries: Vec::new(), claims: [(0, epoch)].into_iter().collect() };
        Job { worker: 0, generation: 0, resumed: resumed.to_vec(), append, spans: Vec::new() }
    }

    #[test]
    fn what_was_left_out_is_not_committed_even_where_the_execution_goes_on_in_the_same_commit() {
        let id = ExecutionId::from_parts(1, 1);
        let mut refused: HashSet<_> = [id].into_iter().collect();
        let mut merged = Merged::default();
        let built_on = merged.take(job(id, &[], 1, 1), true, &mut refused);
        assert!(merged.append.events.is_empty(), "it builds on what was refused");
        let resumed = merged.take(job(id, &[id], 1, 1), true, &mut refused);
        assert_eq!((merged.append.events.len(), refused.len()), (1, 0));
        let Outcome::Except(without) = built_on.outcome(true, &refused) else {
            panic!("its callers hear that it is committed")
        };
        assert!(without.contains(&id));
        assert!(matches!(resumed.outcome(true, &refused), Outcome::Committed));
    }

    #[test]
    fn a_commit_has_one_epoch_of_a_shard_and_is_not_too_large() {
        let (id, mut refused) = (ExecutionId::from_parts(1, 1), HashSet::default());
        let mut merged = Merged::default();
        assert!(
            merged.has_room_for(&job(id, &[], 1, MOST_BYTES + 1).append),
            "a batch is committed, whatever its size"
        );
        merged.take(job(id, &[], 1, MOST_BYTES / 2), true, &mut refused);
        assert!(merged.has_room_for(&job(id, &[], 1, MOST_BYTES / 2).append));
        assert!(!merged.has_room_for(&job(id, &[], 1, MOST_BYTES / 2 + 1).append));
        assert!(!merged.has_room_for(&job(id, &[], 2, 1).append), "it is of another epoch");
    }

    #[tokio::test]
    async fn that_somebody_else_has_written_is_counted_unless_it_may_be_ourselves() {
        let directory = tempfile::tempdir().unwrap();
        let shared = bench::shared(directory.path()).await;
        shared.store.make_shards(1).await.unwrap();
        let held = shared.store.claim(&shared.owner, 1, LEASE, false).await.unwrap();
        let (one, other) = (summary(1), summary(2));
        let next = |sequence| {
            append(vec![event(&one, sequence), event(&other, sequence)], vec![one.clone(), other.clone()], &held)
        };
        let (mut refused, mut in_doubt) = (HashSet::default(), [other.id].into_iter().collect());
        assert!(commit(&shared, next(1), &mut refused, &mut in_doubt).await);
        assert!(refused.is_empty() && in_doubt.is_empty(), "they are committed");
        shared.store.append(&shared.owner, &next(2)).await.unwrap();
        in_doubt.insert(other.id);
        assert!(commit(&shared, next(2), &mut refused, &mut in_doubt).await);
        assert!(refused.contains(&one.id) && refused.contains(&other.id));
        assert_eq!(shared.violations.count(Invariant::I2), 1, "of the one that is not in doubt");
    }
}
