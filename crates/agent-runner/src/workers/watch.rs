//! Follows the registry: what it lists is hosted, what it drops is closed. A lost stream is opened again, and its first
//! listing mends what was missed.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use backon::BackoffBuilder as _;
use contracts::{
    Link,
    registry::v1::{
        AgentDeleted, WatchAgentsRequest, registry_service_client::RegistryServiceClient, watch_agents_response::Change,
    },
};
use lifecycle::{OnExit, Tasks};
use tonic::Status;

use crate::app::{Hosts, Key};

/// Starts to follow.
pub(crate) fn spawn(hosts: Arc<Hosts>, registry: Link, tasks: &Tasks) {
    let shutdown = tasks.shutdown().clone();
    let follow = async move {
        // Dropping the stream anywhere is fine.
        tokio::select! {
            () = follow(&hosts, registry) => {}
            () = shutdown.draining() => {}
        }
        Ok::<(), Infallible>(())
    };
    tasks.spawn("registry watch", OnExit::StopService, follow);
}

async fn follow(hosts: &Hosts, registry: Link) {
    let mut pauses = super::pauses().build();
    loop {
        let mut synced = false;
        let ended = once(hosts, registry.clone(), &mut synced).await;
        if synced {
            pauses = super::pauses().build();
        }
        let pause = pauses.next().unwrap_or(Duration::from_secs(5));
        let error =
            ended.err().map_or_else(|| "the registry ended it".to_owned(), |status| status.message().to_owned());
        tracing::info!(error, ?pause, "registry watch lost, opening another");
        tokio::time::sleep(pause).await;
    }
}

async fn once(hosts: &Hosts, registry: Link, synced: &mut bool) -> Result<(), Status> {
    let mut client = RegistryServiceClient::new(registry).max_decoding_message_size(contracts::MAX_MESSAGE_BYTES);
    let request = WatchAgentsRequest { namespace: String::new(), all_namespaces: true };
    let mut changes = client.watch_agents(request).await?.into_inner();
    let mut present: HashSet<Key> = HashSet::new();
    while let Some(response) = changes.message().await? {
        match response.change {
            Some(Change::Upserted(agent)) => {
                if !*synced {
                    present.insert((agent.namespace.clone(), agent.id.clone()));
                }
                hosts.upserted(&agent);
            }
            Some(Change::Deleted(AgentDeleted { namespace, agent_id })) => hosts.deleted(&(namespace, agent_id)),
            Some(Change::Synced(_)) => {
                hosts.retain(&present);
                present = HashSet::new();
                *synced = true;
            }
            None => {}
        }
    }
    Ok(())
}
