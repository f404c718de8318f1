//! Deadlines that shrink along a chain of calls: told by clients as `grpc-timeout`, kept by servers.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use contracts::deadline;
use errors::Error;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::methods;

const HEADER: &str = "grpc-timeout";
/// For calls that say nothing: the longest wait that a call can ask for (a minute), and time to answer.
const OTHERWISE: Duration = Duration::from_secs(75);
/// What a server gets less than its client has, so that its answer comes in time: a tenth, at most so much.
const MARGIN: Duration = Duration::from_millis(100);

/// Until when a call has to be answered: as it says itself, and no later than what it is made for. Streams have no deadline.
pub(crate) fn of_call(path: &str, headers: &HeaderMap) -> Option<Instant> {
    if methods::is_stream(path) {
        return None;
    }
    let own = Instant::now() + told(headers).unwrap_or(OTHERWISE);
    Some(deadline::current().map_or(own, |outer| outer.min(own)))
}

/// Tells the server what remains.
pub(crate) fn tell(deadline: Option<Instant>, headers: &mut HeaderMap) {
    let Some(deadline) = deadline else {
        headers.remove(HEADER);
        return;
    };
    let remaining = deadline.saturating_duration_since(Instant::now());
    let remaining = remaining.saturating_sub((remaining / 10).min(MARGIN));
    headers.insert(HEADER, encoded(remaining));
}

pub(crate) fn passed() -> Status {
    Error::new(errors::Code::Timeout, "timeout", "there was no answer within the deadline of the call").into()
}

/// At most eight digits and a unit, says the protocol.
fn encoded(time: Duration) -> HeaderValue {
    let millis = time.as_millis();
    let text = if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", time.as_secs().min(99_999_999)) };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("0m"))
}

/// What a header says; nothing where it is absent or makes no sense.
fn told(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_hours(count),
        "M" => Duration::from_mins(count),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A layer under which a server keeps the deadlines of its clients: what is not done by then is dropped and answered with
/// `DEADLINE_EXCEEDED`, and calls made for it carry what remains. Calls without a deadline get one; streams are never cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadlines;

/// A service under [`Deadlines`].
#[derive(Clone, Debug)]
pub struct UnderDeadlines<S>(S);

impl<S> Layer<S> for Deadlines {
    type Service = UnderDeadlines<S>;

    fn layer(&self, inner: S) -> UnderDeadlines<S> {
        UnderDeadlines(inner)
    }
}

impl<S, B> Service<Request<B>> for UnderDeadlines<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = of_call(request.uri().path(), request.headers());
        let answer = self.0.call(request);
        let Some(deadline) = deadline else { return Either::Left(answer) };
        let in_time = async move {
            let answer = deadline::until(deadline, answer).await;
            answer.unwrap_or_else(|_| Ok(passed().into_http()))
        };
        Either::Right(in_time.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = "/troupe.registry.v1.RegistryService/GetAgent";
    const STREAM: &str = "/troupe.registry.v1.RegistryService/WatchAgents";

    fn headers(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::header::HeaderName::from_static(HEADER), HeaderValue::from_static(text))])
    }

    #[test]
    fn times_are_told_as_the_protocol_says() {
        for (text, time) in [("1H", 3_600_000), ("2M", 120_000), ("3S", 3_000), ("99999999m", 99_999_999), ("1000u", 1)]
        {
            assert_eq!(told(&headers(text)), Some(Duration::from_millis(time)), "{text}");
        }
        for wrong in ["", "m", "10", "1x", "-1S", "+1S", "123456789m"] {
            assert_eq!(told(&headers(wrong)), None, "{wrong}");
        }
        assert_eq!(encoded(Duration::from_millis(1_500)), "1500m");
        assert_eq!(encoded(Duration::from_hours(1_000)), "3600000S");
    }

    #[tokio::test]
    async fn a_call_has_what_it_says_and_no_more_than_what_it_is_made_for() {
        let of = |path, headers: &HeaderMap| {
            of_call(path, headers).map(|deadline| deadline.duration_since(Instant::now()).as_secs_f64().round())
        };
        assert_eq!(of(CALL, &HeaderMap::new()), Some(75.0));
        assert_eq!(of(CALL, &headers("10S")), Some(10.0));
        assert_eq!(of(STREAM, &headers("10S")), None);
        let nested = deadline::within(Duration::from_secs(5), async { of(CALL, &headers("10S")) });
        assert_eq!(nested.await.unwrap(), Some(5.0));
    }

    #[tokio::test]
    async fn a_server_gets_a_little_less() {
        let mut headers = headers("10S");
        tell(Some(Instant::now() + Duration::from_secs(5)), &mut headers);
        let got = told(&headers).unwrap();
        assert!(got <= Duration::from_millis(4_900) && got > Duration::from_secs(4), "{got:?}");
        tell(None, &mut headers);
        assert!(headers.is_empty());
    }
}
