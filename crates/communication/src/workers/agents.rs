//! Follows the registry's agents: sessions of an agent whose capabilities change take from other queues at once, those of a
//! deleted one are ended, and the directory's memory stays fresh.
//!
//! Only a help: without it agents are asked for one by one, and deleted ones are noticed with the next report. What became of
//! the mail of one whose end was missed is looked for after each listing.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use contracts::registry::v1::{AgentDeleted, WatchAgentsResponse, watch_agents_response::Change};
use errors::Error;
use futures::{FutureExt as _, future::Fuse};
use lifecycle::Shutdown;
use tonic::Streaming;

use crate::{
    app::{Directory, Hub, Mailbox},
    error::CommunicationError,
    peers::{RegistryClient, agent_info},
    store::{Store, in_time},
};

/// Pause before a watch that has ended begins again.
const PAUSE: Duration = Duration::from_secs(1);

/// Unfinished messages that are read at once.
const PAGE: usize = 1_000;
/// How long the database may take for them.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who follows, and what is changed by it.
#[derive(Clone)]
pub(super) struct Agents {
    pub(super) hub: Arc<Hub>,
    pub(super) directory: Arc<Directory>,
    pub(super) store: Arc<dyn Store>,
}

pub(super) async fn run(agents: Agents, registry: RegistryClient, shutdown: Shutdown) -> Result<(), Infallible> {
    let follow = async {
        loop {
            let ended = match registry.watch().await {
                Ok(changes) => agents.follow(changes).await,
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

impl Agents {
    async fn follow(&self, mut changes: Streaming<WatchAgentsResponse>) -> Result<(), Error> {
        let mut listed = Some(HashSet::new());
        let mut looking = Fuse::terminated();
        loop {
            // Both arms are cancel-safe; changes are heard while it is looked for what was missed.
            let change = tokio::select! {
                change = changes.message() => change?,
                () = &mut looking => continue,
            };
            let Some(WatchAgentsResponse { change }) = change else { return Ok(()) };
            match change {
                Some(Change::Upserted(agent)) => {
                    let info = agent_info(agent)?;
                    self.hub.broker().refit(&info.mailbox, &info.agent_type, &info.capabilities);
                    if let Some(listed) = &mut listed {
                        listed.insert(info.mailbox.clone());
                    }
                    self.directory.refresh(info).await;
                }
                Some(Change::Deleted(deleted)) => self.forget(&deleted).await,
                Some(Change::Synced(_)) => {
                    if let Some(listed) = listed.take() {
                        let agents = self.clone();
                        looking = async move { agents.look_for_missed(&listed).await }.boxed().fuse();
                    }
                }
                None => {}
            }
        }
    }

    async fn forget(&self, deleted: &AgentDeleted) {
        let (Ok(namespace), Ok(agent)) = (deleted.namespace.parse(), deleted.agent_id.parse()) else { return };
        self.remove(&Mailbox::of_agent(namespace, agent)).await;
    }

    async fn remove(&self, mailbox: &Mailbox) {
        self.directory.forget(mailbox).await;
        self.hub.broker().remove(mailbox);
    }

    /// Agents that were deleted while nobody here listened: nobody takes their mail any more, and nothing else would end it.
    async fn look_for_missed(&self, listed: &HashSet<Mailbox>) {
        let mailboxes = match self.mailboxes().await {
            Ok(mailboxes) => mailboxes,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                return tracing::warn!(error, "cannot look for the mail of agents that were deleted");
            }
        };
        for mailbox in mailboxes.iter().filter(|mailbox| !listed.contains(mailbox)) {
            // The listing is newer than what is remembered, and older than what the registry says now.
            self.directory.forget(mailbox).await;
            match self.directory.get(mailbox).await {
                Err(CommunicationError::AgentNotFound(_)) => self.remove(mailbox).await,
                Ok(_) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    return tracing::debug!(error, "cannot ask for agents that may have been deleted");
                }
            }
        }
    }

    /// Those of unfinished messages.
    async fn mailboxes(&self) -> sqlx::Result<HashSet<Mailbox>> {
        let (mut mailboxes, mut after) = (HashSet::new(), 0);
        loop {
            let page = in_time(PATIENCE, self.store.unfinished(after, PAGE)).await?;
            for (envelope, ..) in page.rows {
                after = envelope.sequence;
                mailboxes.insert(envelope.message.mailbox().agents());
            }
            if page.is_last {
                return Ok(mailboxes);
            }
        }
    }
}
