//! The one writer of the log: merges what waits of all workers into one transaction.
//!
//! No delay is added: at low load a batch commits alone, at high load the batches that came in during a commit make the next.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use domain::ExecutionId;
use tokio::{sync::mpsc, time::Instant};

use super::Shared;
use crate::{
    metrics,
    store::{Append, AppendError, Summary},
};

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
    pub(super) append: Append,
}

/// Was it committed?
pub(super) type Outcome = bool;

/// Commits until all workers have ended.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<Job>,
    workers: Vec<mpsc::Sender<Outcome>>,
) -> Result<(), Infallible> {
    /// Batches of one transaction.
    const MOST: usize = 256;
    let mut waiting = Vec::with_capacity(MOST);
    // The first generation of each worker whose batches build on nothing that failed.
    let mut valid = vec![0_u64; workers.len()];
    while jobs.recv_many(&mut waiting, MOST).await > 0 {
        let mut order = Vec::with_capacity(waiting.len());
        let mut merged = Merged::default();
        for job in waiting.drain(..) {
            let is_valid = job.generation >= valid[job.worker];
            order.push((job.worker, job.generation, is_valid));
            if is_valid {
                merged.add(job.append);
            }
        }
        let is_committed = commit(&shared, merged.finish(&shared)).await;
        for (worker, generation, is_valid) in order {
            if !is_committed && is_valid {
                valid[worker] = generation + 1;
            }
            // A worker leaves room for every batch in flight; one that has ended needs no answer.
            let _ = workers[worker].send(is_committed && is_valid).await;
        }
    }
    Ok(())
}

async fn commit(shared: &Shared, append: Append) -> Outcome {
    if append.events.is_empty() {
        return true;
    }
    let events = append.events.len();
    let started = Instant::now();
    let error = match shared.store.append(&shared.owner, append).await {
        Ok(()) => {
            metrics::committed(events, started.elapsed());
            return true;
        }
        Err(error) => error,
    };
    metrics::commit_failed();
    tracing::error!(error = errors::chain(&error), events, "a commit of the log failed");
    match error {
        AppendError::Fenced => drop(shared.fenced.send_replace(true)),
        AppendError::Database(_) => {}
    }
    false
}

/// Batches in one.
#[derive(Default)]
struct Merged {
    append: Append,
    places: HashMap<ExecutionId, usize>,
}

impl Merged {
    fn add(&mut self, append: Append) {
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

    fn finish(mut self, shared: &Shared) -> Append {
        let mut shards: Vec<_> = self.append.summaries.iter().map(|summary| summary.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        self.append.shards = shards.into_iter().map(|shard| (shard, shared.epochs[shard as usize])).collect();
        self.append
    }
}
