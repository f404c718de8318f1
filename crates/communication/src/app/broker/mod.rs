//! The state machine that hands work to sessions. No I/O, no waiting: every call changes the state, and what follows from
//! it is pushed to outboxes (streams), to the journal (what is recorded) and to the transport (mailboxes).
//!
//! Invariants:
//! - A session never holds more deliveries than it has credit, replies apart; of those it holds as many again at most.
//! - A task is in exactly one place: queued, delayed, held by one session, leaving for the message broker, with the message
//!   broker, ended (its result waits to be acknowledged), or dying (its dead letter is being recorded).
//! - Where something waits in a queue, no session that may take it has free credit.
//! - What a lost session held is queued again, in front, before anything else happens.
//! - Updates about one task go out in the order in which things happened.
//!
//! Modules: [`queues`] and [`session`] are data; [`tasks`] is what happens to tasks, [`work`] how they get to other replicas,
//! [`remembered`] what is thought to be there, [`suspects`] for whom they wait,
//! [`signs`] how they are, [`results`] how they end, [`mail`] what happens to messages,
//! [`serving`] who hears for whom there are sessions, [`orchestrators`] who hears of tasks; this one has the lives of sessions.

mod mail;
mod orchestrators;
mod queues;
mod remembered;
mod results;
mod returns;
mod serving;
mod session;
mod signs;
mod suspects;
mod tasks;
#[cfg(test)]
mod tests;
mod work;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{AgentId, Clock, InstanceId, SessionId};
use errors::Error;

use self::{
    orchestrators::Orchestrators,
    queues::{Line, Queues},
    remembered::Remembered,
    results::Foreign,
    session::Session,
    tasks::Entry,
};
pub(crate) use self::{
    orchestrators::{Attachment, OrchestratorId},
    queues::QueueKey,
};
use super::{
    journal::Journal,
    model::{Mailbox, MessageOrTask, Reason, Target, TaskId, ToAgent, Welcome},
    outbox::Outbox,
};
use crate::{
    error::CommunicationError,
    transport::{Transport, Wanted, WorkQueues},
};

/// Bounds of a broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Tasks in one work queue.
    pub(crate) queue: usize,
    /// Hand-overs of a task or message.
    pub(crate) deliveries: u32,
    /// How long a task waits here before others may take it.
    pub(crate) spill_after: Duration,
    /// Bytes of one result.
    pub(crate) output: usize,
    /// Results of unknown tasks.
    pub(crate) foreign_results: usize,
}

/// A session that is about to open.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) session: SessionId,
    pub(crate) mailbox: Mailbox,
    /// It waits for answers to what it has asked over an earlier session.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) agent_type: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) credits: u32,
    pub(crate) config: bytes::Bytes,
}

/// How full a session is, for the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) mailbox: Mailbox,
    pub(crate) session: SessionId,
    pub(crate) in_flight: u32,
    pub(crate) capacity: u32,
    pub(crate) closed: bool,
}

/// The state machine.
pub(crate) struct Broker {
    limits: Limits,
    transport: Arc<dyn Transport>,
    /// Shared with other replicas; none where there are none.
    work: Option<Arc<dyn WorkQueues>>,
    journal: Arc<Journal>,
    clock: Arc<dyn Clock>,
    queues: Queues,
    tasks: HashMap<TaskId, Entry>,
    /// Tasks that wait with the message broker.
    enqueued: Remembered,
    /// When it was last looked at what of them to forget.
    tidied: Instant,
    /// Queues of which more waits here than the sessions here soon take.
    crowded: HashSet<Arc<QueueKey>>,
    /// Sessions that are kept free for tasks in line.
    awaited: HashMap<TaskId, SessionId>,
    delayed: BTreeMap<(Instant, u64), TaskId>,
    foreign: HashMap<TaskId, Foreign>,
    foreign_bytes: usize,
    sessions: HashMap<SessionId, Session>,
    /// The sessions that take from a mailbox.
    mailboxes: HashMap<Mailbox, Vec<SessionId>>,
    orchestrators: Orchestrators,
    /// Numbers hand-overs and delays.
    turns: u64,
    phase: Phase,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Sessions finish what they hold; one that opens meanwhile is sent away at once, with what it brings.
    Draining,
    /// Every stream has been ended; none begins.
    Over,
}

