//! Who is connected, what waits, and who holds what: one state machine behind one lock.
//!
//! Every operation is short, does no I/O, and answers through the queues of the streams. Invariants: a task or message is in
//! one place at a time; credit is never exceeded but by replies; whatever was taken from a queue keeps its rank, so it comes
//! back to the front.

mod exchanges;
mod mail;
mod sessions;
mod state;
mod tasks;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contracts::communication::v1::{
    ServerEvent, TaskAlive, TaskBegun, TaskDeadLettered, TaskShown, TaskUpdate, agent_event::Event,
    orchestrator_event::Event as OrchestratorEvent, server_event, task_update::Update,
};
use domain::{Clock, SessionId};
use errors::Error;
use tokio::{sync::Notify, time::Instant};

pub(crate) use self::state::{Identity, Limits, Moment};
use self::{
    mail::MOST_UNWRITTEN,
    state::{Delayed, State},
};
use super::{
    outgoing::Outgoing,
    record::{Id, Letter, Record},
};
use crate::{error::CommunicationError, metrics};

/// The lock around everything in memory.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    written: Notify,
    presence: Notify,
}

/// What a session holds, for the registry.
#[derive(Clone, Debug)]
pub(crate) struct Presence {
    pub(crate) session: SessionId,
    pub(crate) identity: Identity,
    pub(crate) in_flight: usize,
    pub(crate) closed: bool,
}

