//! Calls about one execution, answered by the replica that writes its shard, whichever replica was called.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use contracts::{Link, orchestrator::v1::execution_service_client::ExecutionServiceClient};
use domain::ExecutionId;
use errors::Error;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Api;
use crate::error::OrchestratorError;

/// Says that a call was passed on: whoever gets it answers, or says that the shard moves.
const FORWARDED: &str = "troupe-forwarded";
/// Says that the caller tries again by itself: who cannot be asked now is not waited for.
pub(crate) const IMPATIENT: &str = "troupe-impatient";
/// A dead replica's shards are taken over within a lease, and so much later their executions are read.
const TO_READ: Duration = Duration::from_secs(5);
/// Before the deadline of a call, so that its caller hears that the shard moves, and not nothing.
const TO_ANSWER: Duration = Duration::from_millis(500);
/// Between two looks for the owner of a shard that moves.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) type Client = ExecutionServiceClient<Link>;

/// A way to ask the replica that writes a shard.
pub(super) struct Route {
    is_forwarded: bool,
    patience: Instant,
    /// An owner died before it answered: what it was told may have happened, and is told again.
    is_in_doubt: AtomicBool,
}

/// Who answers.
pub(super) enum Answerer {
    /// This replica.
    Here,
    /// Another.
    There(Box<Client>),
}

impl Route {
    /// May this refusal be due to what the same call did at an owner that died before it answered?
    pub(super) fn is_own_doing<T>(&self, answer: &Result<Response<T>, Status>, reason: &str) -> bool {
        let is_refused = answer.as_ref().is_err_and(|status| Error::from(status.clone()).reason == reason);
        is_refused && self.is_in_doubt.load(Ordering::Relaxed)
    }

    /// A request as it is passed on. What came with it belongs to the connection that it came over: its length, for one, is
    /// another's. Deadline, trace and credential are the link's business.
    #[expect(clippy::unused_self, reason = "only what was routed is passed on")]
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
        request
    }
}

impl Api {
    pub(super) fn route<T>(&self, request: Request<T>) -> (Route, T) {
        let (metadata, _, message) = request.into_parts();
        let is_forwarded = metadata.contains_key(FORWARDED);
        let patience = Instant::now() + self.app.workers.shared().settings.lease + TO_READ;
        let patience = if metadata.contains_key(IMPATIENT) { Instant::now() } else { patience };
        let answer_by = contracts::deadline::current().and_then(|deadline| deadline.checked_sub(TO_ANSWER));
        let patience = answer_by.map_or(patience, |by| by.min(patience));
        (Route { is_forwarded, patience, is_in_doubt: AtomicBool::new(false) }, message)
    }

    /// Who is to answer now. Waits while the shard is nobody's.
    pub(super) async fn answerer(&self, route: &Route, id: ExecutionId) -> Result<Answerer, Status> {
        loop {
            let holdings = &self.app.workers.shared().holdings;
            // Memory is believed while the lease holds: after it another may have written more.
            if holdings.may_speak_of(id).is_some() {
                return Ok(Answerer::Here);
            }
            if route.is_forwarded {
                return Err(Error::from(OrchestratorError::Moved).into());
            }
            let owner = self.app.replicas.owner(holdings.shard(id)).await.map_err(OrchestratorError::Database)?;
            if let Some(link) = owner {
                return Ok(Answerer::There(Box::new(client(link))));
            }
            if Instant::now() > route.patience {
                return Err(Error::from(OrchestratorError::Moved).into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// All other replicas that write something; none for a call that was passed on.
    pub(super) async fn others(&self, route: &Route) -> Result<Vec<Client>, Status> {
        if route.is_forwarded {
            return Ok(Vec::new());
        }
        let links = self.app.replicas.others().await.map_err(OrchestratorError::Database)?;
        Ok(links.into_iter().map(client).collect())
    }

    /// Is the answer that the shard moves, or that its owner has just died? Then another has it in a moment; all calls that
    /// are routed can be repeated. Waits before it says so.
    pub(super) async fn is_to_repeat<T>(&self, route: &Route, answer: &Result<Response<T>, Status>) -> bool {
        let Err(status) = answer else { return false };
        // Ours all have details.
        let is_gone = status.code() == tonic::Code::Unavailable && status.details().is_empty();
        let is_moving = Error::from(status.clone()).reason == "shard_moving";
        let is_to_repeat = !route.is_forwarded && (is_moving || is_gone) && Instant::now() < route.patience;
        if is_to_repeat {
            route.is_in_doubt.fetch_or(is_gone, Ordering::Relaxed);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        is_to_repeat
    }
}

fn client(link: Link) -> Client {
    Client::new(link)
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES)
}

/// Answers here or passes the call on: `routed!(self, request, method, |request| local)`. The message is cloned, since a call
/// may have to be repeated. Whoever does not reach the namespace that it names is refused before: the owner would see this
/// replica.
/// `$settle`: what is answered in place of the last answer, where a try whose fate is unknown came before it.
/// `@`: the same where the caller has checked which execution it is.
macro_rules! routed {
    (@ $api:expr, $request:expr, $method:ident, $id:expr, $local:expr, $settle:expr) => {{
        let id = $id;
        let (route, message) = $api.route($request);
        loop {
            let answer = match $api.answerer(&route, id).await? {
                $crate::api::routed::Answerer::Here => $local(message.clone()).await,
                $crate::api::routed::Answerer::There(mut client) => {
                    client.$method(route.request(message.clone())).await
                }
            };
            if !$api.is_to_repeat(&route, &answer).await {
                break ($settle)(&route, message, answer).await;
            }
        }
    }};
    ($api:expr, $request:expr, $method:ident, $local:expr) => {
        $crate::api::routed::routed!($api, $request, $method, $local, async |_, _, answer| answer)
    };
    ($api:expr, $request:expr, $method:ident, $local:expr, $settle:expr) => {{
        let asked = $request.get_ref();
        let (_, id) = $crate::api::wire::execution_of(&asked.namespace, &asked.execution_id)?;
        $crate::api::routed::routed!(@ $api, $request, $method, id, $local, $settle)
    }};
}
pub(super) use routed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_ones_own_doing_only_after_a_try_whose_fate_is_unknown() {
        let is_in_doubt = AtomicBool::new(false);
        let route = Route { is_forwarded: false, patience: Instant::now(), is_in_doubt };
        let ended = Err::<Response<()>, _>(Status::from(Error::conflict("execution_ended", "it has ended")));
        assert!(!route.is_own_doing(&ended, "execution_ended"));
        route.is_in_doubt.store(true, Ordering::Relaxed);
        assert!(route.is_own_doing(&ended, "execution_ended"));
        assert!(!route.is_own_doing(&ended, "execution_not_failed"));
        assert!(!route.is_own_doing(&Ok(Response::new(())), "execution_ended"));
    }
}
