//! Who the agents are: asked from the registry, remembered for a while.
//!
//! An agent that was found is believed for a short time without asking, and for longer while the registry does not answer,
//! so that known agents go on working without it. An agent that the registry calls deleted is forgotten at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use domain::{AgentId, Namespace};
use errors::{Code, Error};
use moka::future::Cache;

use super::{
    broker::Report,
    model::{Mailbox, Target},
};
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
    /// Reports sessions; answers with agents that are not known.
    async fn heartbeat(&self, reports: &[Report]) -> Result<Vec<AgentId>, Error>;
}

/// The registry with a memory.
pub(crate) struct Directory {
    registry: Arc<dyn Registry>,
    agents: Cache<Mailbox, (Instant, Arc<AgentInfo>)>,
    fresh: Duration,
}

impl Directory {
    /// `fresh` is how long an agent is believed without asking.
    pub(crate) fn new(registry: Arc<dyn Registry>, fresh: Duration) -> Self {
        let agents = Cache::builder().max_capacity(MOST_AGENTS).time_to_live(REMEMBERED).build();
        Self { registry, agents, fresh }
    }

    /// The agent; `agent_not_found` where there is none.
    pub(crate) async fn get(&self, mailbox: &Mailbox) -> Result<Arc<AgentInfo>, CommunicationError> {
        let known = self.agents.get(mailbox).await;
        if let Some((at, info)) = &known
            && at.elapsed() < self.fresh
        {
            return Ok(Arc::clone(info));
        }
        match (self.registry.get(mailbox).await, known) {
            (Ok(info), _) => Ok(self.remember(info).await),
            (Err(error), _) if error.code == Code::NotFound => {
                self.forget(mailbox).await;
                Err(CommunicationError::AgentNotFound(mailbox.agent.to_string()))
            }
            (Err(error), Some((_, info))) => {
                tracing::debug!(%error, agent.id = %mailbox.agent, "registry does not answer, going by memory");
                Ok(info)
            }
            (Err(error), None) => Err(CommunicationError::Registry(Box::new(error))),
        }
    }

    /// Whom a session speaks for.
    pub(crate) async fn admit(&self, hello: &Hello) -> Result<Arc<AgentInfo>, CommunicationError> {
        match hello.agent {
            Some(agent) => self.get(&Mailbox { namespace: hello.namespace.clone(), agent }).await,
            None => match self.registry.register(hello).await {
                Ok(info) => Ok(self.remember(info).await),
                Err(error) => Err(CommunicationError::Registry(Box::new(error))),
            },
        }
    }

    /// The agent that a message goes to.
    pub(crate) async fn resolve(&self, namespace: &Namespace, target: &Target) -> Result<AgentId, CommunicationError> {
        if let Target::Agent(agent) = target {
            let mailbox = Mailbox { namespace: namespace.clone(), agent: *agent };
            return Ok(self.get(&mailbox).await?.mailbox.agent);
        }
        match self.registry.select(namespace, target).await {
            Ok(Some(info)) => Ok(self.remember(info).await.mailbox.agent),
            Ok(None) => Err(CommunicationError::NoLiveAgent(target.to_string())),
            Err(error) => Err(CommunicationError::Registry(Box::new(error))),
        }
    }

    /// Reports sessions; answers with agents that are not known any more.
    pub(crate) async fn report(&self, reports: &[Report]) -> Result<Vec<AgentId>, Error> {
        let unknown = self.registry.heartbeat(reports).await?;
        for report in reports.iter().filter(|report| unknown.contains(&report.mailbox.agent)) {
            self.forget(&report.mailbox).await;
        }
        Ok(unknown)
    }

    /// An agent is as the registry says.
    async fn remember(&self, info: AgentInfo) -> Arc<AgentInfo> {
        let info = Arc::new(info);
        self.agents.insert(info.mailbox.clone(), (Instant::now(), Arc::clone(&info))).await;
        info
    }

    /// An agent has changed; only those that are remembered matter.
    pub(crate) async fn refresh(&self, info: AgentInfo) {
        if self.agents.contains_key(&info.mailbox) {
            self.remember(info).await;
        }
    }

    /// An agent is gone.
    pub(crate) async fn forget(&self, mailbox: &Mailbox) {
        self.agents.invalidate(mailbox).await;
    }
}
