//! Calls about executions.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use domain::{ExecutionId, Namespace, Payload};
use store::Page;
use tokio::sync::oneshot;
use tracing::Instrument as _;
use workflow::{Command, Explanation, Failure, Holder, Parent, Start, Status};

use super::{App, Compiled, Snapshot};
use crate::{
    error::OrchestratorError,
    spans,
    store::{EventRow, ExecutionFilter, Summary, WorkflowRef},
    workers::{Input, Starting},
};

/// A start as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct StartCall {
    pub(crate) namespace: Namespace,
    pub(crate) id: ExecutionId,
    /// Was the id made for this call? Otherwise it may have been started before: that makes the call idempotent.
    pub(crate) is_fresh: bool,
    pub(crate) workflow: WorkflowRef,
    pub(crate) version: Option<u32>,
    pub(crate) input: Payload,
    pub(crate) wait: Duration,
    /// What it is to go on with; empty: the call's own trace.
    pub(crate) traceparent: String,
    /// Whose child it is to be.
    pub(crate) parent: Option<Parent>,
}

/// What a child tells its parent, or asks it.
#[derive(Clone, Debug)]
pub(crate) struct ChildReport {
    pub(crate) namespace: Namespace,
    pub(crate) parent: ExecutionId,
    pub(crate) task_id: String,
    /// Absent where it has not ended.
    pub(crate) outcome: Option<Result<Payload, Failure>>,
}

/// What the sweeper's measure says now.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    pub(crate) live: usize,
    pub(crate) stuck: Vec<ExecutionId>,
    pub(crate) repaired: u64,
}

/// The longest wait for an end.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

impl App {
    /// Starts an execution; answers when its start is committed, and when it ends or the wait is over.
    pub(crate) async fn start(&self, mut call: StartCall) -> Result<Snapshot, OrchestratorError> {
        let span = spans::start(call.id, &mut call);
        Box::pin(self.start_now(call)).instrument(span).await
    }

    async fn start_now(&self, call: StartCall) -> Result<Snapshot, OrchestratorError> {
        let id = call.id;
        let (start, compiled) = match self.prepare(&call, id).await {
            Ok(prepared) => prepared,
            Err(error) if call.is_fresh => return Err(error),
            // What could not be started now may have been before.
            Err(error) => match self.store.summary(id).await? {
                Some(summary) => return self.started_before(&call, summary).await,
                None => return Err(error),
            },
        };
        let (reply, answer) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let ended = (!call.wait.is_zero()).then_some(ended);
        let starting = Starting { start, is_fresh: call.is_fresh, compiled, reply, ended };
        self.workers.call(id, Input::Start(Box::new(starting)))?;
        let accepted = self.workers.answer(answer).await?;
        if call.wait.is_zero() {
            return Ok(accepted);
        }
        match self.wait_for_end(&call.namespace, id, call.wait, end).await {
            // It is recorded, and goes on after the restart.
            Err(OrchestratorError::Stopping) => Ok(accepted),
            ended => ended,
        }
    }

    async fn prepare(
        &self,
        call: &StartCall,
        execution_id: ExecutionId,
    ) -> Result<(Start, Arc<Compiled>), OrchestratorError> {
        let head = self.plans.head(&call.namespace, &call.workflow).await?;
        if head.is_archived {
            return Err(OrchestratorError::WorkflowArchived(head.id.to_string()));
        }
        let compiled = self.plans.compiled(&call.namespace, head.id, call.version.unwrap_or(head.newest)).await?;
        compiled.check_input(&call.input)?;
        let start = Start {
            execution_id,
            namespace: call.namespace.clone(),
            workflow_id: head.id,
            workflow_version: compiled.version,
            input: call.input.clone(),
            traceparent: call.traceparent.clone(),
            parent: call.parent.clone(),
        };
        Ok((start, compiled))
    }

    /// The same start again.
    async fn started_before(&self, call: &StartCall, summary: Summary) -> Result<Snapshot, OrchestratorError> {
        if summary.namespace != call.namespace {
            return Err(OrchestratorError::IdTaken(summary.id.to_string()));
        }
        if call.wait.is_zero() || summary.ended_at.is_some() {
            return self.get(&call.namespace, summary.id, false).await;
        }
        let (ended, end) = oneshot::channel();
        self.workers.call(summary.id, Input::Await { id: summary.id, ended })?;
        self.wait_for_end(&call.namespace, summary.id, call.wait, end).await
    }

