//! A unit of work, as its handler sees it.

use std::time::Duration;

use bytes::Bytes;
use contracts::communication::v1 as proto;
use domain::Payload;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{Context, Failure};

/// One task: what to do, with what, and the ways to talk while doing it. The input is not parsed unless asked for.
#[derive(Clone, Debug)]
pub struct Task {
    /// `execution/step[index]/attempt`, or a message's id where an agent asked by message. See [`Task::idempotency_key`].
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// The execution; empty where an agent asked by message.
    pub execution_id: String,
    /// The step's id in the definition; empty where an agent asked by message.
    pub step_id: String,
    /// The instance of a `for_each`, or the voter of a decision.
    pub index: Option<u32>,
    /// 1 for the first.
    pub attempt: u32,
    /// What to do.
    pub action: String,
    /// How long the attempt may take; the orchestrator enforces it.
    pub timeout: Option<Duration>,
    /// [`Progress::heartbeat`] is due more often than this.
    pub heartbeat_timeout: Option<Duration>,
    /// W3C trace context to pass on; may be empty. Within the execution's trace.
    pub traceparent: String,
    input: Bytes,
    context: Context,
    progress: Progress,
}

impl Task {
    pub(crate) fn from_proto(task: proto::Task, context: Context, cancelled: CancellationToken) -> Self {
        let duration = |millis: u64| (millis > 0).then(|| Duration::from_millis(millis));
        let progress = Progress { task_id: Some(task.id.clone()), cancelled, context: context.clone() };
        Self {
            id: task.id,
            namespace: task.namespace,
            execution_id: task.execution_id,
            step_id: task.step_id,
            index: task.index,
            attempt: task.attempt,
            action: task.action,
            timeout: duration(task.timeout_ms),
            heartbeat_timeout: duration(task.heartbeat_timeout_ms),
            traceparent: task.traceparent,
            input: task.input,
            context,
            progress,
        }
    }

    /// The task that a request message stands for.
    pub(crate) fn from_request(message: &crate::Message, action: String, input: Bytes, context: Context) -> Self {
        let progress = Progress { task_id: None, cancelled: CancellationToken::new(), context: context.clone() };
        Self {
            id: message.id.clone(),
            namespace: message.namespace.clone(),
            execution_id: String::new(),
            step_id: String::new(),
            index: None,
            attempt: message.delivery,
            action,
            timeout: None,
            heartbeat_timeout: None,
            traceparent: message.traceparent.clone(),
            input,
            context,
            progress,
        }
    }

    /// The same for every attempt at this piece of work, and different for every other: what to send along with whatever is
    /// done outside, so that a repetition is recognised there.
    pub fn idempotency_key(&self) -> &str {
        // The last part of a task's id counts the attempts; a message's id has one part.
        self.id.rsplit_once('/').map_or(self.id.as_str(), |(work, _)| work)
    }

    /// The input as `T`. Failure: `invalid_input`, not retryable, with serde's word on what is wrong and where.
    pub fn input<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(self.input_bytes())
            .map_err(|error| Failure::invalid_input(format!("the input of `{}` does not fit: {error}", self.action)))
    }

    /// The input's JSON text.
    pub fn input_bytes(&self) -> &Bytes {
        const NULL: Bytes = Bytes::from_static(b"null");
        static ABSENT: Bytes = NULL;
        if self.input.is_empty() { &ABSENT } else { &self.input }
    }

    /// The input as a checked JSON text.
    pub fn payload(&self) -> Result<Payload, Failure> {
        Payload::from_slice(self.input_bytes()).map_err(|error| Failure::invalid_input(errors::chain(&error)))
    }

    /// The agent that works on it: for messages to others.
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Signs of life and of cancellation, for work that is handed to a thread.
    pub const fn progress_handle(&self) -> &Progress {
        &self.progress
    }

    /// Tells that work goes on; see [`Progress::heartbeat`].
    pub fn heartbeat(&self) {
        self.progress.heartbeat();
    }

    /// Shows how far work is; see [`Progress::show`].
    pub fn progress(&self, detail: &impl Serialize) {
        self.progress.show(detail);
    }

    /// Cancelled when the task is withdrawn; see [`Progress::cancelled`].
    pub const fn cancelled(&self) -> &CancellationToken {
        self.progress.cancelled()
    }
}

/// Signs of life of one task. Cloning is cheap; it may move to other threads.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Absent for a task that came as a message: nobody watches those.
    task_id: Option<String>,
    cancelled: CancellationToken,
    context: Context,
}

impl Progress {
    /// Tells that work goes on, for tasks with a heartbeat timeout. Dropped while the connection is down or congested.
    pub fn heartbeat(&self) {
        use proto::agent_event::Event;
        if let Some(task_id) = self.task_id.clone() {
            self.context.shared().hint(Event::Heartbeat(proto::TaskHeartbeat { task_id }));
        }
    }

    /// Shows how far work is, to those who watch the execution. Not durable; dropped like heartbeats.
    pub fn show(&self, detail: &impl Serialize) {
        use proto::agent_event::Event;
        let detail = serde_json::to_vec(detail);
        if let (Some(task_id), Ok(detail)) = (self.task_id.clone(), detail) {
            self.context.shared().hint(Event::Progress(proto::TaskProgress { task_id, detail: detail.into() }));
        }
    }

    /// Cancelled when the task is withdrawn (its step was cancelled or timed out). The handler itself is dropped at its next
    /// `await`; this is for what it has given to others, such as a blocking thread.
    pub const fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }
}
