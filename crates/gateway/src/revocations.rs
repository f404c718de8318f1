//! Ends agents' sessions at communication whose credential is good no more.
//!
//! Communication takes agents' tokens by their signature, and knows nothing of keys. So each replica of it is asked again and again what
//! is in use there, all of it, and what is good no more is told to every replica. Nothing is kept of it here, and what is good is
//! decided in one place: whatever ends a credential at the gateway ends the sessions that were opened with it, too. None waits for
//! another: each replica is looked through for itself.

use std::{collections::HashSet, sync::Arc, time::Duration};

use access::{Principal, acting_as};
use async_trait::async_trait;
use contracts::{
    Links, Replica,
    communication::v1::{
        ListCredentialsRequest, RevokeCredentialsRequest, credential_service_client::CredentialServiceClient,
    },
};
use errors::{Code, Error};
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};

use crate::auth::tokens::Tokens;

/// How often what is in use is looked through; sooner where something was revoked here.
const EVERY: Duration = Duration::from_secs(2);
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many a replica is told of at once.
const PORTION: usize = 500;

/// For ever; at once where nobody but the gateway takes agents' tokens.
pub(crate) async fn follow(tokens: &Tokens, replicas: Links) {
    if !tokens.are_shown_elsewhere() {
        return std::future::pending().await;
    }
    // As itself, whoever has revoked something.
    let own = Arc::new(Principal::service("gateway"));
    acting_as(own, look(replicas, tokens)).await;
}

/// Whoever knows what was revoked.
#[async_trait]
trait Known: Sync {
    /// Waits until something was revoked here. Cancel-safe.
    async fn revoked(&self);
    /// Those of which nothing is good any more.
    async fn ended_of(&self, families: Vec<String>) -> Result<Vec<String>, Error>;
}

#[async_trait]
impl Known for Tokens {
    async fn revoked(&self) {
        Self::revoked(self).await;
    }

    async fn ended_of(&self, families: Vec<String>) -> Result<Vec<String>, Error> {
        Self::ended_of(self, families).await
    }
}

async fn look(mut replicas: Links, known: &dyn Known) {
    let mut looking = FuturesUnordered::new();
    let (mut busy, mut away) = (HashSet::new(), HashSet::new());
    let mut due = tokio::time::interval(EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            Some((address, looked)) = looking.next() => {
                busy.remove(&address);
                report(&address, looked, &mut away);
                continue;
            }
            _ = due.tick() => {}
            () = known.revoked() => {}
        }
        let now = replicas.now();
        away.retain(|address| now.iter().any(|replica| replica.address == *address));
        for replica in now.iter().filter(|replica| busy.insert(Arc::clone(&replica.address))) {
            let (replica, all) = (replica.clone(), Arc::clone(&now));
            looking.push(async move {
                let looked = look_through(&replica, &all, known).await;
                (replica.address, looked)
            });
        }
    }
}

/// Once for a replica that is not well, until it is again.
fn report(address: &Arc<str>, looked: Result<(), Error>, away: &mut HashSet<Arc<str>>) {
    match looked {
        Ok(()) => drop(away.remove(address)),
        Err(error) if away.insert(Arc::clone(address)) => tracing::warn!(
            replica = &**address,
            error = errors::chain(&error),
            "sessions of agents whose token was revoked may go on until it expires"
        ),
        Err(_) => {}
    }
}

/// Looks through one replica, from the newest session to the oldest, portion by portion. What fails with one portion hides none that
/// come after it.
async fn look_through(replica: &Replica, all: &[Replica], known: &dyn Known) -> Result<(), Error> {
    let mut after_session_id = String::new();
    let (mut all_ended, mut told) = (Vec::new(), Ok(()));
    loop {
        let request = ListCredentialsRequest { after_session_id };
        let mut client = CredentialServiceClient::new(replica.link.clone());
        let portion = in_time(client.list_credentials(request)).await?.credentials;
        let Some(last) = portion.last() else { break };
        after_session_id = last.session_id.clone();
        let families: HashSet<_> = portion.into_iter().map(|in_use| in_use.family).collect();
        let ended = known.ended_of(families.into_iter().collect()).await?;
        if !ended.is_empty() {
            told = told.and(tell(replica, &ended).await);
            all_ended.extend(ended);
        }
    }
    if !all_ended.is_empty() {
        tracing::info!(replica = &*replica.address, families = all_ended.len(), "sessions of agents end: revoked");
        // So that nothing opens a session there. One that is not told is looked through itself, and that says whether it is well.
        let others = all.iter().filter(|other| other.address != replica.address);
        join_all(others.map(|other| tell(other, &all_ended))).await;
    }
    told
}

async fn tell(replica: &Replica, families: &[String]) -> Result<(), Error> {
    let mut client = CredentialServiceClient::new(replica.link.clone());
    for families in families.chunks(PORTION) {
        in_time(client.revoke_credentials(RevokeCredentialsRequest { families: families.to_vec() })).await?;
    }
    Ok(())
}

