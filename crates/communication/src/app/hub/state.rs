//! The hub's parts: who is connected, what waits where, and who holds what.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use contracts::communication::v1::{self as proto, ServerEvent, TaskUpdate, server_event, task};
use domain::{SessionId, Timestamp};
use tokio::time::Instant;

use crate::app::{
    outgoing::Outgoing,
    record::{Id, Record},
};

/// Both times: one to say, one to measure with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) instant: Instant,
}

/// Who may do a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    AgentType(Id),
    Capability(Id),
    Agent(Id),
}

/// The name of a queue of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) namespace: Id,
    pub(crate) target: Target,
}

impl Route {
    pub(super) fn of(task: &proto::Task) -> Option<Self> {
        let target = match task.target.as_ref()? {
            task::Target::AgentType(name) => Target::AgentType(name.as_str().into()),
            task::Target::Capability(name) => Target::Capability(name.as_str().into()),
            task::Target::AgentId(id) => Target::Agent(id.as_str().into()),
        };
        Some(Self { namespace: namespace(&task.namespace).into(), target })
    }

    /// As a dead letter names it.
    pub(super) fn text(&self) -> String {
        match &self.target {
            Target::AgentType(name) => format!("type:{name}"),
            Target::Capability(name) => format!("capability:{name}"),
            Target::Agent(id) => id.to_string(),
        }
    }
}

fn namespace(field: &str) -> &str {
    if field.is_empty() { domain::Namespace::DEFAULT } else { field }
}

/// The order in a queue: most urgent first, then as they came. What comes back keeps its place, which is the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) urgency: u32,
    pub(super) sequence: u64,
}

impl Rank {
    pub(super) fn new(priority: u32, sequence: u64) -> Self {
        Self { urgency: 9 - priority.min(9), sequence }
    }
}

/// Who a session speaks for.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) namespace: Id,
    pub(crate) agent_id: Id,
    pub(crate) agent_type: Id,
    pub(crate) capabilities: Vec<Id>,
    pub(crate) credits: u32,
}

/// An open agent session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) identity: Identity,
    pub(super) outgoing: Outgoing<ServerEvent>,
    pub(super) routes: Vec<Route>,
    pub(super) tasks: HashSet<Id>,
    pub(super) messages: HashSet<Id>,
    /// Tasks whose result waits for its acknowledgement.
    pub(super) results: HashSet<Id>,
    /// Messages held beyond credit.
    pub(super) beyond: usize,
    pub(super) heard: Instant,
    pub(super) draining: bool,
}

impl Session {
    pub(super) fn used(&self) -> usize {
        self.tasks.len() + self.messages.len() - self.beyond
    }

    pub(super) fn has_credit(&self) -> bool {
        !self.draining && self.used() < self.identity.credits as usize
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.tasks.is_empty() && self.messages.is_empty() && self.results.is_empty()
    }
}

/// Where a task is.
#[derive(Debug)]
pub(super) enum Place {
    Queued,
    Delayed,
    Held(SessionId),
    /// Ended; the session is the one that told it.
    Done(SessionId, proto::TaskResult),
}

/// A task that is known.
#[derive(Debug)]
pub(super) struct TaskEntry {
    pub(super) task: proto::Task,
    pub(super) route: Route,
    pub(super) rank: Rank,
    /// The orchestrator replica; empty where the result came without its task.
    pub(super) owner: Id,
    pub(super) agent_id: Id,
    pub(super) deliveries: u32,
    pub(super) place: Place,
}

/// A message that is not dealt with yet.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) message: proto::Message,
    pub(super) agent_id: Id,
    pub(super) rank: Rank,
    pub(super) deliveries: u32,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) holder: Option<SessionId>,
    pub(super) delayed: bool,
}

impl Mail {
    pub(super) fn is_reply(&self) -> bool {
        self.message.r#type == "reply"
    }
}

/// What waits for one agent.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) ready: BTreeMap<Rank, Id>,
    pub(super) replies: BTreeMap<Rank, Id>,
    /// Messages in it, also held and delayed ones, and places that are promised.
    pub(super) size: usize,
}

/// The stream of an orchestrator.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) generation: u64,
    pub(super) outgoing: Outgoing<TaskUpdate>,
}

/// What comes back later.
#[derive(Clone, Debug)]
pub(super) enum Delayed {
    Task(Id),
    Message(Id),
}

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) delivery_limit: u32,
    pub(crate) queue_limit: usize,
    pub(crate) mailbox_limit: usize,
    pub(crate) max_output: usize,
    pub(crate) lease: std::time::Duration,
}

/// Everything that is in memory.
#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) now: Moment,
    pub(super) stopping: bool,
    pub(super) sessions: HashMap<SessionId, Session>,
    /// Sessions that are not draining, by what they can do.
    pub(super) fits: HashMap<Route, BTreeSet<SessionId>>,
    pub(super) queues: HashMap<Route, BTreeMap<Rank, Id>>,
    pub(super) tasks: HashMap<Id, TaskEntry>,
    pub(super) exchanges: HashMap<Id, Exchange>,
    pub(super) mailboxes: HashMap<Id, Mailbox>,
    pub(super) mails: HashMap<Id, Mail>,
    pub(super) delayed: BTreeMap<(Instant, u64), Delayed>,
    pub(super) expiring: BTreeMap<(Timestamp, u64), Id>,
    pub(super) journal: Vec<Record>,
    pub(super) closed: VecDeque<(SessionId, Identity)>,
    /// Streams that did not take an event: closed at the end of the operation, since closing moves what they hold.
    pub(super) slow_sessions: Vec<SessionId>,
    pub(super) slow_exchanges: Vec<Id>,
    next: u64,
}

impl State {
    pub(super) fn new(limits: Limits, now: Moment) -> Self {
        Self {
            limits,
            now,
            stopping: false,
            sessions: HashMap::new(),
            fits: HashMap::new(),
            queues: HashMap::new(),
            tasks: HashMap::new(),
            exchanges: HashMap::new(),
            mailboxes: HashMap::new(),
            mails: HashMap::new(),
            delayed: BTreeMap::new(),
            expiring: BTreeMap::new(),
            journal: Vec::new(),
            closed: VecDeque::new(),
            slow_sessions: Vec::new(),
            slow_exchanges: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Sends an event to a session; one that does not read is given up.
    pub(super) fn tell(&mut self, id: SessionId, event: server_event::Event) {
        if let Some(session) = self.sessions.get(&id)
            && session.outgoing.push(ServerEvent { event: Some(event) }).is_err()
        {
            self.slow_sessions.push(id);
        }
    }

    /// Sends an update to an orchestrator, where it is attached.
    pub(super) fn report(&mut self, owner: &Id, task_id: &Id, agent_id: &Id, update: proto::task_update::Update) {
        let Some(exchange) = self.exchanges.get(owner) else { return };
        let update = TaskUpdate { task_id: task_id.to_string(), agent_id: agent_id.to_string(), update: Some(update) };
        if exchange.outgoing.push(update).is_err() {
            self.slow_exchanges.push(Arc::clone(owner));
        }
    }

    /// Sends an update that may be lost.
    pub(super) fn hint(&self, owner: &Id, task_id: &str, agent_id: &Id, update: proto::task_update::Update) {
        if let Some(exchange) = self.exchanges.get(owner) {
            let (task_id, agent_id) = (task_id.to_owned(), agent_id.to_string());
            exchange.outgoing.hint(TaskUpdate { task_id, agent_id, update: Some(update) });
        }
    }
}
