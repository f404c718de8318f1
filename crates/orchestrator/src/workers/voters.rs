//! Asking the registry who may vote.

use std::{convert::Infallible, time::Duration};

use contracts::{
    Link,
    registry::v1::{SelectAgentsRequest, registry_service_client::RegistryServiceClient, select_agents_request},
};
use domain::ExecutionId;
use futures::{StreamExt as _, future};
use lifecycle::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use workflow::{Target, Unit, Voter};

use super::{Input, Workers};

/// Searches that may wait.
pub(super) const QUEUE: usize = 1_024;
/// Searches at once.
const AT_ONCE: usize = 16;
/// How long the registry may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A search.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) id: ExecutionId,
    pub(super) unit: Unit,
    pub(super) namespace: String,
    pub(super) target: Target,
    pub(super) count: u32,
}

/// Answers searches until the service ends. A registry that does not answer is one without agents: the worker asks again.
pub(super) async fn run(
    workers: Workers,
    registry: Link,
    wanted: mpsc::Receiver<Wanted>,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let client = RegistryServiceClient::new(registry)
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    let searches = ReceiverStream::new(wanted)
        .take_until(Box::pin(async move { shutdown.draining().await }))
        .map(|wanted| {
            let client = client.clone();
            async move {
                let (id, unit) = (wanted.id, wanted.unit);
                (id, unit, find(client, wanted).await)
            }
        })
        .buffer_unordered(AT_ONCE);
    let mut searches = std::pin::pin!(searches);
    while let Some((id, unit, found)) = future::poll_fn(|context| searches.as_mut().poll_next_unpin(context)).await {
        workers.tell(id, Input::Voters { id, unit, found }).await;
    }
    Ok(())
}

async fn find(mut client: RegistryServiceClient<Link>, wanted: Wanted) -> Vec<Voter> {
    let target = match wanted.target {
        Target::AgentType(name) => select_agents_request::Target::AgentType(name),
        Target::Capability(name) => select_agents_request::Target::Capability(name),
        // The engine chooses voters that are named by itself.
        Target::AgentId(_) => return Vec::new(),
    };
    let request = SelectAgentsRequest {
        namespace: wanted.namespace,
        target: Some(target),
        count: wanted.count,
        ..SelectAgentsRequest::default()
    };
    let agents = match contracts::deadline::within(TIMEOUT, client.select_agents(request)).await {
        Ok(Ok(response)) => response.into_inner().agents,
        Ok(Err(status)) => {
            tracing::warn!(%status, "the registry cannot select voters");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!("the registry does not answer");
            Vec::new()
        }
    };
    let voter = |agent: contracts::registry::v1::Agent| {
        let config: serde_json::Value = serde_json::from_slice(&agent.config).unwrap_or_default();
        let weight = config.get("weight").and_then(serde_json::Value::as_f64).unwrap_or(1.0);
        Some(Voter { agent_id: agent.id.parse().ok()?, name: agent.name, weight })
    };
    agents.into_iter().filter_map(voter).collect()
}