async fn in_time<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, Error> {
    match contracts::deadline::within(PATIENCE, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Error::new(Code::Timeout, "backend_timeout", "it does not answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use contracts::{
        Link,
        communication::v1::{
            CredentialInUse, ListCredentialsResponse, RevokeCredentialsResponse,
            credential_service_server::{CredentialService, CredentialServiceServer},
        },
    };
    use tokio::{
        sync::{mpsc, watch},
        time::Instant,
    };
    use tonic::{Request, Response, Status};

    use super::*;

    #[derive(Clone, Copy, PartialEq)]
    enum Is {
        Well,
        Away,
        Silent,
    }

    /// Replicas, each with sessions `3`, `2` and `1` that are open with families named after them, one in a portion.
    struct Fake {
        name: &'static str,
        is: Is,
        /// So many calls that end sessions fail.
        failing: AtomicUsize,
        told: mpsc::UnboundedSender<(&'static str, String)>,
    }

    impl Fake {
        async fn answers(&self) -> Result<(), Status> {
            match self.is {
                Is::Well => Ok(()),
                Is::Away => Err(Status::unavailable("it is away")),
                Is::Silent => pending().await,
            }
        }
    }

    #[tonic::async_trait]
    impl CredentialService for Fake {
        async fn list_credentials(
            &self,
            request: Request<ListCredentialsRequest>,
        ) -> Result<Response<ListCredentialsResponse>, Status> {
            self.answers().await?;
            let after: u32 = request.into_inner().after_session_id.parse().unwrap_or(4);
            let (session_id, family) = ((after - 1).to_string(), format!("{}-{}", self.name, after - 1));
            let credentials = if after > 1 { vec![CredentialInUse { session_id, family }] } else { Vec::new() };
            Ok(Response::new(ListCredentialsResponse { credentials }))
        }

        async fn revoke_credentials(
            &self,
            request: Request<RevokeCredentialsRequest>,
        ) -> Result<Response<RevokeCredentialsResponse>, Status> {
            self.answers().await?;
            if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(Status::unavailable("not now"));
            }
            for family in request.into_inner().families {
                self.told.send((self.name, family)).unwrap();
            }
            Ok(Response::new(RevokeCredentialsResponse {}))
        }
    }

    /// Everything is good no more, but the second session's of each.
    struct Revoked;

    #[async_trait]
    impl Known for Revoked {
        async fn revoked(&self) {
            pending::<()>().await;
        }

        async fn ended_of(&self, mut families: Vec<String>) -> Result<Vec<String>, Error> {
            families.retain(|family| !family.ends_with("-2"));
            Ok(families)
        }
    }

    fn replicas(all: &[(&'static str, Is, usize)]) -> (Links, mpsc::UnboundedReceiver<(&'static str, String)>) {
        let (told, heard) = mpsc::unbounded_channel();
        let replica = |&(name, is, failing): &(&'static str, Is, usize)| {
            let fake = Fake { name, is, failing: AtomicUsize::new(failing), told: told.clone() };
            Replica { address: Arc::from(name), link: Link::new(CredentialServiceServer::new(fake)) }
        };
        let (_, now) = watch::channel(all.iter().map(replica).collect::<Arc<[_]>>());
        (Links::watched(now), heard)
    }

    /// What is heard until it is all of this, and how long that took.
    async fn heard(
        (links, mut told): (Links, mpsc::UnboundedReceiver<(&'static str, String)>),
        all: &[(&'static str, &str)],
    ) -> Duration {
        let begun = Instant::now();
        let mut missing: HashSet<_> = all.iter().map(|(by, family)| (*by, (*family).to_owned())).collect();
        let hearing = async {
            while !missing.is_empty() {
                let one = told.recv().await.unwrap();
                assert!(!one.1.ends_with("-2"), "{one:?} is good");
                missing.remove(&one);
            }
        };
        tokio::select! {
            () = look(links, &Revoked) => unreachable!("it looks for ever"),
            () = hearing => {}
            () = tokio::time::sleep(EVERY * 10) => {}
        }
        assert!(missing.is_empty(), "{missing:?}");
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn every_replica_hears_what_is_good_no_more_from_the_newest_session_to_the_last() {
        let two = replicas(&[("a", Is::Well, 0), ("b", Is::Well, 0)]);
        let families = ["a-3", "a-1", "b-3", "b-1"];
        let all: Vec<_> = ["a", "b"].into_iter().flat_map(|by| families.map(|family| (by, family))).collect();
        assert!(heard(two, &all).await < EVERY);
    }

    #[tokio::test(start_paused = true)]
    async fn no_replica_that_is_away_or_silent_and_no_call_that_fails_hides_what_comes_after_it() {
        for other in [Is::Away, Is::Silent] {
            let two = replicas(&[("a", Is::Well, 0), ("b", other, 0)]);
            assert!(heard(two, &[("a", "a-3"), ("a", "a-1")]).await < EVERY, "at once");
        }
        let one = replicas(&[("a", Is::Well, 1)]);
        assert!(heard(one, &[("a", "a-1")]).await < EVERY, "in the same round");
        let again = replicas(&[("a", Is::Well, 1), ("b", Is::Silent, 0)]);
        let took = heard(again, &[("a", "a-3")]).await;
        assert!(took < EVERY * 4, "in the next round, {took:?}");
    }
}
