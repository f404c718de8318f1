//! The one way in which a client reaches a server: over the network, or straight into it inside the same process.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::watch;
use tonic::body::Body;
use tower::{BoxError, Layer, Service, ServiceExt as _, util::BoxCloneSyncService};
use trace::{ClientLayer, ServerLayer};

/// What is inside of a link, for layers around it.
pub type Boxed = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;

/// What every generated client is made over: `RegistryServiceClient::new(link.clone())`.
///
/// In one process it wraps the tonic server itself, so a call costs microseconds and crosses no socket; between processes it
/// wraps a channel with its layers. The caller cannot tell the difference. Cloning is cheap.
///
/// Every call over it goes on with the caller's trace and correlation id.
#[derive(Clone)]
pub struct Link(Boxed);

impl Link {
    /// A link over any service that speaks gRPC over HTTP: a `tonic::transport::Channel`, a generated server, or
    /// `tonic::service::Routes` with several of them.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(ClientLayer.layer(service.map_err(Into::into))))
    }

    /// The same link under a layer. The call is one still, and makes no span more.
    #[must_use]
    pub fn under<L>(self, layer: &L) -> Self
    where
        L: Layer<Boxed>,
        L::Service: Service<http::Request<Body>, Response = http::Response<Body>, Error = BoxError>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(layer.layer(self.0)))
    }

    /// A link to a server in the same process, which traces its calls as one that is called over the network does.
    pub fn local<S>(server: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + 'static,
        S::Future: Send + 'static,
    {
        Self::new(ServerLayer.layer(server))
    }
}

/// One replica of a service.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its `host:port`; empty where it is in this process. Two replicas never have the same.
    pub address: Arc<str>,
    /// The way to it, and to no other.
    pub link: Link,
}

/// The replicas of a service, each with a link of its own, for whoever has to speak to every one of them. They may come and
/// go. A service of which any replica will do is reached over a single [`Link`].
#[derive(Clone, Debug)]
pub struct Links(watch::Receiver<Arc<[Replica]>>);

impl Links {
    /// One replica for good.
    pub fn one(link: Link) -> Self {
        let (_, replicas) = watch::channel(Arc::from([Replica { address: Arc::from(""), link }]));
        Self(replicas)
    }

    /// Those that somebody else finds out about.
    pub const fn watched(replicas: watch::Receiver<Arc<[Replica]>>) -> Self {
        Self(replicas)
    }

    /// Those that there are now, which counts as having seen them.
    pub fn now(&mut self) -> Arc<[Replica]> {
        Arc::clone(&self.0.borrow_and_update())
    }

    /// Waits until there are others than were seen last; for ever where they cannot change. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Link")
    }
}

impl Service<http::Request<Body>> for Link {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = <Boxed as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}
