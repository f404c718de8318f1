//! The one place where clients of other processes are made.

use std::{fmt, sync::Arc, time::Duration};

use access::Signer;
use contracts::{Link, Links};
use lifecycle::Tasks;
use tokio::sync::{Notify, watch};
use tonic::{Status, transport::Endpoint};
use tower::{BoxError, Layer as _, ServiceExt as _};
use tower_resilience::bulkhead::{BulkheadLayer, BulkheadServiceError};

use crate::{
    Replicas, Tls, TlsError,
    balance::Balanced,
    dial::Dial,
    metrics::REFUSED,
    replica::Replica,
    replicas::host,
    resolve::{At, Followed, LookUp, Resolver, Target, system},
};

/// How often a connection is asked whether it lives, and how long it may take to say so: a replica that is stopped or cut off
/// keeps calls no longer than the two together.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(3);
/// Bytes of a stream that nobody has read yet. All streams to a replica share one connection, where those that are not read, since
/// whoever they are for does not read, keep out all others if they can fill it together; so there is room for a thousand of them.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1024 * STREAM_WINDOW;
/// How long a call waits for its turn where too many are under way.
const TURN: Duration = Duration::from_secs(1);

/// No link can be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no address.
    #[error("no address is given")]
    Nowhere,
    /// An address is none.
    #[error("{address} is no address")]
    Address {
        /// What was given.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// A host cannot have a certificate.
    #[error("{address} cannot be called over TLS")]
    Tls {
        /// What was given.
        address: String,
        /// Why.
        #[source]
        source: TlsError,
    },
}

/// Makes links to the services of other processes; all that a process makes it makes with one. Cloning is cheap.
#[derive(Clone)]
pub struct Caller {
    signer: Option<Signer>,
    tls: Option<Tls>,
    max_calls: usize,
    look_up: LookUp,
    tasks: Tasks,
}

impl fmt::Debug for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Caller").field("max_calls", &self.max_calls).finish_non_exhaustive()
    }
}

impl Caller {
    /// Calls to one service that are under way at once, unless it is said otherwise.
    pub const MAX_CALLS: usize = 1024;

    /// Presents nothing and trusts everybody. `tasks` own what follows the replicas.
    pub fn new(tasks: Tasks) -> Self {
        Self { signer: None, tls: None, max_calls: Self::MAX_CALLS, look_up: system(), tasks }
    }

    /// Says for whom it calls.
    #[must_use]
    pub fn with_signer(self, signer: Option<Signer>) -> Self {
        Self { signer, ..self }
    }

    /// Shows its certificate, and wants one of the same authority.
    #[must_use]
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Has no more calls under way to one service at once; what is too much waits a moment, and is refused.
    #[must_use]
    pub fn with_max_calls(self, max_calls: usize) -> Self {
        Self { max_calls: max_calls.max(1), ..self }
    }

    /// Looks names up in another way than the system's.
    #[cfg(test)]
    pub(crate) fn with_look_up(self, look_up: LookUp) -> Self {
        Self { look_up, ..self }
    }

    /// A link to the replicas of a service. It connects when it is used, and again when a connection is lost.
    pub fn connect(&self, service: &'static str, replicas: &Replicas) -> Result<Link, ConnectError> {
        let wanted = Arc::new(Notify::new());
        let caller = self.clone();
        let make = move |target: &Target| caller.replica(service, target);
        let found = self.follow(replicas, Arc::clone(&wanted), make)?;
        Ok(self.link(service, Followed::new(found, wanted)))
    }

    /// A link to each replica of a service, for whoever has to speak to all of them. They change as the addresses of names do.
    pub fn connect_each(&self, service: &'static str, replicas: &Replicas) -> Result<Links, ConnectError> {
        let wanted = Arc::new(Notify::new());
        let (caller, again) = (self.clone(), Arc::clone(&wanted));
        let make = move |target: &Target| {
            let (_, only) = watch::channel(Arc::from([caller.replica(service, target)]));
            let link = caller.link(service, Followed::new(only, Arc::clone(&again)));
            contracts::Replica { address: Arc::clone(&target.address), link }
        };
        self.follow(replicas, wanted, make).map(Links::watched)
    }

