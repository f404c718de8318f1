//! The door of a gRPC server: nobody comes in who does not say who they are, and nobody does what they may not.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use access::{Acting, Keys, Principal, TokenError};
use errors::{Code, Error};
use futures::future::Either;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::Token;

/// What is open to everybody: probes have no credentials, and health tells nothing else. Not its `Watch`, which never ends.
const OPEN: &str = "/grpc.health.v1.Health/Check";

/// Where agents come with tokens of their own; everything else they do over their session, or through a gateway.
const SESSIONS: &str = "/troupe.communication.v1.AgentSessionService/OpenSession";

/// Who is let in: whoever presents the token itself, or something that was signed with keys made of it.
#[derive(Clone, Debug)]
pub struct Door {
    token: Token,
    keys: Keys,
    /// Whoever has the token.
    cluster: Arc<Principal>,
}

impl Door {
    /// Opened by the token, and by what `keys` have signed.
    pub fn new(token: Token, keys: Keys) -> Self {
        Self { token, keys, cluster: Arc::new(Principal::cluster()) }
    }

    fn identify(&self, path: &str, headers: &HeaderMap) -> Result<Arc<Principal>, Error> {
        let presented = headers.get(AUTHORIZATION);
        if self.token.is(presented) {
            return Ok(Arc::clone(&self.cluster));
        }
        let signed = presented.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let known = signed.map_or(Err(TokenError::Foreign), |signed| match path {
            SESSIONS => self.keys.anybody(signed),
            _ => self.keys.process(signed),
        });
        known.map_err(|error| {
            let (reason, message) = match error {
                TokenError::Expired => ("token_expired", "what was presented has expired: get another token"),
                TokenError::Foreign | TokenError::Early | TokenError::Unsignable => {
                    ("unauthenticated", "this server wants a token of the cluster as `authorization: Bearer …`")
                }
            };
            Error::new(Code::Unauthenticated, reason, message)
        })
    }
}

/// A layer that asks every call who makes it, and whether they may; without a door, everybody comes in.
#[derive(Clone, Debug)]
pub struct Guard(Option<Door>);

impl Guard {
    /// Asks at `door`.
    pub const fn new(door: Option<Door>) -> Self {
        Self(door)
    }
}

/// A service behind a [`Guard`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    door: Option<Door>,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, door: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Either<Acting<S::Future>, Ready<Result<Response<Body>, S::Error>>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let door = match &self.door {
            Some(door) if path != OPEN => door,
            Some(_) | None => return Either::Left(self.inner.call(request)),
        };
        let known = door.identify(path, request.headers());
        let allowed = known.and_then(|principal| access::authorize(path, &principal).map(|()| principal));
        Either::Right(match allowed {
            Ok(principal) => Either::Left(access::call_as(&mut self.inner, &principal, request)),
            Err(error) => Either::Right(ready(Ok(Status::from(error).into_http()))),
        })
    }
}
