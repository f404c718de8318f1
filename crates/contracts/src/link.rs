//! The one way in which a client reaches a server: over the network, or straight into it inside the same process.

use std::{
    fmt,
    task::{Context, Poll},
};

use tonic::body::Body;
use tower::{BoxError, Service, ServiceExt as _, util::BoxCloneSyncService};

type Boxed = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;

/// What every generated client is made over: `RegistryServiceClient::new(link.clone())`.
///
/// In one process it wraps the tonic server itself, so a call costs microseconds and crosses no socket; between processes it
/// wraps a channel with its layers. The caller cannot tell the difference. Cloning is cheap.
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
        Self(BoxCloneSyncService::new(service.map_err(Into::into)))
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
