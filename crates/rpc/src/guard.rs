//! The door of a gRPC server: nobody comes in without the cluster's token.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::future::Either;
use http::{Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::Token;

/// What is open to everybody: probes have no credentials, and health tells nothing else. Not its `Watch`, which never ends.
const OPEN: &str = "/grpc.health.v1.Health/Check";

/// A layer that asks every call for the token; without one, everybody comes in.
#[derive(Clone, Debug)]
pub struct Guard(Option<Token>);

impl Guard {
    /// Asks for `token`.
    pub const fn new(token: Option<Token>) -> Self {
        Self(token)
    }
}

/// A service behind a [`Guard`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    token: Option<Token>,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, token: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_let_in = self.token.as_ref().is_none_or(|token| token.is(request.headers().get(AUTHORIZATION)));
        if is_let_in || request.uri().path() == OPEN {
            return Either::Left(self.inner.call(request));
        }
        let message = "this server wants the cluster's token as `authorization: Bearer …`";
        let refused = errors::Error::new(errors::Code::Unauthenticated, "unauthenticated", message);
        Either::Right(ready(Ok(Status::from(refused).into_http())))
    }
}
