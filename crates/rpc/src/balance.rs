//! One call, to one of several replicas: in turn, and past those that cannot be reached.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION, request};
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use tokio::time::Instant;
use tonic::{ConnectError, body::Body, transport::Channel};
use tower::{BoxError, Service, ServiceExt as _};

/// How long a replica is passed over that did not answer, doubled each time in a row, up to the longest. One that is stopped
/// still takes connections, so only silence tells.
const PASSED_OVER: Duration = Duration::from_secs(1);
const PASSED_OVER_AT_MOST: Duration = Duration::from_secs(30);
/// How often all replicas are tried, where none can be reached, and the pause in between: a restart takes about so long.
const ROUNDS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// Sends each call to one replica.
///
/// What could not be sent for lack of a connection goes to the next one: nobody has seen it. A call that was sent and got no
/// answer is not repeated here; only its caller knows whether it may be.
#[derive(Clone)]
pub(crate) struct Balanced {
    replicas: Arc<[Replica]>,
    turn: Arc<AtomicUsize>,
    credential: Option<HeaderValue>,
}

struct Replica {
    channel: Channel,
    silence: Mutex<Silence>,
}

/// Calls in a row that got no answer.
#[derive(Clone, Copy, Debug, Default)]
struct Silence {
    calls: u32,
    passed_over_until: Option<Instant>,
}

impl Replica {
    fn is_passed_over(&self) -> bool {
        let until = self.silence.lock().unwrap_or_else(PoisonError::into_inner).passed_over_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    fn heard(&self, is_heard: bool) {
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        if is_heard {
            *silence = Silence::default();
        } else {
            let pause = PASSED_OVER.saturating_mul(2_u32.saturating_pow(silence.calls)).min(PASSED_OVER_AT_MOST);
            silence.calls += 1;
            silence.passed_over_until = Some(Instant::now() + pause);
        }
    }
}

/// A call that is under way. Whoever gives it up before there is an answer has waited too long.
struct UnderWay<'a>(Option<&'a Replica>);

impl UnderWay<'_> {
    fn ended(mut self, is_heard: bool) {
        if let Some(replica) = self.0.take() {
            replica.heard(is_heard);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(replica) = self.0 {
            replica.heard(false);
        }
    }
}

impl Balanced {
    pub(crate) fn new(channels: Vec<Channel>, credential: Option<HeaderValue>) -> Self {
        let replica = |channel| Replica { channel, silence: Mutex::default() };
        let replicas = channels.into_iter().map(replica).collect();
        Self { replicas, turn: Arc::default(), credential }
    }

    async fn send(self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        if let Some(credential) = &self.credential {
            request.headers_mut().insert(AUTHORIZATION, credential.clone());
        }
        let (head, body) = request.into_parts();
        let (mut once, again) = match whole(body)? {
            Whole::Yes(bytes) => (None, Some(bytes)),
            Whole::No(body) => (Some(body), None),
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            for replica in self.in_turn(turn) {
                let body = match (&again, once.take()) {
                    (Some(bytes), _) => Body::new(Full::new(bytes.clone())),
                    (None, Some(body)) => body,
                    (None, None) => return Err(last.unwrap_or_else(|| "the call has been sent".into())),
                };
                let mut channel = replica.channel.clone();
                let sent = async { channel.ready().await?.call(rebuilt(&head, body)).await };
                let under_way = UnderWay(Some(replica));
                let sent = sent.await;
                under_way.ended(sent.is_ok());
                match sent {
                    Err(error) if is_unreachable(&error) => last = Some(error.into()),
                    sent => return sent.map_err(Into::into),
                }
            }
        }
        Err(last.unwrap_or_else(|| "there is no replica".into()))
    }

    /// All replicas, those first that were heard of last time.
    fn in_turn(&self, turn: usize) -> Vec<&Replica> {
        let count = self.replicas.len();
        let mut order: Vec<_> = (0..count).map(|place| &self.replicas[(turn + place) % count]).collect();
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

/// Was there no connection to send it over?
fn is_unreachable(error: &tonic::transport::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