    fn follow<T: At>(
        &self,
        replicas: &Replicas,
        wanted: Arc<Notify>,
        make: impl Fn(&Target) -> T + Send + Sync + 'static,
    ) -> Result<watch::Receiver<Arc<[T]>>, ConnectError> {
        for place in replicas.places() {
            self.check(place)?;
        }
        if replicas.places().is_empty() {
            return Err(ConnectError::Nowhere);
        }
        let (resolver, found) = Resolver::new(replicas.places(), Arc::clone(&self.look_up), wanted, make);
        resolver.spawn(&self.tasks);
        Ok(found)
    }

    /// What an operator has given, before anything depends on it.
    fn check(&self, place: &str) -> Result<(), ConnectError> {
        let address = || place.to_owned();
        Endpoint::from_shared(format!("http://{place}"))
            .map_err(|source| ConnectError::Address { address: address(), source })?;
        let tls = self.tls.as_ref().map(|tls| tls.client(host(place))).transpose();
        tls.map(drop).map_err(|source| ConnectError::Tls { address: address(), source })
    }

    fn replica(&self, service: &'static str, target: &Target) -> Arc<Replica> {
        // Its host was checked.
        let tls = self.tls.as_ref().and_then(|tls| tls.client(&target.host).ok());
        let dial = Dial { place: Arc::clone(&target.address), tls };
        // The URI is only what a request says; where it goes and how is up to `dial`.
        let channel = Endpoint::from_static("http://troupe")
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .http2_max_header_list_size(contracts::MAX_HEAD_BYTES)
            .connect_with_connector_lazy(dial);
        Arc::new(Replica::new(service, Arc::clone(&target.address), channel))
    }

    fn link(&self, service: &'static str, replicas: Followed) -> Link {
        let balanced = Balanced::new(service, replicas, self.signer.clone());
        let bulkhead =
            BulkheadLayer::builder().max_concurrent_calls(self.max_calls).max_wait_duration(TURN).name(service);
        match bulkhead.build() {
            Ok(bulkhead) => Link::new(bulkhead.layer(balanced).map_err(move |error| full(service, error))),
            // Only a limit of nothing cannot be built.
            Err(_) => Link::new(balanced),
        }
    }
}

/// A bulkhead's refusal as a status: nobody has seen the call, and trying again may help.
fn full(service: &'static str, error: BulkheadServiceError<BoxError>) -> BoxError {
    match error {
        BulkheadServiceError::Inner(error) => error,
        BulkheadServiceError::Bulkhead(_) => {
            metrics::counter!(REFUSED, "service" => service, "why" => "bulkhead").increment(1);
            let message = format!("too many calls to {service} at once (setting serve.max_calls)");
            Status::from(errors::Error::unavailable("overloaded", message)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use lifecycle::Shutdown;

    use super::*;

    #[tokio::test]
    async fn nowhere_cannot_be_called() {
        let caller = Caller::new(Tasks::new(Shutdown::new()));
        assert!(matches!(caller.connect("test", &Replicas::default()), Err(ConnectError::Nowhere)));
    }

    #[tokio::test]
    async fn links_come_and_go_with_the_addresses_of_a_name() {
        let look_up: LookUp =
            Arc::new(|_| async { Ok(vec![([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into()]) }.boxed());
        let tasks = Tasks::new(Shutdown::new());
        let caller = Caller::new(tasks.clone()).with_look_up(look_up);
        let mut links = caller.connect_each("test", &"svc:1".parse().unwrap()).unwrap();
        while links.now().len() != 2 {
            links.changed().await;
        }
        assert_eq!(
            links.now().iter().map(|replica| &*replica.address).collect::<Vec<_>>(),
            ["10.0.0.1:1", "10.0.0.2:1"]
        );
        tasks.shutdown().drain();
        tasks.join(TURN).await.unwrap();
    }
}
