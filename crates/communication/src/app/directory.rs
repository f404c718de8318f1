//! Who the agents are: asked from the registry, remembered for a while.
//!
//! An agent that was found is believed for a short time without asking, and for longer while the registry does not answer,
//! so that known agents go on working without it. An agent that the registry calls deleted is forgotten at once. Where there
//! is a Redis, replicas remember together: one that has just started knows, while the registry is away, whom the others knew.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use domain::{AgentId, Clock, InstanceId, Namespace};
use errors::{Code, Error};
use serde::{Deserialize, Serialize};
use store::{Believe, Cache, Codec, Redis};

use super::model::{Mailbox, Target};
use crate::error::CommunicationError;

/// Agents that are remembered.
const MOST_AGENTS: u64 = 100_000;
/// How long an agent is remembered for the time when the registry is away.
const REMEMBERED: Duration = Duration::from_hours(1);

/// What has to be known of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentInfo {
    pub(crate) mailbox: Mailbox,
    pub(crate) agent_type: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) config: Bytes,
}

/// An agent that says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) namespace: Namespace,
    /// Absent: registered by type and name, or attached to where it is registered.
    pub(crate) agent: Option<AgentId>,
    pub(crate) agent_type: String,
    pub(crate) name: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) config: Bytes,
    /// At least 1.
    pub(crate) max_in_flight: u32,
    /// It waits for answers to what it has asked over an earlier session.
    pub(crate) instance: Option<InstanceId>,
}

/// The registry. Every call has a deadline.
#[async_trait]
pub(crate) trait Registry: Send + Sync + 'static {
    /// One agent.
    async fn get(&self, mailbox: &Mailbox) -> Result<AgentInfo, Error>;
    /// Registers the agent, or attaches to it.
    async fn register(&self, hello: &Hello) -> Result<AgentInfo, Error>;
    /// A live agent of a type or with a capability; must not be asked for one agent.
    async fn select(&self, namespace: &Namespace, target: &Target) -> Result<Option<AgentInfo>, Error>;
}

/// The registry with a memory.
pub(crate) struct Directory {
    registry: Arc<dyn Registry>,
    /// By namespace and id. Answering from here spares a call to the registry: that is what the memory of this process is
    /// for. Redis is for the time when the registry is away; it is no faster. What it says is as old as what this process
    /// would remember itself.
    agents: Cache<Arc<AgentInfo>>,
    /// By namespace, type and name: whom a session that gives no id spoke for. Asked only while the registry is away.
    names: Cache<Arc<AgentInfo>>,
}

impl Directory {
    /// `fresh` is how long an agent is believed without asking.
    pub(crate) fn new(
        registry: Arc<dyn Registry>,
        fresh: Duration,
        redis: Option<&Redis>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let believe = Believe { fresh, unheard: fresh, kept: REMEMBERED.max(fresh), capacity: MOST_AGENTS };
        let cache = |name| Cache::new(name, believe, redis.cloned(), Some(codec()), Arc::clone(clock));
        Self { registry, agents: cache("agents"), names: cache("agent_names") }
    }

    /// Hears what other replicas forget, for ever.
    pub(crate) async fn follow(&self) {
        self.agents.follow().await;
    }

