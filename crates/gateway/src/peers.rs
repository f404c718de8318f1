//! How the services behind do, each asked the smallest question that it answers from its database.

use std::{future::Future, sync::Arc};

use access::{Principal, acting_as};
use contracts::{
    communication::v1::{ListMessagesRequest, message_service_client::MessageServiceClient},
    orchestrator::v1::{ListExecutionsRequest, execution_service_client::ExecutionServiceClient},
    registry::v1::{ListAgentsRequest, registry_service_client::RegistryServiceClient},
};
use lifecycle::{Checks, Complaint, HealthStatus};

use crate::Peers;

/// A check per service behind. Without orchestrators or communications requests fail; without a registry work goes on, and agents
/// are answered as they were last.
pub(crate) fn checks(peers: &Peers) -> Checks {
    let (registry, orchestrator, communication) =
        (peers.registry.clone(), peers.orchestrator.clone(), peers.communication.clone());
    Checks::new()
        .with("registry", HealthStatus::Degraded, move || {
            let mut agents = RegistryServiceClient::new(registry.clone());
            let one = ListAgentsRequest { page_size: 1, ..Default::default() };
            answers(HealthStatus::Degraded, async move { agents.list_agents(one).await })
        })
        .with("orchestrator", HealthStatus::Unhealthy, move || {
            let mut executions = ExecutionServiceClient::new(orchestrator.clone());
            let one = ListExecutionsRequest { page_size: 1, ..Default::default() };
            answers(HealthStatus::Unhealthy, async move { executions.list_executions(one).await })
        })
        .with("communication", HealthStatus::Unhealthy, move || {
            let mut messages = MessageServiceClient::new(communication.clone());
            let one = ListMessagesRequest { page_size: 1, ..Default::default() };
            answers(HealthStatus::Unhealthy, async move { messages.list_messages(one).await })
        })
}

async fn answers<T>(
    otherwise: HealthStatus,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<(), Complaint> {
    // Nobody has asked for it but the gateway itself.
    let answer = acting_as(Arc::new(Principal::service("gateway")), call).await;
    answer.map(drop).map_err(|status| Complaint::failed(otherwise, errors::chain(&status)))
}