impl Broker {
    pub(crate) fn new(
        limits: Limits,
        transport: Arc<dyn Transport>,
        work: Option<Arc<dyn WorkQueues>>,
        journal: Arc<Journal>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            limits,
            transport,
            work,
            journal,
            clock,
            queues: Queues::default(),
            tasks: HashMap::new(),
            enqueued: Remembered::default(),
            tidied: Instant::now(),
            crowded: HashSet::new(),
            awaited: HashMap::new(),
            delayed: BTreeMap::new(),
            foreign: HashMap::new(),
            foreign_bytes: 0,
            sessions: HashMap::new(),
            mailboxes: HashMap::new(),
            orchestrators: Orchestrators::default(),
            turns: 0,
            phase: Phase::Running,
        }
    }

    /// Opens a session: welcomes it, then fills its credit; while the server stops it is asked to leave instead.
    pub(crate) fn open(&mut self, opening: Opening, outbox: Outbox<ToAgent>) {
        let id = opening.session;
        let fits = fits(&opening.mailbox, &opening.agent_type, &opening.capabilities);
        outbox.push(ToAgent::Welcome(Welcome {
            session: id,
            agent: opening.mailbox.agent,
            credits: opening.credits,
            config: opening.config,
        }));
        let session = Session {
            id,
            answers: opening.instance.map(|instance| Mailbox { instance: Some(instance), ..opening.mailbox.clone() }),
            mailbox: opening.mailbox,
            fits: fits.clone(),
            agent_type: opening.agent_type.into(),
            credits: opening.credits as usize,
            tasks: HashSet::new(),
            messages: HashMap::new(),
            replies: 0,
            outbox,
            draining: false,
            takes_mail: false,
            questions: 0,
            mail: true,
            mail_turn: false,
            owed: 0,
            suspects: Vec::new(),
            awaits: None,
            last_turn: 0,
        };
        self.sessions.insert(id, session);
        self.tend_mailbox(id);
        for key in &fits {
            self.enter(key, id);
        }
        match self.phase {
            Phase::Running => self.pump(id),
            Phase::Draining => self.send_away(id),
            Phase::Over => self.end_sessions(&CommunicationError::Stopping.into()),
        }
    }

    /// Ends a session, however it ended; what it held is queued again. None where it has ended before.
    pub(crate) fn close(&mut self, id: SessionId, why: &str) -> Option<Report> {
        let session = self.sessions.remove(&id)?;
        session.outbox.end(Ok(()));
        for key in &session.fits {
            self.leave(key, id);
        }
        for mailbox in session.mailboxes() {
            self.take_no_more(mailbox, id);
        }
        // What it held may be of queues that it has left: as a draining one, or as its agent changed.
        let mut touched: HashSet<_> = self.return_tasks(&session, why).into_iter().collect();
        touched.extend(session.fits.iter().cloned());
        self.return_messages(&session, why);
        session.mailboxes().for_each(|mailbox| self.close_unused(mailbox));
        if let Some((id, _)) = &session.awaits {
            self.pass_on(id);
        }
        for key in &touched {
            self.serve(key);
        }
        for key in &touched {
            self.tell_waiting(key);
            self.shed(key);
        }
        session.mailboxes().for_each(|mailbox| self.wake_mailbox(mailbox));
        Some(Report { closed: true, ..report(&session) })
    }

    /// Ends all sessions of an agent with an error.
    pub(crate) fn expel(&mut self, agent: AgentId, error: &Error) {
        for session in self.sessions.values().filter(|session| session.agent() == agent) {
            session.outbox.end(Err(error.clone()));
        }
    }

    /// An agent is gone for good: its sessions end, and what waits in its mailbox dies.
    pub(crate) fn remove(&mut self, mailbox: &Mailbox) {
        let error = CommunicationError::AgentNotFound(mailbox.agent.to_string());
        self.expel(mailbox.agent, &error.into());
        let sessions = self.sessions.values().filter(|session| session.mailbox == *mailbox);
        let sessions: Vec<_> = sessions.map(|session| session.id).collect();
        for session in sessions {
            self.close(session, "its agent was deleted");
        }
        for delivery in self.transport.empty(mailbox) {
            self.bury_message(&delivery, Reason::AgentDeleted, "");
        }
    }

    /// An agent has changed: its sessions take from other queues.
    pub(crate) fn refit(&mut self, mailbox: &Mailbox, agent_type: &str, capabilities: &[String]) {
        let wanted = fits(mailbox, agent_type, capabilities);
        let is_stale = |session: &&Session| session.fits != wanted && !session.draining;
        let found = self.mailboxes.get(mailbox).into_iter().flatten().filter_map(|id| self.sessions.get(id));
        let stale: Vec<_> = found.filter(is_stale).map(|session| session.id).collect();
        for id in stale {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let before = std::mem::replace(&mut session.fits, wanted.clone());
            for key in before.iter().filter(|key| !wanted.contains(*key)) {
                self.leave(key, id);
            }
            for key in wanted.iter().filter(|key| !before.contains(*key)) {
                self.enter(key, id);
            }
            // It finds it again where it still fits.
            self.wait_no_more(id);
            for key in &before {
                self.tell_waiting(key);
                self.shed(key);
            }
            self.pump(id);
        }
    }

    /// A session takes nothing new, and ends when it is finished.
    pub(crate) fn drain(&mut self, id: SessionId) {
        for key in &self.stop_taking(id) {
            self.tell_waiting(key);
            self.shed(key);
        }
        if let Some(session) = self.sessions.get(&id) {
            session.end_if_finished();
        }
    }

    /// A session takes nothing new; answers with the queues that it took from.
    fn stop_taking(&mut self, id: SessionId) -> Vec<Arc<QueueKey>> {
        let Some(session) = self.sessions.get_mut(&id) else { return Vec::new() };
        session.draining = true;
        let fits = std::mem::take(&mut session.fits);
        for key in &fits {
            self.leave(key, id);
        }
        self.wait_no_more(id);
        self.tend_mailbox(id);
        fits
    }

    /// Asks all sessions to end: the server stops. What waits is for other replicas, where there are some.
    pub(crate) fn drain_all(&mut self) {
        self.phase = Phase::Draining;
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        for id in ids {
            self.send_away(id);
        }
    }

    fn send_away(&mut self, id: SessionId) {
        for key in &self.stop_taking(id) {
            self.shed(key);
        }
        if let Some(session) = self.sessions.get(&id) {
            session.outbox.push(ToAgent::Drain("the server stops"));
            session.end_if_finished();
        }
    }

    /// Ends all sessions with an error.
    pub(crate) fn end_sessions(&self, error: &Error) {
        self.sessions.values().for_each(|session| session.outbox.end(Err(error.clone())));
    }

    /// Ends what is left: the server has stopped.
    pub(crate) fn finish(&mut self) {
        self.phase = Phase::Over;
        self.end_sessions(&CommunicationError::Stopping.into());
        self.orchestrators.end_all();
    }

    /// A session waits for the receipt of a send, so it does not end before; with a question it waits for an answer too, which
    /// comes to the instance that asks, where the question says which that is.
    pub(crate) fn owe(&mut self, id: SessionId, is_question: bool, asker: Option<InstanceId>) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.owed += 1;
            session.questions += usize::from(is_question);
            self.tend_mailbox(id);
            self.take_answers(id, asker);
        }
    }

    /// Pays what was owed.
    pub(crate) fn pay(&mut self, id: SessionId, event: ToAgent) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let was_full = session.owed >= session.owed_at_most();
            session.owed = session.owed.saturating_sub(1);
            session.outbox.push(event);
            if was_full {
                self.pump(id);
            } else {
                session.end_if_finished();
            }
        }
    }

    /// How full the sessions are.
    pub(crate) fn reports(&self) -> Vec<Report> {
        self.sessions.values().map(report).collect()
    }

    /// How full one session is.
    pub(crate) fn report(&self, id: SessionId) -> Option<Report> {
        self.sessions.get(&id).map(report)
    }

    /// Tasks that wait in queues.
    pub(crate) const fn queued(&self) -> usize {
        self.queues.waiting()
    }

    /// A session gave a delivery back, to come again at a time, or when it has cooled down.
    pub(crate) fn nack(&mut self, id: SessionId, delivery: &str, reason: &str, not_before: Option<Instant>) {
        match self.held(id, delivery) {
            Some(MessageOrTask::Task(task)) => self.nack_task(id, &task, reason, not_before),
            Some(MessageOrTask::Message(message)) => self.nack_message(id, message, reason, not_before),
            None => {}
        }
    }

    /// A session never wants to see a delivery again.
    pub(crate) fn reject(&mut self, id: SessionId, delivery: &str, reason: &str) {
        match self.held(id, delivery) {
            Some(MessageOrTask::Task(task)) => self.reject_task(id, &task, reason),
            Some(MessageOrTask::Message(message)) => self.reject_message(id, message, reason),
            None => {}
        }
    }

    /// What a delivery's id means; none where the session does not hold it, as after a cancel.
    fn held(&self, id: SessionId, delivery: &str) -> Option<MessageOrTask> {
        let session = self.sessions.get(&id)?;
        if let Some(task) = session.tasks.get(delivery) {
            return Some(MessageOrTask::Task(Arc::clone(task)));
        }
        let message = delivery.parse().ok()?;
        session.messages.contains_key(&message).then_some(MessageOrTask::Message(message))
    }

    /// Time has passed: delayed tasks come back, and what has waited for long goes to others.
    pub(crate) fn advance(&mut self, now: Instant) {
        while self.delayed.first_key_value().is_some_and(|((due, _), _)| *due <= now)
            && let Some((_, task)) = self.delayed.pop_first()
        {
            self.place(&task, Line::Front);
        }
        self.spill(now);
    }

    /// Gives a session what waits for it, and ends it where it was to end.
    fn pump(&mut self, id: SessionId) {
        self.redeem(id);
        self.fill(id);
        self.pull_replies(id);
        if let Some(session) = self.sessions.get(&id) {
            session.end_if_finished();
        }
    }

    /// Tasks and messages in turn, while it has credit.
    fn fill(&mut self, id: SessionId) {
        while let Some(session) = self.sessions.get_mut(&id)
            && session.has_room_for_mail()
        {
            session.mail_turn = !session.mail_turn;
            let mail_first = session.mail_turn;
            let handed = (mail_first && self.pull_message(id, Wanted::Any))
                || (self.would_take(id, Session::has_room) && self.pull_task(id))
                || (!mail_first
                    && self.would_take(id, Session::has_room_for_mail)
                    && self.pull_message(id, Wanted::Any));
            if !handed {
                return self.relieve(id);
            }
        }
    }

    fn would_take(&self, id: SessionId, has_room: fn(&Session) -> bool) -> bool {
        self.sessions.get(&id).is_some_and(has_room)
    }

    /// The session of a queue that has room for one of its tasks.
    fn pick(&self, key: &QueueKey) -> Option<SessionId> {
        self.pick_with(key, Session::has_room)
    }

    /// The least loaded session with free credit among those of a queue, and among equals the one idle for longest.
    fn pick_with(&self, key: &QueueKey, has_room: fn(&Session) -> bool) -> Option<SessionId> {
        let sessions = self.queues.sessions(key).iter().filter_map(|id| self.sessions.get(id));
        let free = sessions.filter(|session| has_room(session));
        free.min_by_key(|session| (session.load(), session.last_turn)).map(|session| session.id)
    }
}

fn report(session: &Session) -> Report {
    Report {
        mailbox: session.mailbox.clone(),
        session: session.id,
        in_flight: u32::try_from(session.load()).unwrap_or(u32::MAX),
        capacity: u32::try_from(session.credits).unwrap_or(u32::MAX),
        closed: false,
    }
}

/// How long what is given back for the `count`th time stays away, where nobody has said: longer each time, so that nothing
/// goes round in circles, and out of the way of everything else.
fn cool_down(count: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    FIRST.saturating_mul(1_u32.checked_shl(count.saturating_sub(1)).unwrap_or(u32::MAX)).min(LONGEST)
}

/// The queues that an agent takes from, each once.
fn fits(mailbox: &Mailbox, agent_type: &str, capabilities: &[String]) -> Vec<Arc<QueueKey>> {
    let capabilities: std::collections::BTreeSet<_> = capabilities.iter().collect();
    let targets = [Target::Agent(mailbox.agent), Target::AgentType(agent_type.into())]
        .into_iter()
        .chain(capabilities.into_iter().map(|name| Target::Capability(name.as_str().into())));
    let key = |target| Arc::new(QueueKey { namespace: mailbox.namespace.clone(), target });
    targets.map(key).collect()
}