    /// The agent; `agent_not_found` where there is none.
    pub(crate) async fn get(&self, mailbox: &Mailbox) -> Result<Arc<AgentInfo>, CommunicationError> {
        let load = async || match self.registry.get(mailbox).await {
            Ok(info) => Ok(Some(Arc::new(info))),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        match self.agents.get(&id_of(mailbox), load).await {
            Ok(Some(found)) => Ok(found.value),
            Ok(None) => Err(CommunicationError::AgentNotFound(mailbox.agent.to_string())),
            Err(error) => Err(CommunicationError::Registry(Box::new(error))),
        }
    }

    /// Whom a session speaks for.
    pub(crate) async fn admit(&self, hello: &Hello) -> Result<Arc<AgentInfo>, CommunicationError> {
        if let Some(agent) = hello.agent {
            return self.get(&Mailbox::of_agent(hello.namespace.clone(), agent)).await;
        }
        let register = async { self.registry.register(hello).await.map(|info| Some(Arc::new(info))) };
        let id = format!("{}/{}/{}", hello.namespace, hello.agent_type, hello.name);
        match self.names.ask_first(&id, register).await {
            Ok(Some(found)) if !found.is_stale => {
                self.agents.put(&id_of(&found.value.mailbox), Arc::clone(&found.value)).await;
                Ok(found.value)
            }
            // Nothing has to be registered. An agent that was deleted meanwhile is sent away when the registry is back.
            Ok(Some(found)) if hello.is_as(&found.value) => Ok(found.value),
            Ok(_) => Err(CommunicationError::Registry(Box::new(Error::unavailable(
                "registry_unavailable",
                "the registry cannot be reached, and the agent has not been registered like this before",
            )))),
            Err(error) => Err(CommunicationError::Registry(Box::new(error))),
        }
    }

    /// The agent that a message goes to.
    pub(crate) async fn resolve(&self, namespace: &Namespace, target: &Target) -> Result<AgentId, CommunicationError> {
        if let Target::Agent(agent) = target {
            let mailbox = Mailbox::of_agent(namespace.clone(), *agent);
            return Ok(self.get(&mailbox).await?.mailbox.agent);
        }
        match self.registry.select(namespace, target).await {
            Ok(Some(info)) => {
                let agent = info.mailbox.agent;
                self.agents.renew(&id_of(&info.mailbox), Arc::new(info));
                Ok(agent)
            }
            Ok(None) => Err(CommunicationError::NoLiveAgent(target.to_string())),
            Err(error) => Err(CommunicationError::Registry(Box::new(error))),
        }
    }

    /// An agent is as the registry says; only those that are remembered matter. Most of what the registry tells is whether an
    /// agent is alive, which changes nothing here.
    pub(crate) async fn refresh(&self, info: AgentInfo) {
        let id = id_of(&info.mailbox);
        match self.agents.peek(&id) {
            Some(known) if *known == info => self.agents.renew(&id, known),
            Some(_) => self.agents.put(&id, Arc::new(info)).await,
            None => {}
        }
    }

    /// An agent is gone.
    pub(crate) async fn forget(&self, mailbox: &Mailbox) {
        self.agents.invalidate(&id_of(mailbox)).await;
    }
}

impl Hello {
    /// Would registering it change nothing?
    fn is_as(&self, known: &AgentInfo) -> bool {
        let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        set(&self.capabilities) == set(&known.capabilities) && (self.config.is_empty() || self.config == known.config)
    }
}

fn id_of(mailbox: &Mailbox) -> String {
    format!("{}/{}", mailbox.namespace, mailbox.agent)
}

/// An agent as Redis has it.
#[derive(Serialize, Deserialize)]
struct Written {
    namespace: String,
    id: String,
    agent_type: String,
    capabilities: Vec<String>,
    config: String,
}

fn codec() -> Codec<Arc<AgentInfo>> {
    fn encode(info: &Arc<AgentInfo>) -> Option<Vec<u8>> {
        let written = Written {
            namespace: info.mailbox.namespace.to_string(),
            id: info.mailbox.agent.to_string(),
            agent_type: info.agent_type.clone(),
            capabilities: info.capabilities.clone(),
            config: String::from_utf8(info.config.to_vec()).ok()?,
        };
        serde_json::to_vec(&written).ok()
    }
    fn decode(bytes: &[u8]) -> Option<Arc<AgentInfo>> {
        let written: Written = serde_json::from_slice(bytes).ok()?;
        let mailbox = Mailbox::of_agent(written.namespace.parse().ok()?, written.id.parse().ok()?);
        let Written { agent_type, capabilities, config, .. } = written;
        Some(Arc::new(AgentInfo { mailbox, agent_type, capabilities, config: config.into() }))
    }
    Codec { encode, decode }
}
