//! What goes up: events queue here, and leave in batches, as many as wait.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contracts::communication::v1::{AgentEvent, OpenSessionRequest, agent_event::Event, task_result::Outcome};
use futures::Stream;
use tokio::sync::Notify;

/// Events in one batch, at most.
const BATCH_EVENTS: usize = 512;
/// A batch ends when its payloads pass this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// With more than this waiting, hints are dropped.
const CONGESTED: usize = 4096;

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<AgentEvent>,
    closed: bool,
}

/// The way up of one stream.
#[derive(Debug, Default)]
pub(super) struct Wire {
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Wire {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an event.
    pub(super) fn push(&self, event: Event) {
        self.queue().events.push_back(AgentEvent { event: Some(event) });
        self.wake.notify_one();
    }

    /// Sends an event, unless there is a jam.
    pub(super) fn hint(&self, event: Event) {
        if self.queue().events.len() < CONGESTED {
            self.push(event);
        }
    }

    /// Ends the way up after what waits.
    pub(super) fn close(&self) {
        self.queue().closed = true;
        self.wake.notify_one();
    }

    /// `None` where nothing waits; an empty batch where nothing will come any more.
    fn take(&self) -> Option<Vec<AgentEvent>> {
        let mut queue = self.queue();
        if queue.events.is_empty() {
            return queue.closed.then(Vec::new);
        }
        let (mut count, mut bytes) = (0, 0);
        for event in queue.events.iter().take(BATCH_EVENTS) {
            count += 1;
            bytes += payload_len(event);
            if bytes > BATCH_BYTES {
                break;
            }
        }
        Some(queue.events.drain(..count).collect())
    }

    /// The stream of batches. There is one reader: a wake-up goes to nobody else.
    pub(super) fn requests(self: Arc<Self>) -> impl Stream<Item = OpenSessionRequest> + Send + 'static {
        futures::stream::unfold(self, |wire| async move {
            loop {
                match wire.take() {
                    Some(events) if events.is_empty() => return None,
                    Some(events) => return Some((OpenSessionRequest { events }, wire)),
                    // A wake-up between `take` and here is kept by `Notify`.
                    None => wire.wake.notified().await,
                }
            }
        })
    }
}

fn payload_len(event: &AgentEvent) -> usize {
    match &event.event {
        Some(Event::Result(result)) => match &result.outcome {
            Some(Outcome::Output(output)) => output.len(),
            Some(Outcome::Failure(failure)) => failure.message.len() + failure.details.len(),
            None => 0,
        },
        Some(Event::Send(send)) => send.message.as_ref().map_or(0, |message| message.payload.len()),
        Some(Event::Progress(progress)) => progress.detail.len(),
        Some(Event::Hello(hello)) => hello.config.len(),
        Some(
            Event::Started(_)
            | Event::Heartbeat(_)
            | Event::Nack(_)
            | Event::Reject(_)
            | Event::MessageAck(_)
            | Event::Ping(_)
            | Event::Drain(_),
        )
        | None => 0,
    }
}
