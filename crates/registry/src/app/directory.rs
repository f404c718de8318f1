//! The index in memory: every agent, its sessions, and who watches.
//!
//! It answers every read. It changes only after the database has, so that what it shows is committed; what another replica
//! writes comes a moment later. Sessions are known here alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use domain::{AgentId, Namespace, Timestamp};
use tokio::sync::broadcast;

use super::Agent;

/// Whether an agent can work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Liveness {
    Idle,
    Busy,
    Degraded,
    Offline,
}

impl Liveness {
    pub(crate) const ALL: [Self; 4] = [Self::Idle, Self::Busy, Self::Degraded, Self::Offline];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Degraded => "degraded",
            Self::Offline => "offline",
        }
    }
}

/// An agent as it stands now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) agent: Arc<Agent>,
    pub(crate) liveness: Liveness,
    pub(crate) in_flight: u32,
    pub(crate) capacity: u32,
    pub(crate) last_heartbeat_at: Option<Timestamp>,
}

/// What a watcher gets to know.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    Upserted(Snapshot),
    Deleted { namespace: Namespace, id: AgentId },
}

impl Notice {
    pub(crate) fn namespace(&self) -> &Namespace {
        match self {
            Self::Upserted(snapshot) => &snapshot.agent.namespace,
            Self::Deleted { namespace, .. } => namespace,
        }
    }
}

/// Whom a selection chooses from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    AgentType(String),
    Capability(String),
}

/// What communication says about one session.
#[derive(Clone, Debug)]
pub(crate) struct SessionReport {
    pub(crate) namespace: Namespace,
    pub(crate) agent_id: AgentId,
    pub(crate) session_id: String,
    pub(crate) in_flight: u32,
    pub(crate) capacity: u32,
    pub(crate) closed: bool,
}

#[derive(Debug)]
struct Session {
    in_flight: u32,
    capacity: u32,
    heard: Timestamp,
}

#[derive(Debug)]
struct Entry {
    agent: Arc<Agent>,
    sessions: HashMap<String, Session>,
    last_heartbeat_at: Option<Timestamp>,
    /// As watchers know it.
    shown: Liveness,
}

/// How long sessions live without being heard of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leases {
    pub(crate) lease: Duration,
    pub(crate) late_after: Duration,
}

type Key = (Namespace, AgentId);

/// The index.
#[derive(Debug)]
pub(crate) struct Directory {
    leases: Leases,
    entries: BTreeMap<Key, Entry>,
    names: HashMap<(Namespace, String), AgentId>,
    targets: HashMap<(Namespace, Target), BTreeSet<AgentId>>,
    namespaces: HashMap<AgentId, Namespace>,
    notices: broadcast::Sender<Notice>,
}

impl Directory {
    pub(crate) fn new(leases: Leases, watch_buffer: usize) -> Self {
        let (notices, _) = broadcast::channel(watch_buffer);
        Self {
            leases,
            entries: BTreeMap::new(),
            names: HashMap::new(),
            targets: HashMap::new(),
            namespaces: HashMap::new(),
            notices,
        }
    }

