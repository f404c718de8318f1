//! What a registry does: register, change, remove, find, choose, hear, watch.

mod agent;
mod directory;
mod selection;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use domain::{AgentId, Clock, Namespace, Payload};
use lifecycle::crash_point;
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::sync::broadcast;

pub(crate) use self::{
    agent::{Agent, Change, Registration},
    directory::{Directory, Leases, Liveness, Notice, SessionReport, Snapshot, Target},
    selection::Strategy,
};
use self::{
    agent::{Check, Wanted},
    selection::Turns,
};
use crate::{
    error::RegistryError,
    metrics,
    store::{Changes, Row, Store, Written},
};

/// How often a write is tried anew that another replica came in between.
const ATTEMPTS: u32 = 16;

/// The registry.
pub(crate) struct Registry {
    store: Box<dyn Store>,
    clock: Arc<dyn Clock>,
    max_config: usize,
    directory: RwLock<Directory>,
    /// Can other processes write to the database?
    is_shared: bool,
    /// Held from a read of the database to the index, so that nothing older comes after something newer. Registrations are
    /// rare.
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
            is_shared: store.changes().is_some(),
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
        let wanted = Wanted { namespace, id, agent_type, name, capabilities, config, attach };
        if let Some(known) = self.registered(&wanted) {
            return Ok((known, false));
        }
        let _writing = self.writing.lock().await;
        for _ in 0..ATTEMPTS {
            if let Some(registered) = self.try_register(&wanted).await? {
                return Ok(registered);
            }
        }
        Err(RegistryError::NameTaken(wanted.name))
    }

    /// The agent, where the index shows that nothing is to be done: agents that come back ask the database nothing.
    fn registered(&self, wanted: &Wanted) -> Option<Snapshot> {
        let directory = self.read();
        let now = self.clock.now();
        if let Some(id) = wanted.id {
            return directory.get(&wanted.namespace, id, now);
        }
        let known = directory.get(&wanted.namespace, directory.id_of(&wanted.namespace, &wanted.name)?, now)?;
        let is_same = wanted.attach
            && known.agent.agent_type == wanted.agent_type
            && known.agent.capabilities == wanted.capabilities
            && wanted.config.as_ref().is_none_or(|config| *config == known.agent.config);
        is_same.then_some(known)
    }

    /// Registers by what the database has now; none where another replica came in between.
    async fn try_register(&self, wanted: &Wanted) -> Result<Option<(Snapshot, bool)>, RegistryError> {
        if let Some(id) = wanted.id
            && let Some((agent, heard)) = self.find(id).await?
        {
            let is_own = agent.namespace == wanted.namespace;
            let known = self.write().put(agent, heard, self.clock.now());
            return if is_own { Ok(Some((known, false))) } else { Err(RegistryError::IdTaken(id.to_string())) };
        }
        let named = self.store.named(&wanted.namespace, &wanted.name).await.map_err(RegistryError::Database)?;
        if let Some(known) = named {
            // The same call by way of another replica, a moment ago.
            if wanted.id == Some(known.0.id) {
                return Ok(Some((self.write().put(known.0, known.1, self.clock.now()), false)));
            }
            if !wanted.attach || known.0.agent_type != wanted.agent_type {
                return Err(RegistryError::NameTaken(wanted.name.clone()));
            }
            let agent = Agent {
                capabilities: wanted.capabilities.clone(),
                config: wanted.config.clone().unwrap_or_else(|| known.0.config.clone()),
                ..known.0.clone()
            };
            return Ok(self.save(agent, known).await?.map(|snapshot| (snapshot, false)));
        }
        let now = self.clock.now();
        let agent = Agent {
            id: wanted.id.unwrap_or_else(|| AgentId::generate(self.clock.as_ref())),
            namespace: wanted.namespace.clone(),
            agent_type: wanted.agent_type.clone(),
            name: wanted.name.clone(),
            capabilities: wanted.capabilities.clone(),
            config: wanted.config.clone().unwrap_or_else(Payload::empty_object),
            revision: 1,
            created_at: now,
            updated_at: now,
        };
        crash_point("registry.write.before");
        match self.store.insert(&agent).await.map_err(RegistryError::Database)? {
            Written::Done => {
                crash_point("registry.write.after");
                let snapshot = self.write().put(agent, None, now);
                crash_point("registry.notify.after");
                Ok(Some((snapshot, true)))
            }
            Written::NameTaken | Written::Outdated => Ok(None),
        }
    }

    /// Changes an agent.
    pub(crate) async fn update(&self, change: Change) -> Result<Snapshot, RegistryError> {
        let Change { namespace, id, name, capabilities, config, expected_revision: expected } = change;
        let mut check = Check::new(self.max_config);
        if let Some(name) = &name {
            check.name(name);
        }
        let capabilities = capabilities.map(|capabilities| check.capabilities(capabilities));
        let config = config.map(|config| check.config(&config));
        check.finish()?;

        let _writing = self.writing.lock().await;
        let mut found = 0;
        for _ in 0..ATTEMPTS {
            let known = self.find(id).await?.filter(|(agent, _)| agent.namespace == namespace);
            let known = known.ok_or_else(|| RegistryError::NotFound(id.to_string()))?;
            found = known.0.revision;
            if expected != 0 && expected != found {
                return Err(RegistryError::Changed { expected, found });
            }
            let agent = Agent {
                name: name.clone().unwrap_or_else(|| known.0.name.clone()),
                capabilities: capabilities.clone().unwrap_or_else(|| known.0.capabilities.clone()),
                config: config.clone().unwrap_or_else(|| known.0.config.clone()),
                ..known.0.clone()
            };
            if let Some(snapshot) = self.save(agent, known).await? {
                return Ok(snapshot);
            }
        }
        // Others change it all the time.
        Err(RegistryError::Changed { expected: found, found: found + 1 })
    }

    /// Writes a changed agent; one that is as it was costs nothing. None where another replica has changed it meanwhile.
    async fn save(&self, mut agent: Agent, (known, heard): Row) -> Result<Option<Snapshot>, RegistryError> {
        if agent != known {
            agent.revision += 1;
            agent.updated_at = self.clock.now();
            crash_point("registry.change.before");
            let updated = self.store.update(&agent).await.map_err(RegistryError::Database)?;
            crash_point("registry.change.after");
            match updated {
                Written::Done => {}
                Written::NameTaken => return Err(RegistryError::NameTaken(agent.name)),
                Written::Outdated => return Ok(None),
            }
        }
        let now = self.clock.now();
        Ok(Some(self.write().put(agent, heard, now)))
    }

    /// Removes an agent, at whatever revision where none is expected; false where there is none.
    pub(crate) async fn delete(
        &self,
        namespace: &Namespace,
        id: AgentId,
        expected: Option<i64>,
    ) -> Result<bool, RegistryError> {
        let _writing = self.writing.lock().await;
        crash_point("registry.delete.before");
        let deleted = self.store.delete(namespace, id, expected).await.map_err(RegistryError::Database)?;
        crash_point("registry.delete.after");
        if let Some(expected) = expected.filter(|_| !deleted)
            && let Some((agent, _)) = self.find(id).await?.filter(|(agent, _)| agent.namespace == *namespace)
        {
            return Err(RegistryError::Changed { expected, found: agent.revision });
        }
        self.write().remove(namespace, id);
        Ok(deleted)
    }

    /// One agent. One that the index does not have may be on its way from another replica: only the database says that there
    /// is none.
    pub(crate) async fn get(&self, namespace: &Namespace, id: AgentId) -> Result<Snapshot, RegistryError> {
        let known = |registry: &Self| registry.read().get(namespace, id, registry.clock.now());
        if let Some(known) = known(self) {
            return Ok(known);
        }
        if self.is_shared && self.find(id).await?.is_some() {
            self.refresh(&[id]).await.map_err(RegistryError::Database)?;
        }
        known(self).ok_or_else(|| RegistryError::NotFound(id.to_string()))
    }

    async fn find(&self, id: AgentId) -> Result<Option<Row>, RegistryError> {
        Ok(self.store.find(&[id]).await.map_err(RegistryError::Database)?.pop())
    }

    /// Makes the index of these agents what the database says.
    ///
    /// What is read here is as new as everything that this replica has written before, and newer than what it had heard of:
    /// the lock is held from the read to the index, as it is in a write. So an agent never goes back, and watchers see its
    /// changes in the order of the commits; of several in a row they may see the last alone.
    pub(crate) async fn refresh(&self, ids: &[AgentId]) -> sqlx::Result<()> {
        let _writing = self.writing.lock().await;
        let rows = self.store.find(ids).await?;
        self.write().replace(ids, rows, self.clock.now());
        Ok(())
    }

    /// The same for all agents.
    pub(crate) async fn reload(&self) -> sqlx::Result<()> {
        let _writing = self.writing.lock().await;
        let rows = self.store.load().await?;
        let mut directory = self.write();
        let ids = directory.ids();
        directory.replace(&ids, rows, self.clock.now());
        Ok(())
    }

    /// What other replicas write; nothing where there can be none.
    pub(crate) fn changes(&self) -> Option<Changes> {
        self.store.changes()
    }

    /// Up to `limit` agents after `after` for which `wanted` holds, in the order of their ids or its reverse.
    pub(crate) fn list(
        &self,
        namespace: &Namespace,
        after: Option<AgentId>,
        newest_first: bool,
        limit: usize,
        wanted: impl Fn(&Snapshot) -> bool,
    ) -> Vec<Snapshot> {
        let (directory, now) = (self.read(), self.clock.now());
        if newest_first {
            directory.list_back(namespace, after, now).filter(wanted).take(limit).collect()
        } else {
            directory.list(namespace, after, now).filter(wanted).take(limit).collect()
        }
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

    /// Takes reports about sessions in; answers with the agents that are not known, to the database neither: another replica
    /// may have registered them a moment ago.
    pub(crate) async fn hear(&self, reports: Vec<SessionReport>) -> Vec<AgentId> {
        let unknown = self.take_in(reports);
        let ids = |reports: &[SessionReport]| -> Vec<_> {
            reports.iter().map(|report| report.agent_id).collect::<BTreeSet<_>>().into_iter().collect()
        };
        if unknown.is_empty() || !self.is_shared {
            return ids(&unknown);
        }
        match self.refresh(&ids(&unknown)).await {
            Ok(()) => ids(&self.take_in(unknown)),
            Err(error) => {
                // Nobody is sent away on a suspicion; they are reported again soon.
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for unknown agents");
                Vec::new()
            }
        }
    }

    /// Takes reports in; answers with those about agents that the index does not have.
    fn take_in(&self, reports: Vec<SessionReport>) -> Vec<SessionReport> {
        let now = self.clock.now();
        let mut unknown = Vec::new();
        let mut heard = Vec::with_capacity(reports.len());
        let mut directory = self.write();
        for report in reports {
            if !directory.report(&report, now) {
                unknown.push(report);
            } else if !report.closed {
                heard.push(report.agent_id);
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
