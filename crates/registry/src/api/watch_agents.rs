//! `WatchAgents`: a listing, and every change after it.

use contracts::registry::v1::{
    AgentDeleted, Synced, WatchAgentsRequest, WatchAgentsResponse, watch_agents_response::Change,
};
use domain::Namespace;
use futures::{Stream, StreamExt as _, stream};
use lifecycle::Shutdown;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tonic::Status;

use super::wire;
use crate::app::{Notice, Registry};

pub(super) type Changes = std::pin::Pin<Box<dyn Stream<Item = Result<WatchAgentsResponse, Status>> + Send>>;

pub(super) fn watch(registry: &Registry, shutdown: Shutdown, request: &WatchAgentsRequest) -> Result<Changes, Status> {
    let namespace = if request.all_namespaces {
        access::fence_everything()?;
        None
    } else {
        Some(wire::namespace(&request.namespace)?)
    };
    let (snapshots, notices) = registry.watch(namespace.as_ref());
    let listing = snapshots.into_iter().map(|snapshot| Change::Upserted(wire::agent(snapshot)));
    let listing = stream::iter(listing.chain([Change::Synced(Synced {})]).map(|change| Ok(respond(change))));
    let live = stream::unfold((notices, namespace, shutdown), async |(mut notices, namespace, shutdown)| {
        let change = next(&mut notices, namespace.as_ref(), &shutdown).await?;
        Some((change, (notices, namespace, shutdown)))
    });
    Ok(listing.chain(live).boxed())
}

/// The next change of the namespace; none at the end, which comes with a drain or right after an error.
async fn next(
    notices: &mut Receiver<Notice>,
    namespace: Option<&Namespace>,
    shutdown: &Shutdown,
) -> Option<Result<WatchAgentsResponse, Status>> {
    loop {
        // Both arms are cancel-safe.
        let notice = tokio::select! {
            notice = notices.recv() => notice,
            () = shutdown.draining() => return None,
        };
        match notice {
            Ok(notice) if namespace.is_none_or(|namespace| namespace == notice.namespace()) => {
                return Some(Ok(respond(change(notice))));
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => {
                return Some(Err(Status::out_of_range(format!("{missed} changes were missed; start again"))));
            }
            Err(RecvError::Closed) => return None,
        }
    }
}

fn change(notice: Notice) -> Change {
    match notice {
        Notice::Upserted(snapshot) => Change::Upserted(wire::agent(snapshot)),
        Notice::Deleted { namespace, id } => {
            Change::Deleted(AgentDeleted { namespace: namespace.to_string(), agent_id: id.to_string() })
        }
    }
}

fn respond(change: Change) -> WatchAgentsResponse {
    WatchAgentsResponse { change: Some(change) }
}
