//! One call, to one of several replicas: in turn, past those that cannot be reached, and once more where that is safe.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use access::{Signer, TokenError};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION, request};
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use tokio::time::Instant;
use tonic::{Code, ConnectError, Status, TimeoutExpired, body::Body};
use tower::{
    BoxError, Service, ServiceExt as _,
    retry::budget::{Budget as _, TpsBudget},
};

use crate::{
    deadline, methods, metrics as names,
    replica::{Ended, Replica},
    resolve::Followed,
};

/// How often all replicas are tried, and the first pause in between, doubled each time: a restart takes about as long as all
/// of them together.
const ROUNDS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

/// Sends each call to one replica.
///
/// What was not sent goes to the next one: nobody has seen it. A call that was sent and whose fate is unknown, or that was
/// answered with UNAVAILABLE, is sent once more where its RPC is listed as idempotent and the budget of retries allows: a service
/// that is in trouble must not get many times the calls.
#[derive(Clone)]
pub(crate) struct Balanced(Arc<Shared>);

struct Shared {
    service: &'static str,
    replicas: Followed,
    signer: Option<Signer>,
    turn: AtomicUsize,
    /// Ten retries a second, and one for every five calls.
    budget: TpsBudget,
}

/// A call, as often as it is sent.
struct Call {
    head: request::Parts,
    deadline: Option<Instant>,
    is_idempotent: bool,
    /// A single message, which can be sent again.
    again: Option<bytes::Bytes>,
    /// A stream, of which more comes.
    once: Option<Body>,
}

/// What came of sending it.
enum Outcome {
    Answer(Response<Body>),
    /// Nobody has seen it.
    Unsent(BoxError),
    /// It is not known whether anybody has done it.
    Unknown(BoxError),
    /// The same, and there is no time left to try again.
    Late,
    /// The server says that it cannot do it now.
    Unavailable(Response<Body>),
}

impl Balanced {
    pub(crate) fn new(service: &'static str, replicas: Followed, signer: Option<Signer>) -> Self {
        // Anywhere: callers that start together do not all go to the first replica.
        let (turn, budget) = (AtomicUsize::new(rand::random_range(0..1_000)), TpsBudget::default());
        Self(Arc::new(Shared { service, replicas, signer, turn, budget }))
    }

    async fn send(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let shared = &*self.0;
        let begun = Instant::now();
        let path = request.uri().path().to_owned();
        let answer = match deadline::of_call(&path, request.headers()) {
            None => shared.work(request, None).await,
            Some(deadline) => {
                let work = contracts::deadline::until(deadline, shared.work(request, Some(deadline)));
                work.await.unwrap_or_else(|_| Err(deadline::passed().into()))
            }
        };
        let code = match &answer {
            Ok(response) => code(response),
            Err(error) => error.downcast_ref::<Status>().map_or(Code::Unavailable, Status::code),
        };
        let (service, code) = (shared.service, name(code));
        metrics::counter!(names::CALLS, "service" => service, "rpc" => path.clone(), "code" => code).increment(1);
        metrics::histogram!(names::SECONDS, "service" => service, "rpc" => path).record(begun.elapsed().as_secs_f64());
        answer
    }
}

impl Shared {
    /// For whom the task at hand calls this service.
    fn said(&self) -> Result<Option<HeaderValue>, TokenError> {
        self.signer.as_ref().map(|signer| signer.header(self.service)).transpose()
    }

    async fn work(&self, request: Request<Body>, deadline: Option<Instant>) -> Result<Response<Body>, BoxError> {
        let mut call = Call::new(request, deadline, self.said()?)?;
        self.budget.deposit();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for round in 0..ROUNDS {
            if round > 0 {
                self.replicas.look_again();
                tokio::time::sleep(pause(round)).await;
            }
            let mut is_refused = true;
            // Each round begins with the next one: what a replica cannot do now another may.
            for replica in self.in_turn(turn + round as usize) {
                let Some(under_way) = replica.admit() else { continue };
                is_refused = false;
                let Some(request) = call.request() else { return Err(last.unwrap_or_else(|| "it was sent".into())) };
                let outcome = sent(&replica, request).await;
                under_way.ended(outcome.ended());
                match outcome {
                    Outcome::Unsent(error) => last = Some(self.again("unsent", error)),
                    Outcome::Unknown(error) if self.may_repeat(&call) => last = Some(self.again("unanswered", error)),
                    Outcome::Unavailable(_) if self.may_repeat(&call) && round + 1 < ROUNDS => {
                        let unavailable = Status::unavailable("the service is unavailable");
                        last = Some(self.again("unanswered", unavailable.into()));
                        // It lives. Not at once to the next: what is missing may be missing everywhere.
                        break;
                    }
                    Outcome::Unknown(error) => return Err(error),
                    Outcome::Late => return Err(deadline::passed().into()),
                    Outcome::Answer(response) | Outcome::Unavailable(response) => return Ok(response),
                }
            }
            if is_refused {
                metrics::counter!(names::REFUSED, "service" => self.service, "why" => "circuit").increment(1);
                let refused = || Status::unavailable(format!("no replica of {} answers", self.service)).into();
                return Err(last.unwrap_or_else(refused));
            }
        }
        Err(last.unwrap_or_else(|| "there is no replica".into()))
    }

    fn may_repeat(&self, call: &Call) -> bool {
        call.is_idempotent && call.again.is_some() && self.budget.withdraw()
    }

    fn again(&self, why: &'static str, error: BoxError) -> BoxError {
        metrics::counter!(names::RETRIES, "service" => self.service, "why" => why).increment(1);
        error
    }

