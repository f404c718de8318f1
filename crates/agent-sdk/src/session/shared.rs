//! The state of a session and its rules: what runs, what is kept, who waits for what. No I/O.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use contracts::communication::v1::{self as proto, agent_event::Event};
use domain::{InstanceId, MessageId, Payload, SystemClock};
use lifecycle::crash_point;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::wire::Wire;
use crate::{Outgoing, SendError};

/// Results that wait for their acknowledgement, at most; beyond it tasks go back to their queue.
pub(super) const MOST_KEPT: usize = 16_384;
/// Messages that wait for their receipt, at most.
pub(super) const MOST_SENDS: usize = 1024;
/// The largest payload that is tried, in bytes: a larger one could end the stream instead of being refused.
const MOST_PAYLOAD: usize = contracts::MAX_MESSAGE_BYTES / 4;
/// Ids of messages dealt with, so that a repeated delivery is acknowledged and not handled again.
const REMEMBERED: usize = 4096;

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Reply {
    /// JSON text, unchecked.
    pub(crate) payload: Bytes,
}

#[derive(Debug)]
enum TaskState {
    Running { run: u64, cancelled: CancellationToken },
    Done(proto::TaskResult),
}

#[derive(Debug)]
struct Sending {
    message: proto::Message,
    receipt: oneshot::Sender<Result<String, SendError>>,
}

#[derive(Debug, Default)]
struct State {
    agent_id: String,
    config: Option<Payload>,
    wire: Option<Arc<Wire>>,
    closed: bool,
    tasks: HashMap<String, TaskState>,
    kept: usize,
    next_run: u64,
    messages: HashSet<String>,
    dealt_with: HashSet<String>,
    dealt_with_order: VecDeque<String>,
    sends: BTreeMap<u64, Sending>,
    next_send: u64,
    replies: HashMap<String, oneshot::Sender<Reply>>,
}

impl State {
    fn push(&self, event: Event) {
        if let Some(wire) = &self.wire {
            wire.push(event);
        }
    }
}

/// What to do with a delivery.
#[derive(Debug)]
pub(super) enum Admission {
    /// Run it; the number names this run.
    Run(u64, CancellationToken),
    /// It runs already, or was answered from what is kept.
    Known,
}

