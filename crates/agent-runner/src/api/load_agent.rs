//! `LoadAgent`: registers an agent of a built-in kind, or finds it by name, and hosts it.

use contracts::{
    agent_runner::v1::LoadAgentRequest,
    registry::v1::{RegisterAgentRequest, registry_service_client::RegistryServiceClient},
};
use errors::Error;

use super::{Api, DEADLINE, namespace};

pub(super) async fn load(api: &Api, request: LoadAgentRequest) -> Result<String, Error> {
    let namespace = namespace(&request.namespace)?;
    let kind = api.hosts.check(&request.agent_type, &request.name, &request.config)?;
    let mut capabilities: Vec<_> = kind.capabilities().iter().map(|&capability| capability.to_owned()).collect();
    for capability in request.capabilities {
        if !capabilities.contains(&capability) {
            capabilities.push(capability);
        }
    }
    let registration = RegisterAgentRequest {
        namespace: namespace.to_string(),
        agent_id: String::new(),
        agent_type: request.agent_type,
        name: request.name,
        capabilities,
        config: request.config,
        attach: true,
    };
    let mut registry = RegistryServiceClient::new(api.registry.clone());
    let registered = contracts::deadline::within(DEADLINE, registry.register_agent(registration)).await;
    let late = |_| Error::unavailable("registry_unavailable", "the registry does not answer");
    let registered = registered.map_err(late)??.into_inner();
    let agent = registered
        .agent
        .ok_or_else(|| Error::unavailable("registry_unavailable", "the registry answered without an agent"))?;
    api.hosts.load(&agent);
    Ok(agent.id)
}