    /// All replicas, those first that were heard of last time.
    fn in_turn(&self, turn: usize) -> Vec<Arc<Replica>> {
        let replicas = self.replicas.now();
        let count = replicas.len();
        let mut order: Vec<_> = (0..count).map(|place| Arc::clone(&replicas[(turn + place) % count])).collect();
        order.sort_by_key(|replica| replica.is_passed_over());
        order
    }
}

impl Service<Request<Body>> for Balanced {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().send(request).boxed()
    }
}

impl Call {
    fn new(mut request: Request<Body>, deadline: Option<Instant>, said: Option<HeaderValue>) -> Result<Self, BoxError> {
        if let Some(said) = said {
            request.headers_mut().insert(AUTHORIZATION, said);
        }
        let (head, body) = request.into_parts();
        let is_idempotent = methods::is_idempotent(head.uri.path());
        let (once, again) = match whole(body)? {
            Whole::Yes(bytes) => (None, Some(bytes)),
            Whole::No(body) => (Some(body), None),
        };
        Ok(Self { head, deadline, is_idempotent, again, once })
    }

    /// The request, to be sent now; nothing where it was a stream that is gone.
    fn request(&mut self) -> Option<Request<Body>> {
        let body = match &self.again {
            Some(bytes) => Body::new(Full::new(bytes.clone())),
            None => self.once.take()?,
        };
        let mut request = rebuilt(&self.head, body);
        deadline::tell(self.deadline, request.headers_mut());
        Some(request)
    }
}

impl Outcome {
    const fn ended(&self) -> Ended {
        match self {
            Self::Answer(_) | Self::Unavailable(_) => Ended::Heard,
            Self::Unsent(_) => Ended::Unreachable,
            Self::Unknown(_) => Ended::Unanswered,
            Self::Late => Ended::Late,
        }
    }
}

async fn sent(replica: &Replica, request: Request<Body>) -> Outcome {
    let mut channel = replica.channel.clone();
    let sent = async { channel.ready().await?.call(request).await };
    match sent.await {
        Ok(response) if code(&response) == Code::Unavailable => Outcome::Unavailable(response),
        Ok(response) => Outcome::Answer(response),
        Err(error) if is_unsent(&error) => Outcome::Unsent(Status::unavailable(chain(&error)).into()),
        // The channel reads the deadline too, and says that the call was cancelled.
        Err(error) if causes(&error).any(<dyn Error + 'static>::is::<TimeoutExpired>) => Outcome::Late,
        Err(error) => Outcome::Unknown(Status::unavailable(chain(&error)).into()),
    }
}

/// The code that an answer begins with: failures of single answers do, as do those of streams that do not open.
fn code(response: &Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// Between a half and one and a half of a pause that doubles: those that failed together do not come again together.
fn pause(round: u32) -> Duration {
    let pause = PAUSE.saturating_mul(2_u32.saturating_pow(round.saturating_sub(1)));
    pause.mul_f64(rand::random_range(0.5..1.5))
}

/// The head of a request with a body.
fn rebuilt(head: &request::Parts, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    *request.extensions_mut() = head.extensions.clone();
    request
}

enum Whole {
    /// A single message: it can be sent again.
    Yes(bytes::Bytes),
    /// A stream, of which more comes.
    No(Body),
}

/// Takes a body as far as it is there.
fn whole(mut body: Body) -> Result<Whole, BoxError> {
    let mut frames = Vec::new();
    loop {
        match body.frame().now_or_never() {
            None => break,
            Some(None) => {
                let data =
                    frames.into_iter().filter_map(|frame: http_body::Frame<bytes::Bytes>| frame.into_data().ok());
                let data: Vec<_> = data.collect();
                return Ok(Whole::Yes(match data.as_slice() {
                    [only] => only.clone(),
                    several => several.concat().into(),
                }));
            }
            Some(Some(frame)) => frames.push(frame?),
        }
    }
    let begun = stream::iter(frames.into_iter().map(Ok));
    Ok(Whole::No(Body::new(StreamBody::new(begun.chain(BodyStream::new(body))))))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Has no server seen it? There was no connection, or it ended before the call was on it, or the server refused the stream:
/// what comes after the last stream that a GOAWAY names, or was reset as refused, was not looked at.
fn is_unsent(error: &tonic::transport::Error) -> bool {
    causes(error).any(|cause| {
        cause.is::<ConnectError>()
            || cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || cause.downcast_ref::<h2::Error>().is_some_and(is_refused)
    })
}

fn is_refused(error: &h2::Error) -> bool {
    let is_going_away = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
    is_going_away || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tonic::transport::Endpoint;

    use super::*;

    /// A replica that takes a call and says nothing until its deadline has passed.
    #[tokio::test]
    async fn what_takes_too_long_says_nothing_about_a_replica_that_answers_others() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = silent.local_addr().unwrap().to_string();
        let channel = Endpoint::from_shared(format!("http://{place}")).unwrap().connect_lazy();
        let replica = Replica::new("test", place.into(), channel);
        let late = async || {
            let under_way = replica.admit().unwrap();
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = "/troupe.registry.v1.RegistryService/GetAgent".parse().unwrap();
            request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("20m"));
            (under_way, sent(&replica, request).await.ended())
        };
        let (under_way, ended) = late().await;
        replica.admit().unwrap().ended(Ended::Heard);
        under_way.ended(ended);
        assert!(!replica.is_passed_over(), "it lives");
        let (under_way, ended) = late().await;
        under_way.ended(ended);
        assert!(replica.is_passed_over(), "it is silent");
    }
}
