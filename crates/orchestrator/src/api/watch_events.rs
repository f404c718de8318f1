//! `WatchEvents`: the log, and every event after it.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use contracts::orchestrator::v1::WatchEventsResponse;
use domain::{ExecutionId, Namespace};
use errors::Error;
use futures::{Stream, StreamExt as _, stream};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::Status;

use super::{Api, wire};
use crate::{
    app::{App, Compiled},
    error::OrchestratorError,
    store::EventRow,
    watch::Watcher,
};

/// Events that one read of the log gets: what a watcher that does not read holds in memory.
const PAGE: usize = 100;

pub(super) type Events = Pin<Box<dyn Stream<Item = Result<WatchEventsResponse, Status>> + Send>>;

struct Watch {
    app: Arc<App>,
    namespace: Namespace,
    id: ExecutionId,
    compiled: Arc<Compiled>,
    watcher: Watcher,
    /// Sent, or in `rows`.
    sequence: u64,
    rows: VecDeque<EventRow>,
    is_over: bool,
}

pub(super) async fn watch(api: &Api, namespace: &Namespace, id: ExecutionId, after: u64) -> Result<Events, Status> {
    let app = Arc::clone(&api.app);
    // First the watcher, then the log: nothing falls between the two.
    let watcher = app.watchers.join(id);
    // A shard that has gone before has ended the watchers that there were then.
    if app.workers.shared().holdings.held(id).is_none() {
        return Err(Error::from(OrchestratorError::Moved).into());
    }
    let summary = app.summary(namespace, id).await?;
    let compiled = app.plans.compiled(namespace, summary.workflow_id, summary.workflow_version).await?;
    let watch = Watch {
        app,
        namespace: namespace.clone(),
        id,
        compiled,
        watcher,
        sequence: after,
        rows: VecDeque::new(),
        is_over: false,
    };
    // Whoever does not read the stream does not poll it either: a query that had begun would keep its connection to the database
    // until they do. So the log is read apart, one event ahead. The task ends with the stream, which owns it.
    let (sender, receiver) = mpsc::channel(1);
    let mut reading = JoinSet::new();
    reading.spawn(watch.read(sender));
    let events = stream::unfold((receiver, reading), async |(mut receiver, reading)| {
        let event = receiver.recv().await?;
        Some((event, (receiver, reading)))
    });
    Ok(events.boxed())
}

impl Watch {
    async fn read(mut self, events: mpsc::Sender<Result<WatchEventsResponse, Status>>) {
        while let Some(row) = self.next().await.transpose() {
            self.is_over |= row.is_err();
            let event = row.map(|row| WatchEventsResponse { event: Some(wire::event(row, &self.compiled.plan)) });
            if events.send(event.map_err(Status::from)).await.is_err() {
                return;
            }
        }
    }

    /// The next event; none after the last of an execution that has ended, after an error, where the shard moves, and at a
    /// drain.
    async fn next(&mut self) -> Result<Option<EventRow>, OrchestratorError> {
        loop {
            if self.is_over {
                return Ok(None);
            }
            if let Some(row) = self.rows.pop_front() {
                return Ok(Some(row));
            }
            // Before the log is read: an end that it has is then in what is read next.
            let summary = self.app.summary(&self.namespace, self.id).await?;
            self.rows = self.app.events(self.id, self.sequence, PAGE).await?.rows.into();
            if let Some(last) = self.rows.back() {
                self.sequence = last.sequence;
                continue;
            }
            if summary.ended_at.is_some() && self.sequence >= summary.last_sequence {
                return Ok(None);
            }
            // Both arms are cancel-safe.
            tokio::select! {
                is_told = self.watcher.changed() => {
                    // The shard moves. Whoever watches asks again, from where it is, and is led to its new owner.
                    if !is_told {
                        return Ok(None);
                    }
                }
                () = self.app.edge.draining() => return Ok(None),
            }
        }
    }
}
