//! Follows the registry's agents: sessions of an agent whose capabilities change take from other queues at once, those of a
//! deleted one are ended, and the directory's memory stays fresh.
//!
//! Only a help: without it agents are asked for one by one, and deleted ones are noticed with the next report.

use std::{convert::Infallible, sync::Arc, time::Duration};

use contracts::registry::v1::{AgentDeleted, WatchAgentsResponse, watch_agents_response::Change};
use errors::Error;
use lifecycle::Shutdown;
use tonic::Streaming;

use crate::{
    app::{Directory, Hub, Mailbox},
    peers::{RegistryClient, agent_info},
};

/// Pause before a watch that has ended begins again.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(
    hub: Arc<Hub>,
    directory: Arc<Directory>,
    registry: RegistryClient,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let follow = async {
        loop {
            let ended = match registry.watch().await {
                Ok(changes) => follow(&hub, &directory, changes).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::debug!(error = errors::chain(&error), "cannot follow the registry's agents now");
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    // Both arms are cancel-safe: what is missed at the end does not matter.
    tokio::select! {
        () = follow => {}
        () = shutdown.draining() => {}
    }
    Ok(())
}

/// Hears what other replicas have forgotten.
pub(super) async fn share(directory: Arc<Directory>, shutdown: Shutdown) -> Result<(), Infallible> {
    // Both arms are cancel-safe.
    tokio::select! {
        () = directory.follow() => {}
        () = shutdown.draining() => {}
    }
    Ok(())
}

async fn follow(hub: &Hub, directory: &Directory, mut changes: Streaming<WatchAgentsResponse>) -> Result<(), Error> {
    while let Some(WatchAgentsResponse { change }) = changes.message().await? {
        match change {
            Some(Change::Upserted(agent)) => {
                let info = agent_info(agent)?;
                hub.broker().refit(&info.mailbox, &info.agent_type, &info.capabilities);
                directory.refresh(info).await;
            }
            Some(Change::Deleted(deleted)) => forget(hub, directory, &deleted).await,
            Some(Change::Synced(_)) | None => {}
        }
    }
    Ok(())
}

async fn forget(hub: &Hub, directory: &Directory, deleted: &AgentDeleted) {
    let (Ok(namespace), Ok(agent)) = (deleted.namespace.parse(), deleted.agent_id.parse()) else { return };
    let mailbox = Mailbox { namespace, agent };
    directory.forget(&mailbox).await;
    hub.broker().remove(&mailbox);
}
