//! Which agents are hosted: one session each, for as long as the registry has the agent with a configuration that fits.
//!
//! Invariants: an agent is hosted at most once here; a change of its configuration, and of nothing else, opens a new session
//! in place of the old, which drains; an agent whose configuration is faulty has no session, and the reason is logged once.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_sdk::{AgentBuilder, Connection, Context};
use contracts::{Link, registry::v1::Agent};
use errors::Error;
use lifecycle::{OnExit, Shutdown, Tasks};

use crate::{
    agents::{Kind, Workshop},
    error::HostError,
};

/// After a session was refused, for instance while the agent is being deleted.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// Namespace and id.
pub(crate) type Key = (String, String);

#[derive(Debug)]
struct Hosted {
    name: String,
    kind: Kind,
    config: Vec<u8>,
    /// Absent where the configuration is faulty.
    session: Option<(Arc<Mutex<Context>>, Shutdown)>,
}

#[derive(Debug, Default)]
struct State {
    hosted: BTreeMap<Key, Hosted>,
    /// Agents that someone unloaded; they stay so until they are loaded again or deleted.
    unloaded: HashSet<Key>,
}

/// A hosted agent, for people.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) key: Key,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) in_flight: usize,
    pub(crate) connected: bool,
}

/// All hosted agents.
#[derive(Debug)]
pub(crate) struct Hosts {
    workshop: Arc<Workshop>,
    communication: Link,
    tasks: Tasks,
    state: Mutex<State>,
}

impl Hosts {
    pub(crate) fn new(workshop: Arc<Workshop>, communication: Link, tasks: Tasks) -> Self {
        Self { workshop, communication, tasks, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a configuration without hosting anything.
    pub(crate) fn check(&self, agent_type: &str, name: &str, config: &[u8]) -> Result<Kind, Error> {
        let kind = Kind::find(agent_type).ok_or_else(|| HostError::UnknownKind(agent_type.to_owned()))?;
        drop(self.workshop.build(kind, name, config)?);
        Ok(kind)
    }

    /// An agent is there, or has changed: hosts it where it is of our kinds.
    pub(crate) fn upserted(&self, agent: &Agent) {
        let Some(kind) = Kind::find(&agent.agent_type) else { return };
        let key = (agent.namespace.clone(), agent.id.clone());
        let mut state = self.state();
        if state.unloaded.contains(&key) || self.tasks.shutdown().is_draining() {
            return;
        }
        if let Some(hosted) = state.hosted.get_mut(&key)
            && hosted.config == agent.config
        {
            // Its status or name changed.
            hosted.name.clone_from(&agent.name);
            return;
        }
        let session = match self.workshop.build(kind, &agent.name, &agent.config) {
            Ok(builder) => Some(self.open(kind, agent, builder)),
            Err(error) => {
                tracing::warn!(agent.id = agent.id, agent.name = agent.name, %error, "agent stays offline");
                None
            }
        };
        let hosted = Hosted { name: agent.name.clone(), kind, config: agent.config.to_vec(), session };
        if let Some(Hosted { session: Some((_, shutdown)), .. }) = state.hosted.insert(key, hosted) {
            shutdown.drain();
        }
    }

    /// An agent is gone from the registry.
    pub(crate) fn deleted(&self, key: &Key) {
        let mut state = self.state();
        state.unloaded.remove(key);
        close(state.hosted.remove(key));
    }

    /// Everything that the registry has: the rest is gone.
    pub(crate) fn retain(&self, present: &HashSet<Key>) {
        let mut state = self.state();
        state.unloaded.retain(|key| present.contains(key));
        let gone: Vec<_> = state.hosted.keys().filter(|key| !present.contains(*key)).cloned().collect();
        for key in gone {
            close(state.hosted.remove(&key));
        }
    }

    /// Hosts an agent again that was unloaded.
    pub(crate) fn load(&self, agent: &Agent) {
        self.state().unloaded.remove(&(agent.namespace.clone(), agent.id.clone()));
        self.upserted(agent);
    }

    /// Drains and closes an agent's session; false where it was not hosted.
    pub(crate) fn unload(&self, key: Key) -> bool {
        let mut state = self.state();
        let hosted = state.hosted.remove(&key);
        let was_hosted = hosted.is_some();
        close(hosted);
        if was_hosted {
            state.unloaded.insert(key);
        }
        was_hosted
    }

    /// In the order of their ids.
    pub(crate) fn list(&self) -> Vec<Listing> {
        let state = self.state();
        let listing = |(key, hosted): (&Key, &Hosted)| {
            let context = hosted.session.as_ref().map(|(context, _)| lock(context).clone());
            Listing {
                key: key.clone(),
                name: hosted.name.clone(),
                kind: hosted.kind,
                in_flight: context.as_ref().map_or(0, Context::in_flight),
                connected: context.as_ref().is_some_and(Context::is_connected),
            }
        };
        let mut listings: Vec<_> = state.hosted.iter().map(listing).collect();
        listings.sort_by(|left, right| left.key.1.cmp(&right.key.1));
        listings
    }

    fn open(&self, kind: Kind, agent: &Agent, builder: AgentBuilder) -> (Arc<Mutex<Context>>, Shutdown) {
        let shutdown = self.tasks.shutdown().child();
        let connection = self.connect(agent, builder);
        let context = Arc::new(Mutex::new(connection.context().clone()));
        let (workshop, communication) = (Arc::clone(&self.workshop), self.communication.clone());
        let (agent, stop, current) = (agent.clone(), shutdown.clone(), Arc::clone(&context));
        let session = async move {
            let mut connection = connection;
            while let Err(error) = connection.run_until(stop.clone()).await {
                tracing::warn!(
                    agent.id = agent.id,
                    error = errors::chain(&error),
                    "the session of a hosted agent was refused"
                );
                tokio::select! {
                    () = tokio::time::sleep(REFUSED_PAUSE) => {}
                    () = stop.draining() => break,
                }
                // It was built before, so it can be built again.
                let builder = workshop.build(kind, &agent.name, &agent.config)?;
                connection = identify(&agent, builder).link(communication.clone());
                *lock(&current) = connection.context().clone();
            }
            Ok::<(), HostError>(())
        };
        self.tasks.spawn("hosted agent", OnExit::Continue, session);
        (context, shutdown)
    }

    fn connect(&self, agent: &Agent, builder: AgentBuilder) -> Connection {
        identify(agent, builder).link(self.communication.clone())
    }
}

fn identify(agent: &Agent, builder: AgentBuilder) -> AgentBuilder {
    builder.name(agent.name.clone()).namespace(agent.namespace.clone()).agent_id(agent.id.clone())
}

fn lock(context: &Mutex<Context>) -> MutexGuard<'_, Context> {
    context.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close(hosted: Option<Hosted>) {
    if let Some(Hosted { session: Some((_, shutdown)), .. }) = hosted {
        shutdown.drain();
    }
}
