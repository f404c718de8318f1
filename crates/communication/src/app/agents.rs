//! What the registry knows of agents. Every call has a deadline.

use std::time::Duration;

use contracts::{
    Link,
    registry::v1::{
        Agent, GetAgentRequest, HeartbeatRequest, RegisterAgentRequest, SelectAgentsRequest, SessionReport,
        registry_service_client::RegistryServiceClient, select_agents_request::Target,
    },
};
use moka::future::Cache;
use tonic::{Response, Status};

use super::hub::Presence;
use crate::error::CommunicationError;

/// How long an agent counts as known to senders of messages.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// How many are remembered.
const MOST_KNOWN: u64 = 10_000;

/// The registry, as communication uses it.
pub(crate) struct Agents {
    client: RegistryServiceClient<Link>,
    deadline: Duration,
    known: Cache<(String, String), ()>,
}

impl Agents {
    pub(crate) fn new(registry: Link, deadline: Duration) -> Self {
        let client = RegistryServiceClient::new(registry)
            .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
        let known = Cache::builder().max_capacity(MOST_KNOWN).time_to_live(KNOWN_FOR).build();
        Self { client, deadline, known }
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CommunicationError> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(CommunicationError::Registry(status.into())),
            Err(_) => Err(CommunicationError::RegistryTimeout),
        }
    }

    /// An agent by its id.
    pub(crate) async fn find(&self, namespace: &str, id: &str) -> Result<Agent, CommunicationError> {
        let request = GetAgentRequest { namespace: namespace.to_owned(), agent_id: id.to_owned() };
        let found = self.within(self.client.clone().get_agent(request)).await?;
        found.agent.ok_or_else(|| CommunicationError::AgentNotFound(id.to_owned()))
    }

    /// Fails where there is no such agent. One that was deleted a moment ago may still count.
    pub(crate) async fn check(&self, namespace: &str, id: &str) -> Result<(), CommunicationError> {
        let key = (namespace.to_owned(), id.to_owned());
        if self.known.contains_key(&key) {
            return Ok(());
        }
        self.find(namespace, id).await?;
        self.known.insert(key, ()).await;
        Ok(())
    }

    /// The agent of a process that starts: registered now, or there already.
    pub(crate) async fn register(&self, request: RegisterAgentRequest) -> Result<Agent, CommunicationError> {
        let name = request.name.clone();
        let registered = self.within(self.client.clone().register_agent(request)).await?;
        registered.agent.ok_or(CommunicationError::AgentNotFound(name))
    }

    /// One live agent.
    pub(crate) async fn select(&self, namespace: &str, target: Target) -> Result<String, CommunicationError> {
        let wanted = match &target {
            Target::AgentType(name) => format!("the type {name:?}"),
            Target::Capability(name) => format!("the capability {name:?}"),
        };
        let request = SelectAgentsRequest {
            namespace: namespace.to_owned(),
            target: Some(target),
            count: 1,
            ..SelectAgentsRequest::default()
        };
        let chosen = self.within(self.client.clone().select_agents(request)).await?;
        let chosen = chosen.agents.into_iter().next().ok_or(CommunicationError::NoLiveAgent(wanted))?;
        Ok(chosen.id)
    }

    /// Reports sessions: the agents that are gone.
    pub(crate) async fn report(&self, sessions: &[Presence]) -> Result<Vec<String>, CommunicationError> {
        let reports = sessions.iter().map(|presence| SessionReport {
            namespace: presence.identity.namespace.to_string(),
            agent_id: presence.identity.agent_id.to_string(),
            session_id: presence.session.to_string(),
            in_flight: presence.in_flight as u32,
            capacity: presence.identity.credits,
            closed: presence.closed,
        });
        let request = HeartbeatRequest { reports: reports.collect() };
        Ok(self.within(self.client.clone().heartbeat(request)).await?.unknown_agent_ids)
    }
}