/// What a session's stream, its handlers and their contexts share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Of this process; answers to it come to none of the others that work as the same agent.
    instance: InstanceId,
    state: Mutex<State>,
    next_correlation: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        let instance = InstanceId::generate(&SystemClock);
        Self { instance, state: Mutex::default(), next_correlation: AtomicU64::default() }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new stream is welcome: what was not acknowledged goes over it.
    pub(super) fn connected(&self, wire: &Arc<Wire>, welcome: proto::Welcome) {
        let mut state = self.state();
        state.agent_id = welcome.agent_id;
        state.config = Payload::from_slice(&welcome.config).ok();
        for task in state.tasks.values() {
            if let TaskState::Done(result) = task {
                wire.push(Event::Result(result.clone()));
            }
        }
        for (&reference, sending) in &state.sends {
            wire.push(Event::Send(proto::Send { r#ref: reference, message: Some(sending.message.clone()) }));
        }
        state.wire = Some(Arc::clone(wire));
    }

    /// The stream is gone.
    pub(super) fn disconnected(&self) {
        self.state().wire = None;
    }

    /// The session is gone: nobody will answer any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.wire = None;
        state.replies.clear();
        for (_, sending) in std::mem::take(&mut state.sends) {
            // Nobody waits where the receiver is gone; the same below.
            let _ = sending.receipt.send(Err(SendError::Closed));
        }
    }

    pub(crate) fn agent_id(&self) -> String {
        self.state().agent_id.clone()
    }

    pub(crate) fn config(&self) -> Payload {
        self.state().config.clone().unwrap_or_else(Payload::empty_object)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.state().wire.is_some()
    }

    pub(crate) fn in_flight(&self) -> usize {
        let state = self.state();
        state.tasks.len() - state.kept + state.messages.len()
    }

    /// Nothing runs, and everything that was done is acknowledged.
    pub(super) fn is_settled(&self) -> bool {
        let state = self.state();
        state.tasks.is_empty() && state.messages.is_empty() && state.sends.is_empty()
    }

    /// Something that may be lost.
    pub(crate) fn hint(&self, event: Event) {
        if let Some(wire) = &self.state().wire {
            wire.hint(event);
        }
    }

    /// A task was handed over.
    pub(super) fn admit_task(&self, id: &str) -> Admission {
        let mut state = self.state();
        match state.tasks.get(id) {
            Some(TaskState::Running { .. }) => return Admission::Known,
            Some(TaskState::Done(result)) => {
                state.push(Event::Result(result.clone()));
                return Admission::Known;
            }
            None => {}
        }
        if state.kept >= MOST_KEPT {
            let reason = "the agent holds too many results that are not acknowledged".to_owned();
            state.push(Event::Nack(proto::Nack { delivery_id: id.to_owned(), reason, delay_ms: 1000 }));
            return Admission::Known;
        }
        let run = state.next_run;
        state.next_run += 1;
        let cancelled = CancellationToken::new();
        state.tasks.insert(id.to_owned(), TaskState::Running { run, cancelled: cancelled.clone() });
        crash_point("agent-runner.task.admitted");
        Admission::Run(run, cancelled)
    }

    /// A task is not wanted any more.
    pub(super) fn withdraw(&self, id: &str) {
        let mut state = self.state();
        match state.tasks.remove(id) {
            Some(TaskState::Running { cancelled, .. }) => cancelled.cancel(),
            Some(TaskState::Done(_)) => state.kept -= 1,
            None => {}
        }
    }

    /// A handler has ended; dropped where its task was withdrawn meanwhile.
    pub(super) fn finish(&self, run: u64, result: proto::TaskResult) {
        let mut state = self.state();
        let Some(task) = state.tasks.get_mut(&result.task_id) else { return };
        if !matches!(task, TaskState::Running { run: current, .. } if *current == run) {
            return;
        }
        *task = TaskState::Done(result.clone());
        state.kept += 1;
        crash_point("agent-runner.result.before");
        state.push(Event::Result(result));
    }

    /// A result is committed.
    pub(super) fn acknowledged(&self, id: &str) {
        let mut state = self.state();
        if matches!(state.tasks.get(id), Some(TaskState::Done(_))) {
            crash_point("agent-runner.result.acknowledged");
            state.tasks.remove(id);
            state.kept -= 1;
        }
    }

    /// A message was delivered: true where it is to be handled.
    pub(super) fn admit_message(&self, id: &str) -> bool {
        let mut state = self.state();
        if state.dealt_with.contains(id) {
            state.push(Event::MessageAck(proto::MessageAck { message_id: id.to_owned() }));
            return false;
        }
        state.messages.insert(id.to_owned())
    }

    /// A message is dealt with, or given back.
    pub(super) fn finish_message(&self, id: String, end: Event) {
        crash_point("agent-runner.message.dealt_with");
        let mut state = self.state();
        state.messages.remove(&id);
        if matches!(end, Event::MessageAck(_)) && state.dealt_with.insert(id.clone()) {
            state.dealt_with_order.push_back(id);
            if state.dealt_with_order.len() > REMEMBERED
                && let Some(oldest) = state.dealt_with_order.pop_front()
            {
                state.dealt_with.remove(&oldest);
            }
        }
        state.push(end);
    }

    /// Queues a message.
    pub(crate) fn send(&self, message: Outgoing) -> Result<Receipt, SendError> {
        let mut state = self.state();
        if state.closed {
            return Err(SendError::Closed);
        }
        // Those whose senders have given up do not count.
        if state.sends.len() >= MOST_SENDS {
            state.sends.retain(|_, sending| !sending.receipt.is_closed());
        }
        if state.sends.len() >= MOST_SENDS {
            return Err(SendError::Busy);
        }
        // Chosen here, so that a message whose receipt was lost, and which is sent again, is the same one.
        let mut message = proto::Message { id: MessageId::generate(&SystemClock).to_string(), ..message.into_proto() };
        if message.traceparent.is_empty() {
            message.traceparent = trace::traceparent();
        }
        if message.payload.len() > MOST_PAYLOAD {
            return Err(SendError::Refused(format!(
                "request_invalid: a payload of {} bytes is too large; put it into a file, and send its path",
                message.payload.len()
            )));
        }
        let reference = state.next_send;
        state.next_send += 1;
        let (receipt, received) = oneshot::channel();
        state.push(Event::Send(proto::Send { r#ref: reference, message: Some(message.clone()) }));
        state.sends.insert(reference, Sending { message, receipt });
        Ok(Receipt(received))
    }

    /// The server has accepted or refused a message.
    pub(super) fn receipt(&self, receipt: proto::Receipt) {
        let Some(sending) = self.state().sends.remove(&receipt.r#ref) else { return };
        let outcome =
            if receipt.error.is_empty() { Ok(receipt.message_id) } else { Err(SendError::Refused(receipt.error)) };
        let _ = sending.receipt.send(outcome);
    }

    /// The instance, where it waits for answers.
    pub(super) fn asker(&self) -> Option<InstanceId> {
        if self.state().replies.is_empty() { None } else { Some(self.instance) }
    }

    /// Gets ready for the answer to a request.
    pub(crate) fn expect_reply(self: &Arc<Self>) -> Expected {
        // Unique among all processes that ever spoke for this agent, so that no late answer meets another question; and it says
        // where the answer goes.
        let counter = self.next_correlation.fetch_add(1, Ordering::Relaxed);
        let correlation_id = format!("{}.{counter}", self.instance);
        let (sender, receiver) = oneshot::channel();
        self.state().replies.insert(correlation_id.clone(), sender);
        Expected { shared: Arc::clone(self), correlation_id, receiver }
    }

    /// Gives an answer to whoever waits for it; false where nobody does.
    pub(super) fn resolve(&self, correlation_id: &str, payload: &Bytes) -> bool {
        let waiting = self.state().replies.remove(correlation_id);
        waiting.is_some_and(|waiting| waiting.send(Reply { payload: payload.clone() }).is_ok())
    }
}

/// The receipt of a message, when it comes.
#[derive(Debug)]
pub(crate) struct Receipt(oneshot::Receiver<Result<String, SendError>>);

impl Receipt {
    pub(crate) async fn received(self) -> Result<String, SendError> {
        self.0.await.unwrap_or(Err(SendError::Closed))
    }
}

/// An answer that is waited for; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Expected {
    shared: Arc<Shared>,
    correlation_id: String,
    receiver: oneshot::Receiver<Reply>,
}

impl Expected {
    pub(crate) fn correlation_id(&self) -> &str {
        &self.correlation_id
    }

    pub(crate) async fn received(mut self) -> Result<Reply, SendError> {
        (&mut self.receiver).await.map_err(|_| SendError::Closed)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.shared.state().replies.remove(&self.correlation_id);
    }
}
