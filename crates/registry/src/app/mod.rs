//! What a registry does: register, change, remove, find, choose, hear, watch.

mod agent;
mod directory;
mod selection;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use domain::{AgentId, Clock, Namespace, Payload};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::sync::broadcast;

use self::{agent::Check, selection::Turns};
pub(crate) use self::{
    agent::{Agent, Change, Registration},
    directory::{Directory, Leases, Liveness, Notice, SessionReport, Snapshot, Target},
    selection::Strategy,
};
use crate::{error::RegistryError, metrics, store::Store};

/// The registry.
pub(crate) struct Registry {
    store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    max_config: usize,
    directory: RwLock<Directory>,
    /// Held from the check of a write to its entry in the directory: registrations are rare, and two at once that agree on
    /// a name must not both see it free.
    writing: tokio::sync::Mutex<()>,
    chance: Mutex<(StdRng, Turns)>,
    /// Heard of since the database was last told.
    heard: Mutex<HashSet<AgentId>>,
    /// Agents alive, by type, as they were measured last.
    active: Mutex<BTreeMap<String, u32>>,
}

impl Registry {
    /// Reads every agent of the database.
    pub(crate) async fn load(
        store: Box<dyn Store>,
        clock: Arc<dyn Clock>,
        mut directory: Directory,
        max_config: usize,
    ) -> sqlx::Result<Self> {
        for (agent, heard) in store.load().await? {
            directory.put(agent, heard, clock.now());
        }
        Ok(Self {
            store,
            clock,
            max_config,
            directory: RwLock::new(directory),
            writing: tokio::sync::Mutex::default(),
            chance: Mutex::new((StdRng::from_os_rng(), Turns::default())),
            heard: Mutex::default(),
            active: Mutex::default(),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates an agent, or finds the one that an earlier call made; true where it is new.
    pub(crate) async fn register(&self, registration: Registration) -> Result<(Snapshot, bool), RegistryError> {
        let Registration { namespace, id, agent_type, name, capabilities, config, attach } = registration;
        let mut check = Check::new(self.max_config);
        check.agent_type(&agent_type);
        check.name(&name);
        let capabilities = check.capabilities(capabilities);
        let config = config.map(|config| check.config(&config));
        check.finish()?;

        let _writing = self.writing.lock().await;
        let now = self.clock.now();
        if let Some(id) = id
            && let Some(owner) = self.read().namespace_of(id).cloned()
        {
            let known = self.read().get(&namespace, id, now).filter(|_| owner == namespace);
            return known.map(|known| (known, false)).ok_or_else(|| RegistryError::IdTaken(id.to_string()));
        }
        let other = self.read().id_of(&namespace, &name);
        if let Some(other) = other {
            let known = self.read().get(&namespace, other, now);
            let known = known.filter(|known| attach && known.agent.agent_type == agent_type);
            let known = known.ok_or_else(|| RegistryError::NameTaken(name))?;
            let agent = Agent {
                capabilities,
                config: config.unwrap_or_else(|| known.agent.config.clone()),
                ..Agent::clone(&known.agent)
            };
            return Ok((self.save(agent, &known).await?, false));
        }
        let agent = Agent {
            id: id.unwrap_or_else(|| AgentId::generate(self.clock.as_ref())),
            namespace,
            agent_type,
            name,
            capabilities,
            config: config.unwrap_or_else(Payload::empty_object),
            revision: 1,
            created_at: now,
            updated_at: now,
        };
        if !self.store.insert(&agent).await.map_err(RegistryError::Database)? {
            return Err(RegistryError::NameTaken(agent.name));
        }
        Ok((self.write().put(agent, None, now), true))
    }

    /// Changes an agent.
    pub(crate) async fn update(&self, change: Change) -> Result<Snapshot, RegistryError> {
        let mut check = Check::new(self.max_config);
        if let Some(name) = &change.name {
            check.name(name);
        }
        let capabilities = change.capabilities.map(|capabilities| check.capabilities(capabilities));
        let config = change.config.map(|config| check.config(&config));
        check.finish()?;

        let _writing = self.writing.lock().await;
        let known = self.get(&change.namespace, change.id)?;
        let (expected, found) = (change.expected_revision, known.agent.revision);
        if expected != 0 && expected != found {
            return Err(RegistryError::Changed { expected, found });
        }
        let agent = Agent {
            name: change.name.unwrap_or_else(|| known.agent.name.clone()),
            capabilities: capabilities.unwrap_or_else(|| known.agent.capabilities.clone()),
            config: config.unwrap_or_else(|| known.agent.config.clone()),
            ..Agent::clone(&known.agent)
        };
        self.save(agent, &known).await
    }

    /// Writes a changed agent; one that is as it was costs nothing.
    async fn save(&self, mut agent: Agent, known: &Snapshot) -> Result<Snapshot, RegistryError> {
        if agent == *known.agent {
            return Ok(known.clone());
        }
        agent.revision += 1;
        agent.updated_at = self.clock.now();
        if !self.store.update(&agent).await.map_err(RegistryError::Database)? {
            return Err(RegistryError::NameTaken(agent.name));
        }
        let now = self.clock.now();
        Ok(self.write().put(agent, known.last_heartbeat_at, now))
    }

    /// Removes an agent; false where there is none.
    pub(crate) async fn delete(&self, namespace: &Namespace, id: AgentId) -> Result<bool, RegistryError> {
        let _writing = self.writing.lock().await;
        if self.get(namespace, id).is_err() {
            return Ok(false);
        }
        self.store.delete(id).await.map_err(RegistryError::Database)?;
        Ok(self.write().remove(namespace, id))
    }

    /// One agent.
    pub(crate) fn get(&self, namespace: &Namespace, id: AgentId) -> Result<Snapshot, RegistryError> {
        let found = self.read().get(namespace, id, self.clock.now());
        found.ok_or_else(|| RegistryError::NotFound(id.to_string()))
    }

    /// Up to `limit` agents after `after` for which `wanted` holds, in the order of their ids.
    pub(crate) fn list(
        &self,
        namespace: &Namespace,
        after: Option<AgentId>,
        limit: usize,
        wanted: impl Fn(&Snapshot) -> bool,
    ) -> Vec<Snapshot> {
        self.read().list(namespace, after, self.clock.now()).filter(wanted).take(limit).collect()
    }

    /// Chooses live agents that fit.
    pub(crate) fn select(
        &self,
        namespace: &Namespace,
        target: &Target,
        count: usize,
        strategy: &Strategy,
        exclude: &[AgentId],
    ) -> Vec<Snapshot> {
        let mut candidates = self.read().candidates(namespace, target, self.clock.now());
        candidates.retain(|candidate| !exclude.contains(&candidate.agent.id));
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let (random, turns) = &mut *chance;
        let key = (namespace.clone(), target.clone());
        let chosen = selection::choose(candidates, count, strategy, (turns, key), random);
        if chosen.len() < count {
            ::metrics::counter!(metrics::SELECTIONS_SHORT).increment(1);
        }
        chosen
    }

    /// Takes reports about sessions in; answers with the agents that are not known.
    pub(crate) fn hear(&self, reports: Vec<SessionReport>) -> Vec<AgentId> {
        let now = self.clock.now();
        let mut unknown = Vec::new();
        let mut heard = Vec::with_capacity(reports.len());
        let mut directory = self.write();
        for report in reports {
            let (id, closed) = (report.agent_id, report.closed);
            match directory.report(report, now) {
                true if !closed => heard.push(id),
                true => {}
                false => unknown.push(id),
            }
        }
        drop(directory);
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).extend(heard);
        unknown
    }

    /// Every agent (of one namespace, or of all), and every change after that.
    pub(crate) fn watch(&self, namespace: Option<&Namespace>) -> (Vec<Snapshot>, broadcast::Receiver<Notice>) {
        let directory = self.read();
        let now = self.clock.now();
        let snapshots = match namespace {
            Some(namespace) => directory.list(namespace, None, now).collect(),
            None => directory.all(now),
        };
        (snapshots, directory.watch())
    }

    /// Drops sessions beyond their lease; updates the gauges.
    pub(crate) fn expire(&self) {
        let now = self.clock.now();
        self.write().expire(now);
        let agents = self.read().all(now);
        for liveness in Liveness::ALL {
            let count = agents.iter().filter(|snapshot| snapshot.liveness == liveness).count();
            ::metrics::gauge!(metrics::AGENTS, "status" => liveness.as_str()).set(count as f64);
        }
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        // Types of which there is none any more are told as zero.
        active.values_mut().for_each(|count| *count = 0);
        for snapshot in agents.into_iter().filter(|snapshot| snapshot.liveness != Liveness::Offline) {
            *active.entry(snapshot.agent.agent_type.clone()).or_default() += 1;
        }
        for (agent_type, count) in &*active {
            ::metrics::gauge!(metrics::ACTIVE_AGENTS, "agent_type" => agent_type.clone()).set(f64::from(*count));
        }
    }

    /// Tells the database who was heard of since the last time.
    pub(crate) async fn note_heard(&self) -> sqlx::Result<()> {
        let ids = std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        let heard: Vec<_> = {
            let directory = self.read();
            let now = self.clock.now();
            let heard = |id: AgentId| directory.get(directory.namespace_of(id)?, id, now)?.last_heartbeat_at;
            ids.into_iter().filter_map(|id| Some((id, heard(id)?))).collect()
        };
        if heard.is_empty() { Ok(()) } else { self.store.heard(&heard).await }
    }

    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        self.store.ping().await
    }

    pub(crate) async fn close(&self) {
        self.store.close().await;
    }
}
