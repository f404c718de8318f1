//! What a benchmark needs on the server: an echo agent of its own, alive.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use contracts::{
    Link,
    registry::v1::{
        AgentStatus, GetAgentRequest, RegisterAgentRequest, registry_service_client::RegistryServiceClient,
    },
};

use super::NAMESPACE;

/// How long the agent may take to come alive.
const PATIENCE: Duration = Duration::from_secs(30);

/// Registers the echo agent (or finds it) and waits until a runner hosts it; answers with its id.
pub(super) async fn agent(link: &Link) -> anyhow::Result<String> {
    let mut registry = RegistryServiceClient::new(link.clone());
    let request = RegisterAgentRequest {
        namespace: NAMESPACE.to_owned(),
        agent_type: "echo".to_owned(),
        name: "bench-echo".to_owned(),
        attach: true,
        ..RegisterAgentRequest::default()
    };
    let agent = registry.register_agent(request).await?.into_inner().agent.context("the registry named no agent")?;
    let begun = Instant::now();
    loop {
        let request = GetAgentRequest { namespace: NAMESPACE.to_owned(), agent_id: agent.id.clone() };
        let found = registry.get_agent(request).await?.into_inner().agent.context("the registry named no agent")?;
        match found.status() {
            AgentStatus::Idle | AgentStatus::Busy | AgentStatus::Degraded => return Ok(agent.id),
            AgentStatus::Offline | AgentStatus::Unspecified if begun.elapsed() > PATIENCE => {
                bail!("no agent-runner hosts {}; does the server run one?", agent.id)
            }
            AgentStatus::Offline | AgentStatus::Unspecified => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
