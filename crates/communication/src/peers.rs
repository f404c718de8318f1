//! The registry as `app` sees it, over its gRPC contract. Every call has a deadline.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use contracts::{
    Link, deadline,
    registry::v1::{
        Agent, GetAgentRequest, HeartbeatRequest, RegisterAgentRequest, SelectAgentsRequest, SessionReport,
        WatchAgentsRequest, WatchAgentsResponse, registry_service_client::RegistryServiceClient,
        select_agents_request::Target as Wanted,
    },
};
use domain::{AgentId, Namespace};
use errors::{Code, Error};
use tonic::{Response, Status, Streaming};

use crate::app::{AgentInfo, Hello, Mailbox, Registry, Report, Target};

/// A client of the registry. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct RegistryClient {
    client: RegistryServiceClient<Link>,
    deadline: Duration,
}

impl RegistryClient {
    pub(crate) fn new(link: Link, deadline: Duration) -> Self {
        let client = RegistryServiceClient::new(link)
            .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
        Self { client, deadline }
    }

    async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>> + Send) -> Result<T, Error> {
        match deadline::within(self.deadline, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Error::new(Code::Timeout, "timeout", "the registry does not answer in time")),
        }
    }

    /// Reports sessions; answers with agents that the registry does not know.
    pub(crate) async fn heartbeat(&self, reports: &[Report]) -> Result<Vec<AgentId>, Error> {
        let mut client = self.client.clone();
        let report = |report: &Report| SessionReport {
            namespace: report.mailbox.namespace.to_string(),
            agent_id: report.mailbox.agent.to_string(),
            session_id: report.session.to_string(),
            in_flight: report.in_flight,
            capacity: report.capacity,
            closed: report.closed,
        };
        let request = HeartbeatRequest { reports: reports.iter().map(report).collect() };
        let answer = self.call(client.heartbeat(request)).await?;
        Ok(answer.unknown_agent_ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Every agent of every namespace, then every change.
    pub(crate) async fn watch(&self) -> Result<Streaming<WatchAgentsResponse>, Error> {
        let mut client = self.client.clone();
        let request = WatchAgentsRequest { namespace: String::new(), all_namespaces: true };
        self.call(client.watch_agents(request)).await
    }
}

/// An agent as the registry describes it.
pub(crate) fn agent_info(agent: Agent) -> Result<AgentInfo, Error> {
    let namespace = agent.namespace.parse().map_err(Error::internal)?;
    let id = agent.id.parse().map_err(Error::internal)?;
    Ok(AgentInfo {
        mailbox: Mailbox::of_agent(namespace, id),
        agent_type: agent.agent_type,
        capabilities: agent.capabilities,
        config: agent.config,
    })
}

fn present(agent: Option<Agent>) -> Result<AgentInfo, Error> {
    agent_info(agent.ok_or_else(|| Error::internal(std::io::Error::other("the registry's answer has no agent")))?)
}

#[async_trait]
impl Registry for RegistryClient {
    async fn get(&self, mailbox: &Mailbox) -> Result<AgentInfo, Error> {
        let mut client = self.client.clone();
        let request = GetAgentRequest { namespace: mailbox.namespace.to_string(), agent_id: mailbox.agent.to_string() };
        present(self.call(client.get_agent(request)).await?.agent)
    }

    async fn register(&self, hello: &Hello) -> Result<AgentInfo, Error> {
        let mut client = self.client.clone();
        let request = RegisterAgentRequest {
            namespace: hello.namespace.to_string(),
            agent_id: String::new(),
            agent_type: hello.agent_type.clone(),
            name: hello.name.clone(),
            capabilities: hello.capabilities.clone(),
            config: hello.config.clone(),
            attach: true,
        };
        present(self.call(client.register_agent(request)).await?.agent)
    }

    async fn select(&self, namespace: &Namespace, target: &Target) -> Result<Option<AgentInfo>, Error> {
        let wanted = match target {
            Target::AgentType(name) => Wanted::AgentType(name.to_string()),
            Target::Capability(name) => Wanted::Capability(name.to_string()),
            Target::Agent(id) => {
                return self.get(&Mailbox::of_agent(namespace.clone(), *id)).await.map(Some);
            }
        };
        let mut client = self.client.clone();
        let request = SelectAgentsRequest {
            namespace: namespace.to_string(),
            target: Some(wanted),
            count: 1,
            ..SelectAgentsRequest::default()
        };
        let chosen = self.call(client.select_agents(request)).await?.agents;
        chosen.into_iter().next().map(agent_info).transpose()
    }
}