    /// The execution at its end, or as it is where the wait is over before that. A drain is the end of every wait: the shards
    /// are to be handed over at once, and their next owner can be asked.
    async fn wait_for_end(
        &self,
        namespace: &Namespace,
        id: ExecutionId,
        wait: Duration,
        end: oneshot::Receiver<Snapshot>,
    ) -> Result<Snapshot, OrchestratorError> {
        // All arms are cancel-safe.
        let ended = tokio::select! {
            ended = end => ended.ok(),
            () = tokio::time::sleep(wait.min(LONGEST_WAIT)) => None,
            () = self.edge.draining() => None,
        };
        match ended {
            Some(ended) => Ok(ended),
            None => self.get(namespace, id, false).await,
        }
    }

    pub(crate) async fn get(
        &self,
        namespace: &Namespace,
        id: ExecutionId,
        with_steps: bool,
    ) -> Result<Snapshot, OrchestratorError> {
        let (reply, answer) = oneshot::channel();
        let namespace = namespace.clone();
        self.workers.call(id, Input::Get { id, namespace, with_steps, reply })?;
        let mut snapshot = self.workers.answer(answer).await?;
        if snapshot.summary.status == Status::Queued {
            let places = self.store.lock_places(id).await?;
            snapshot.queued_before =
                places.into_iter().find(|(holder, _)| *holder == Holder::Execution).map(|(_, before)| before);
        }
        Ok(snapshot)
    }

    /// Gives an execution a command; answers when what follows is committed.
    pub(crate) async fn command(
        &self,
        namespace: Namespace,
        id: ExecutionId,
        command: Command,
    ) -> Result<Snapshot, OrchestratorError> {
        let (reply, answer) = oneshot::channel();
        self.workers.call(id, Input::Command { id, namespace, command, reply })?;
        self.workers.answer(answer).await
    }

    /// How a child of an execution ended, or a question whether it is still waited for; answers whether it is, or was.
    pub(crate) async fn child_ended(&self, report: ChildReport) -> Result<bool, OrchestratorError> {
        let (reply, answer) = oneshot::channel();
        let id = report.parent;
        self.workers.call(id, Input::Child { report, reply })?;
        self.workers.answer(answer).await
    }

    /// An execution is to look at the locks that it waits for.
    pub(crate) fn review_locks(&self, id: ExecutionId) -> Result<(), OrchestratorError> {
        self.workers.call(id, Input::Review { id })
    }

    pub(crate) async fn explain(
        &self,
        namespace: Namespace,
        id: ExecutionId,
    ) -> Result<(Status, Explanation), OrchestratorError> {
        let (reply, answer) = oneshot::channel();
        let places = self.store.lock_places(id).await?;
        self.workers.call(id, Input::Explain { id, namespace, places, reply })?;
        self.workers.answer(answer).await
    }

    pub(crate) async fn list(&self, filter: &ExecutionFilter) -> Result<Vec<Summary>, OrchestratorError> {
        Ok(self.store.list(filter).await?)
    }

    /// The summary, where the execution is in the namespace.
    pub(crate) async fn summary(&self, namespace: &Namespace, id: ExecutionId) -> Result<Summary, OrchestratorError> {
        let summary = self.store.summary(id).await?.filter(|summary| summary.namespace == *namespace);
        summary.ok_or(OrchestratorError::ExecutionNotFound(id))
    }

    pub(crate) async fn events(
        &self,
        id: ExecutionId,
        after: u64,
        limit: usize,
    ) -> Result<Page<EventRow>, OrchestratorError> {
        Ok(self.store.events(id, after, limit).await?)
    }

    /// Counts what nothing will wake (I7).
    pub(crate) async fn liveness(&self) -> Result<Liveness, OrchestratorError> {
        let shards = self.workers.shared().holdings.shards();
        let census = self.workers.census(self.store.live(&shards).await?).await?;
        let mut stuck = census.stuck;
        for id in census.missing {
            // It may have ended since the database was asked.
            if self.store.summary(id).await?.is_some_and(|summary| summary.ended_at.is_none()) {
                stuck.push(id);
            }
        }
        let repaired = self.workers.shared().repaired.load(Ordering::Relaxed);
        Ok(Liveness { live: census.live, stuck, repaired })
    }
}
