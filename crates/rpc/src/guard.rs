//! The door of a gRPC server: nobody comes in who does not say who they are, and nobody does what they may not.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use access::{Acting, Keys, Kind, Known, Principal, TokenError};
use errors::{Code, Error};
use futures::future::Either;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::Token;

/// What is open to everybody: probes have no credentials, and health tells nothing else. Not its `Watch`, which never ends.
const OPEN: &str = "/grpc.health.v1.Health/Check";

/// Where agents come with tokens of their own; everything else they do over their session, or through a gateway. Whose token it is
/// comes along as an extension of the request, [`access::Credential`].
const SESSIONS: &str = "/troupe.communication.v1.AgentSessionService/";

/// Who is let in: whoever presents the token itself, or something that was signed with keys made of it.
#[derive(Clone, Debug)]
pub struct Door {
    token: Token,
    keys: Keys,
    /// What is signed must be for it.
    service: &'static str,
    /// Whoever has the token.
    cluster: Arc<Principal>,
}

impl Door {
    /// Opened by the token, and by what `keys` have signed for calls to `service`, as [`Caller::connect`](crate::Caller::connect) names it.
    pub fn new(token: Token, keys: Keys, service: &'static str) -> Self {
        Self { token, keys, service, cluster: Arc::new(Principal::cluster()) }
    }

    fn identify(&self, path: &str, headers: &HeaderMap) -> Result<Known, Error> {
        let presented = headers.get(AUTHORIZATION);
        if self.token.is(presented) {
            return Ok(Known { principal: Arc::clone(&self.cluster), credential: None });
        }
        let signed = presented.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let known = signed.map_or(Err(TokenError::Foreign), |signed| {
            if !path.starts_with(SESSIONS) {
                return self.keys.process(signed, self.service).map(|principal| Known { principal, credential: None });
            }
            let known = self.keys.anybody(signed, self.service)?;
            // What a process says of whom it calls for is good for a minute, and a session goes on: it would outlive what they have
            // shown. Our own processes have sessions of their own.
            let may_last = known.credential.is_some() || known.principal.kind == Kind::Service;
            if may_last { Ok(known) } else { Err(TokenError::Foreign) }
        });
        known.map_err(|error| {
            let (reason, message) = match error {
                TokenError::Expired => ("token_expired", "what was presented has expired: get another token"),
                TokenError::Foreign | TokenError::Early | TokenError::Unsignable | TokenError::Nobody => {
                    ("unauthenticated", "this server wants a token of the cluster as `authorization: Bearer …`")
                }
            };
            Error::new(Code::Unauthenticated, reason, message)
        })
    }
}

/// A layer that asks every call who makes it, and whether they may; without a door everybody comes in, as whoever is at this machine.
#[derive(Clone, Debug)]
pub struct Guard {
    door: Option<Door>,
    anonymous: Arc<Principal>,
}

impl Guard {
    /// Asks at `door`.
    pub fn new(door: Option<Door>) -> Self {
        Self { door, anonymous: Arc::new(Principal::anonymous()) }
    }
}

/// A service behind a [`Guard`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if path == OPEN {
            return Either::Left(self.inner.call(request));
        }
        let allowed = match &self.guard.door {
            Some(door) => door
                .identify(path, request.headers())
                .and_then(|known| access::authorize(path, &known.principal).map(|()| known)),
            None => Ok(Known { principal: Arc::clone(&self.guard.anonymous), credential: None }),
        };
        Either::Right(match allowed {
            Ok(Known { principal, credential }) => {
                if let Some(credential) = credential {
                    request.extensions_mut().insert(credential);
                }
                Either::Left(access::call_as(&mut self.inner, &principal, request))
            }
            Err(error) => Either::Right(ready(Ok(Status::from(error).into_http()))),
        })
    }
}
