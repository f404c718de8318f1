//! The door of a gRPC server: nobody comes in who does not say who they are, and nobody does what they may not.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use access::{Acting, Keys, Kind, Known, Principal, TokenError};
use errors::{Code, Error};
use futures::future::Either;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use http_body_util::BodyExt as _;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::{Denials, Token, denials::Attempt};

/// What is open to everybody: probes have no credentials, and health tells nothing else. Not its `Watch`, which never ends.
const OPEN: &str = "/grpc.health.v1.Health/Check";

/// Where agents come with tokens of their own; everything else they do over their session, or through a gateway. Whose token it is
/// comes along as an extension of the request, [`access::Credential`].
const SESSIONS: &str = "/troupe.communication.v1.AgentSessionService/";
/// What refuses in the middle of its stream, when the agent has said who it is.
const OPEN_SESSION: &str = "/troupe.communication.v1.AgentSessionService/OpenSession";

/// Who is let in: whoever presents the token itself, or something that was signed with keys made of it.
#[derive(Clone, Debug)]
pub struct Door {
    /// Nothing where none is set.
    token: Option<Token>,
    keys: Keys,
    /// What is signed must be for it.
    service: &'static str,
    /// Whoever has the token.
    cluster: Arc<Principal>,
}

impl Door {
    /// Opened by the token, and by what `keys` have signed for calls to `service`, as [`Caller::connect`](crate::Caller::connect) names it.
    pub fn new(token: Token, keys: Keys, service: &'static str) -> Self {
        Self { token: Some(token), ..Self::without_token(keys, service) }
    }

    /// The same, where no token is set.
    pub fn without_token(keys: Keys, service: &'static str) -> Self {
        Self { token: None, keys, service, cluster: Arc::new(Principal::cluster()) }
    }

    fn identify(&self, path: &str, headers: &HeaderMap) -> Result<Known, Error> {
        let presented = headers.get(AUTHORIZATION);
        if self.token.as_ref().is_some_and(|token| token.is(presented)) {
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
    denials: Option<Denials>,
    anonymous: Arc<Principal>,
}

impl Guard {
    /// Asks at `door`.
    pub fn new(door: Option<Door>) -> Self {
        Self { door, denials: None, anonymous: Arc::new(Principal::anonymous()) }
    }

    /// Notes there whom it has refused, and whom the services behind it have.
    #[must_use]
    pub fn noting(self, denials: Denials) -> Self {
        Self { denials: Some(denials), ..self }
    }

    /// What notes of one call that it was refused. Nobody is refused where nobody is asked.
    fn noted<B>(&self, request: &Request<B>, principal: Option<Arc<Principal>>) -> Option<Noted> {
        self.door.as_ref()?;
        Some(Noted { denials: self.denials.clone()?, attempt: Attempt::of(request), principal })
    }
}

/// Where it is noted that one call was refused.
#[derive(Debug)]
struct Noted {
    denials: Denials,
    attempt: Attempt,
    /// Nothing where nobody known has called.
    principal: Option<Arc<Principal>>,
}

impl Noted {
    fn note(&self, error: &Error) {
        self.denials.note(&self.attempt, self.principal.as_ref(), error);
    }

    /// Notes what an answer says, where that is a refusal of who has called.
    fn note_status(&self, headers: &HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else { return };
        match status.code() {
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => self.note(&Error::from(status)),
            _ => {}
        }
    }
}

/// An answer on its way: a service refuses, too, since it alone knows whose a namespace or a session is.
#[derive(Debug)]
pub struct Answering<F> {
    answer: Pin<Box<F>>,
    noted: Option<Noted>,
    /// It refuses in the middle of its stream.
    is_session: bool,
}

impl<F: Future<Output = Result<Response<Body>, E>>, E> Future for Answering<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = ready!(self.answer.as_mut().poll(context));
        let Some(noted) = self.noted.take() else { return Poll::Ready(answered) };
        let response = match answered {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(error)),
        };
        noted.note_status(response.headers());
        if !self.is_session {
            return Poll::Ready(Ok(response));
        }
        let watched = |body: Body| {
            Body::new(body.map_frame(move |frame| {
                if let Some(trailers) = frame.trailers_ref() {
                    noted.note_status(trailers);
                }
                frame
            }))
        };
        Poll::Ready(Ok(response.map(watched)))
    }
}

type Answer<F, E> = Either<F, Either<Answering<Acting<F>>, Ready<Result<Response<Body>, E>>>>;

fn refuse<F, E>(noted: Option<Noted>, error: Error) -> Answer<F, E> {
    if let Some(noted) = noted {
        noted.note(&error);
    }
    Either::Right(Either::Right(ready(Ok(Status::from(error).into_http()))))
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
    type Future = Answer<S::Future, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if path == OPEN {
            return Either::Left(self.inner.call(request));
        }
        let identified = match &self.guard.door {
            Some(door) => door.identify(path, request.headers()),
            None => Ok(Known { principal: Arc::clone(&self.guard.anonymous), credential: None }),
        };
        let Known { principal, credential } = match identified {
            Ok(known) => known,
            Err(error) => return refuse(self.guard.noted(&request, None), error),
        };
        let allowed = self.guard.door.as_ref().map_or(Ok(()), |_| access::authorize(path, &principal));
        if let Err(error) = allowed {
            return refuse(self.guard.noted(&request, Some(principal)), error);
        }
        let is_session = path == OPEN_SESSION;
        let noted = self.guard.noted(&request, Some(Arc::clone(&principal)));
        if let Some(credential) = credential {
            request.extensions_mut().insert(credential);
        }
        let answer = Box::pin(access::call_as(&mut self.inner, &principal, request));
        Either::Right(Either::Left(Answering { answer, noted, is_session }))
    }
}