    /// Changes from now on. Taken together with a listing it misses nothing and repeats nothing.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    pub(crate) fn get(&self, namespace: &Namespace, id: AgentId, now: Timestamp) -> Option<Snapshot> {
        self.entries.get(&(namespace.clone(), id)).map(|entry| self.snapshot(entry, now))
    }

    pub(crate) fn id_of(&self, namespace: &Namespace, name: &str) -> Option<AgentId> {
        self.names.get(&(namespace.clone(), name.to_owned())).copied()
    }

    /// The namespace of an agent, whichever it is.
    pub(crate) fn namespace_of(&self, id: AgentId) -> Option<&Namespace> {
        self.namespaces.get(&id)
    }

    /// Agents of a namespace (or of all) with ids after `after`, in their order.
    pub(crate) fn list<'a>(
        &'a self,
        namespace: &Namespace,
        after: Option<AgentId>,
        now: Timestamp,
    ) -> impl Iterator<Item = Snapshot> + use<'a> {
        let namespace = namespace.clone();
        let from = (namespace.clone(), after.unwrap_or(AgentId::from_parts(0, 0)));
        let of_namespace = self.entries.range(from..).take_while(move |((of, _), _)| *of == namespace);
        let later = of_namespace.filter(move |((_, id), _)| Some(*id) != after);
        later.map(move |(_, entry)| self.snapshot(entry, now))
    }

    /// The same in the reverse order: with ids before `after`.
    pub(crate) fn list_back<'a>(
        &'a self,
        namespace: &Namespace,
        after: Option<AgentId>,
        now: Timestamp,
    ) -> impl Iterator<Item = Snapshot> + use<'a> {
        let from = (namespace.clone(), AgentId::from_parts(0, 0));
        let to = match after {
            Some(after) => Bound::Excluded((namespace.clone(), after)),
            None => Bound::Included((namespace.clone(), AgentId::from_parts(u64::MAX, u128::MAX))),
        };
        self.entries.range((Bound::Included(from), to)).rev().map(move |(_, entry)| self.snapshot(entry, now))
    }

    pub(crate) fn all(&self, now: Timestamp) -> Vec<Snapshot> {
        self.entries.values().map(|entry| self.snapshot(entry, now)).collect()
    }

    /// Those that fit, in the order of their ids.
    pub(crate) fn candidates(&self, namespace: &Namespace, target: &Target, now: Timestamp) -> Vec<Snapshot> {
        let ids = self.targets.get(&(namespace.clone(), target.clone()));
        ids.into_iter().flatten().filter_map(|id| self.get(namespace, *id, now)).collect()
    }

    /// Puts an agent in as the database has it; watchers hear of it where it is new or changed.
    pub(crate) fn put(&mut self, agent: Agent, last_heartbeat_at: Option<Timestamp>, now: Timestamp) -> Snapshot {
        let key = (agent.namespace.clone(), agent.id);
        if let Some(entry) = self.entries.get(&key)
            && *entry.agent == agent
        {
            return self.snapshot(entry, now);
        }
        // Deleted and made again elsewhere, under the same id.
        if let Some(other) = self.namespaces.get(&agent.id).filter(|other| **other != agent.namespace).cloned() {
            self.remove(&other, agent.id);
        }
        let before = self.entries.remove(&key);
        if let Some(before) = &before {
            self.unindex(&before.agent);
        }
        let agent = Arc::new(agent);
        self.index(&agent);
        let entry = match before {
            Some(entry) => Entry { agent, ..entry },
            None => Entry { agent, sessions: HashMap::new(), last_heartbeat_at, shown: Liveness::Offline },
        };
        let snapshot = self.snapshot(&entry, now);
        self.entries.insert(key, entry);
        self.notify(Notice::Upserted(snapshot.clone()));
        snapshot
    }

    /// Takes an agent out, where it is in.
    pub(crate) fn remove(&mut self, namespace: &Namespace, id: AgentId) {
        let Some(entry) = self.entries.remove(&(namespace.clone(), id)) else { return };
        self.unindex(&entry.agent);
        self.notify(Notice::Deleted { namespace: namespace.clone(), id });
    }

    /// The ids of all agents.
    pub(crate) fn ids(&self) -> Vec<AgentId> {
        self.namespaces.keys().copied().collect()
    }

    /// Makes `ids` what the database says of them: those that it has no row of are gone.
    pub(crate) fn replace(&mut self, ids: &[AgentId], rows: Vec<(Agent, Option<Timestamp>)>, now: Timestamp) {
        let there: HashSet<_> = rows.iter().map(|(agent, _)| agent.id).collect();
        for id in ids.iter().filter(|id| !there.contains(*id)) {
            if let Some(namespace) = self.namespaces.get(id).cloned() {
                self.remove(&namespace, *id);
            }
        }
        for (agent, heard) in rows {
            self.put(agent, heard, now);
        }
    }

    /// Takes a report in; false where the agent is not known.
    pub(crate) fn report(&mut self, report: &SessionReport, now: Timestamp) -> bool {
        let key = (report.namespace.clone(), report.agent_id);
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        if report.closed {
            entry.sessions.remove(&report.session_id);
        } else {
            let session = Session { in_flight: report.in_flight, capacity: report.capacity, heard: now };
            entry.sessions.insert(report.session_id.clone(), session);
            entry.last_heartbeat_at = Some(now);
        }
        self.show(&key, now);
        true
    }

    /// Drops sessions beyond their lease, and tells watchers of every status that changed with time.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let keys: Vec<_> =
            self.entries.iter().filter(|(_, entry)| !entry.sessions.is_empty()).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.sessions.retain(|_, session| now.since(session.heard) < self.leases.lease);
            }
            self.show(&key, now);
        }
    }

    fn show(&mut self, key: &Key, now: Timestamp) {
        let Some(entry) = self.entries.get(key) else { return };
        let snapshot = self.snapshot(entry, now);
        if snapshot.liveness == entry.shown {
            return;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.shown = snapshot.liveness;
        }
        self.notify(Notice::Upserted(snapshot));
    }

    fn notify(&self, notice: Notice) {
        // It fails where nobody watches.
        let _ = self.notices.send(notice);
    }

    fn snapshot(&self, entry: &Entry, now: Timestamp) -> Snapshot {
        let live = entry.sessions.values().filter(|session| now.since(session.heard) < self.leases.lease);
        let (mut in_flight, mut capacity, mut alive, mut prompt, mut free) = (0_u32, 0_u32, false, false, false);
        for session in live {
            alive = true;
            in_flight = in_flight.saturating_add(session.in_flight);
            capacity = capacity.saturating_add(session.capacity);
            if now.since(session.heard) < self.leases.late_after {
                prompt = true;
                free |= session.in_flight < session.capacity;
            }
        }
        let liveness = match (alive, prompt, free) {
            (false, _, _) => Liveness::Offline,
            (true, false, _) => Liveness::Degraded,
            (true, true, false) => Liveness::Busy,
            (true, true, true) => Liveness::Idle,
        };
        let (agent, last_heartbeat_at) = (Arc::clone(&entry.agent), entry.last_heartbeat_at);
        Snapshot { agent, liveness, in_flight, capacity, last_heartbeat_at }
    }

    fn index(&mut self, agent: &Agent) {
        self.names.insert((agent.namespace.clone(), agent.name.clone()), agent.id);
        self.namespaces.insert(agent.id, agent.namespace.clone());
        for target in targets(agent) {
            self.targets.entry((agent.namespace.clone(), target)).or_default().insert(agent.id);
        }
    }

    fn unindex(&mut self, agent: &Agent) {
        let name = (agent.namespace.clone(), agent.name.clone());
        // It may be another's by now: names that change hands are told of in any order.
        if self.names.get(&name) == Some(&agent.id) {
            self.names.remove(&name);
        }
        self.namespaces.remove(&agent.id);
        for target in targets(agent) {
            let key = (agent.namespace.clone(), target);
            if let Some(ids) = self.targets.get_mut(&key) {
                ids.remove(&agent.id);
                if ids.is_empty() {
                    self.targets.remove(&key);
                }
            }
        }
    }
}

fn targets(agent: &Agent) -> impl Iterator<Item = Target> {
    let capabilities = agent.capabilities.iter().cloned().map(Target::Capability);
    std::iter::once(Target::AgentType(agent.agent_type.clone())).chain(capabilities)
}