impl Hub {
    pub(crate) fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let now = Moment { at: clock.now(), instant: Instant::now() };
        Self { state: Mutex::new(State::new(limits, now)), clock, written: Notify::new(), presence: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside is a bug that has stopped the service; what follows only winds down.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an operation, then closes the streams that did not take their events, and wakes who writes.
    fn with<T>(&self, operation: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.now = Moment { at: self.clock.now(), instant: Instant::now() };
        let answer = operation(&mut state);
        while let Some(id) = state.slow_sessions.pop() {
            ::metrics::counter!(metrics::STREAMS_TOO_SLOW).increment(1);
            state.close(id, Some(CommunicationError::TooSlow.into()));
        }
        while let Some(replica) = state.slow_exchanges.pop() {
            if let Some(exchange) = state.exchanges.remove(&replica) {
                ::metrics::counter!(metrics::STREAMS_TOO_SLOW).increment(1);
                exchange.outgoing.fail(CommunicationError::TooSlow.into());
                state.forget_unheld(&replica);
            }
        }
        let (unwritten, closed) = (!state.journal.is_empty(), !state.closed.is_empty());
        drop(state);
        if unwritten {
            self.written.notify_one();
        }
        if closed {
            self.presence.notify_one();
        }
        answer
    }

    /// A session begins; false where the server stops, which ends its stream.
    pub(crate) fn open(&self, id: SessionId, identity: Identity, outgoing: Outgoing<ServerEvent>) -> bool {
        self.with(|state| {
            if state.stopping {
                outgoing.fail(CommunicationError::Stopping.into());
                return false;
            }
            state.open(id, identity, outgoing);
            true
        })
    }

    /// A session has ended, whoever ended it.
    pub(crate) fn close(&self, id: SessionId, error: Option<CommunicationError>) {
        self.with(|state| state.close(id, error.map(Into::into)));
    }

    /// Ends the sessions of an agent that is gone.
    pub(crate) fn close_agent(&self, agent_id: &str) {
        self.with(|state| {
            let its = state.sessions.iter().filter(|(_, session)| *session.identity.agent_id == *agent_id);
            for id in its.map(|(id, _)| *id).collect::<Vec<_>>() {
                state.close(id, Some(CommunicationError::AgentNotFound(agent_id.to_owned()).into()));
            }
        });
    }

    /// What an agent says, but `send`, which needs the database.
    pub(crate) fn hear(&self, id: SessionId, events: Vec<Event>) {
        self.with(|state| {
            let now = state.now.instant;
            if let Some(session) = state.sessions.get_mut(&id) {
                session.heard = now;
            }
            for event in events {
                hear(state, id, event);
            }
        });
    }

    /// An event for a session, where it still is.
    pub(crate) fn tell(&self, id: SessionId, event: server_event::Event) {
        self.with(|state| state.tell(id, event));
    }

    /// The stream of an orchestrator begins: the number that names it; none where the server stops.
    pub(crate) fn attach(&self, replica: &Id, outgoing: Outgoing<TaskUpdate>) -> Option<u64> {
        self.with(|state| {
            if state.stopping {
                outgoing.fail(CommunicationError::Stopping.into());
                return None;
            }
            Some(state.attach(replica, outgoing))
        })
    }

    /// The stream of an orchestrator has ended.
    pub(crate) fn detach(&self, replica: &Id, generation: u64) {
        self.with(|state| state.detach(replica, generation));
    }

    /// An orchestrator has said something faulty: its stream ends.
    pub(crate) fn fail_exchange(&self, replica: &Id, generation: u64, error: Error) {
        self.with(|state| {
            if state.exchanges.get(replica).is_some_and(|exchange| exchange.generation == generation)
                && let Some(exchange) = state.exchanges.remove(replica)
            {
                exchange.outgoing.fail(error);
                state.forget_unheld(replica);
            }
        });
    }

    /// What an orchestrator says after `attach`; nothing counts any more once its stream was replaced.
    pub(crate) fn order(&self, replica: &Id, generation: u64, events: Vec<OrchestratorEvent>) {
        self.with(|state| {
            for event in events {
                if state.exchanges.get(replica).is_none_or(|exchange| exchange.generation != generation) {
                    return;
                }
                match event {
                    OrchestratorEvent::Attach(_) => {}
                    OrchestratorEvent::Dispatch(task) => state.dispatch(replica, task),
                    OrchestratorEvent::Cancel(cancel) => state.cancel(&cancel.task_id, cancel.reason),
                    OrchestratorEvent::Ack(ack) => state.ack_result(&ack.task_id),
                }
            }
        });
    }

    /// Promises a place in a mailbox; false where it is full.
    pub(crate) fn reserve(&self, agent: &Id) -> bool {
        self.with(|state| state.reserve(agent))
    }

    /// Gives a promised place back.
    pub(crate) fn release(&self, agent: &Id) {
        self.with(|state| state.release_place(agent));
    }

    /// Puts recorded messages into their mailboxes, in order; their places were promised.
    pub(crate) fn post(&self, letters: Vec<Letter>) {
        self.with(|state| letters.into_iter().for_each(|letter| state.post(letter, 0)));
    }

    /// Fills the mailboxes from the database, beyond their bound if need be.
    pub(crate) fn refill(&self, letters: Vec<(Letter, u32)>) {
        self.with(|state| {
            for (letter, deliveries) in letters {
                state.mailboxes.entry(Arc::clone(&letter.agent_id)).or_default().size += 1;
                state.post(letter, deliveries);
            }
        });
    }

    /// What is to be recorded, in order; waits while there is nothing. Cancel-safe.
    pub(crate) async fn unwritten(&self) {
        self.written.notified().await;
    }

    /// Takes what is to be recorded. Deliveries that paused for it go on.
    pub(crate) fn take_journal(&self) -> Vec<Record> {
        self.with(|state| {
            let paused = state.journal.len() >= MOST_UNWRITTEN;
            let journal = std::mem::take(&mut state.journal);
            if paused {
                let ids: Vec<_> = state.sessions.keys().copied().collect();
                for id in ids {
                    state.pull(id);
                }
            }
            journal
        })
    }

    /// Dead letters are recorded: the orchestrators of those that were tasks may know.
    pub(crate) fn recorded(&self, records: &[Record]) {
        self.with(|state| {
            for record in records {
                let Record::Died(letter, Some(task)) = record else { continue };
                let reason = format!("{}: {}", letter.reason, letter.detail);
                let update = TaskDeadLettered { dead_letter_id: letter.id.to_string(), reason };
                let id: Id = letter.subject_id.as_str().into();
                state.report(&task.owner, &id, &task.agent_id, Update::DeadLettered(update));
            }
        });
    }

    /// Whatever time brings: ended leases and delays, expired messages.
    pub(crate) fn tick(&self) {
        self.with(|state| {
            state.end_leases();
            state.expire();
            while let Some(entry) = state.delayed.first_entry()
                && entry.key().0 <= state.now.instant
            {
                match entry.remove() {
                    Delayed::Task(id) => state.ripe_task(&id),
                    Delayed::Message(id) => state.ripe_mail(&id),
                }
            }
            let queued: usize = state.queues.values().map(std::collections::BTreeMap::len).sum();
            ::metrics::gauge!(metrics::TASKS_QUEUED).set(queued as f64);
            ::metrics::gauge!(metrics::TASKS).set(state.tasks.len() as f64);
        });
    }

    /// Waits until a session has ended. Cancel-safe.
    pub(crate) async fn sessions_closed(&self) {
        self.presence.notified().await;
    }

    /// The sessions that have ended since the last call, and with `all` also those that are open.
    pub(crate) fn presence(&self, all: bool) -> Vec<Presence> {
        let mut state = self.lock();
        let closed = std::mem::take(&mut state.closed).into_iter();
        let closed = closed.map(|(session, identity)| Presence { session, identity, in_flight: 0, closed: true });
        let open = state.sessions.iter().filter(|_| all).map(|(id, session)| Presence {
            session: *id,
            identity: session.identity.clone(),
            in_flight: session.used(),
            closed: false,
        });
        closed.chain(open).collect()
    }

    /// Ends all streams, after telling the sessions to go elsewhere.
    pub(crate) fn stop(&self) {
        self.with(State::stop);
    }
}

fn hear(state: &mut State, id: SessionId, event: Event) {
    match event {
        Event::Started(started) => state.progress(id, &started.task_id, Update::Begun(TaskBegun {})),
        Event::Heartbeat(beat) => state.progress(id, &beat.task_id, Update::Alive(TaskAlive {})),
        Event::Progress(progress) => {
            state.progress(id, &progress.task_id, Update::Shown(TaskShown { detail: progress.detail }));
        }
        Event::Result(result) => state.result(id, result),
        Event::Nack(nack) => {
            let delay = Duration::from_millis(u64::from(nack.delay_ms));
            state.nack(id, &nack.delivery_id, &nack.reason, delay);
        }
        Event::Reject(reject) => state.reject(id, &reject.delivery_id, &reject.reason),
        Event::MessageAck(ack) => state.ack_mail(id, &ack.message_id),
        Event::Drain(_) => state.drain(id),
        // `hello` is checked and `send` is answered before; a ping has done its work by being heard.
        Event::Hello(_) | Event::Send(_) | Event::Ping(_) => {}
    }
}
