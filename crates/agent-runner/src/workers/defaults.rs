//! One agent of every kind in the namespace `default`, so that a newcomer's first workflow finds somebody to work for it.

use std::{convert::Infallible, time::Duration};

use backon::BackoffBuilder as _;
use contracts::{
    Link,
    registry::v1::{RegisterAgentRequest, registry_service_client::RegistryServiceClient},
};
use lifecycle::{OnExit, Tasks};

use crate::agents::Kind;

/// For one registration.
const DEADLINE: Duration = Duration::from_secs(10);

/// Registers them as soon as the registry answers; those that are there already stay as they are configured.
pub(crate) fn spawn(registry: Link, tasks: &Tasks) {
    let shutdown = tasks.shutdown().clone();
    let register = async move {
        tokio::select! {
            () = register_all(&registry) => {}
            () = shutdown.draining() => {}
        }
        Ok::<(), Infallible>(())
    };
    tasks.spawn("default agents", OnExit::Continue, register);
}

async fn register_all(registry: &Link) {
    for kind in Kind::ALL {
        let mut pauses = super::pauses().build();
        while let Err(error) = register(registry, kind).await {
            if !error.code.is_transient() {
                tracing::warn!(
                    agent.kind = kind.as_str(),
                    error = errors::chain(&error),
                    "a default agent cannot be registered"
                );
                break;
            }
            tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(5))).await;
        }
    }
}

async fn register(registry: &Link, kind: Kind) -> Result<(), errors::Error> {
    let request = RegisterAgentRequest {
        agent_type: kind.as_str().to_owned(),
        name: kind.as_str().to_owned(),
        capabilities: kind.capabilities().iter().map(|&capability| capability.to_owned()).collect(),
        // One that is there already stays as somebody has configured it.
        attach: false,
        ..RegisterAgentRequest::default()
    };
    let mut client = RegistryServiceClient::new(registry.clone());
    match contracts::deadline::within(DEADLINE, client.register_agent(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => match errors::Error::from(status) {
            error if error.code == errors::Code::Exists => Ok(()),
            error => Err(error),
        },
        Err(_) => Err(errors::Error::unavailable("registry_unavailable", "the registry does not answer")),
    }
}
