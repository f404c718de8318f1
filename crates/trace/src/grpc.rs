//! Around gRPC clients and servers: a span for each call, with the trace and the correlation id carried from one to the other.
//!
//! A call that is part of no trace makes no span: most of those are what services tell each other again and again. A stream's
//! span ends when the answer begins: streams between processes live as long as those.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::{HeaderMap, HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument as _, Level, Span, field::Empty};

use crate::{
    context::{adopt_headers, continue_request, inject, is_in_trace},
    scope::{self, CORRELATION_ID, Scope},
};

/// What is traced: probes and reflection are not.
const OURS: &str = "/troupe.";

/// A layer around a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientLayer;

/// A client behind a [`ClientLayer`].
#[derive(Clone, Debug)]
pub struct TracedClient<S>(S);

impl<S> Layer<S> for ClientLayer {
    type Service = TracedClient<S>;

    fn layer(&self, inner: S) -> TracedClient<S> {
        TracedClient(inner)
    }
}

impl<S, B, R> Service<Request<B>> for TracedClient<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let span = client_span(&request);
        inject(&span, request.headers_mut());
        if !request.headers().contains_key(CORRELATION_ID)
            && let Some(correlation) = scope::correlation()
            && let Ok(value) = HeaderValue::from_str(&correlation)
        {
            request.headers_mut().insert(CORRELATION_ID, value);
        }
        if span.is_disabled() {
            return Either::Left(self.0.call(request));
        }
        let answer = span.in_scope(|| self.0.call(request));
        let recorded = async move {
            let answer = answer.await;
            note(answer.as_ref().ok().map(Response::headers));
            answer
        };
        Either::Right(recorded.instrument(span).boxed())
    }
}

/// A layer around a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerLayer;

/// A server behind a [`ServerLayer`].
#[derive(Clone, Debug)]
pub struct TracedServer<S>(S);

impl<S> Layer<S> for ServerLayer {
    type Service = TracedServer<S>;

    fn layer(&self, inner: S) -> TracedServer<S> {
        TracedServer(inner)
    }
}

impl<S, B, R> Service<Request<B>> for TracedServer<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let scope = Scope::of(request.headers());
        let is_logged = tracing::event_enabled!(Level::DEBUG);
        if !request.uri().path().starts_with(OURS) || !is_logged && scope.is_empty() {
            return Either::Left(self.0.call(request));
        }
        let span = server_span(&request, &scope);
        let (begun, path) = (Instant::now(), is_logged.then(|| request.uri().path().to_owned()));
        let answer = span.in_scope(|| self.0.call(request));
        let recorded = async move {
            let answer = answer.await;
            let code = note(answer.as_ref().ok().map(Response::headers));
            if let Some(call) = path {
                tracing::debug!(call, code, took = ?begun.elapsed(), "answered");
            }
            answer
        };
        Either::Right(scope.around(recorded.instrument(span)).boxed())
    }
}

macro_rules! span {
    ($request:expr, $name:literal, $kind:literal) => {{
        let path = $request.uri().path().trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        tracing::info_span!(
            $name,
            otel.name = path,
            otel.kind = $kind,
            otel.status_code = Empty,
            rpc.system = "grpc",
            rpc.service = service,
            rpc.method = method,
            rpc.grpc.status_code = Empty,
            correlation.id = Empty,
        )
    }};
}

fn client_span<B>(request: &Request<B>) -> Span {
    if !tracing::span_enabled!(Level::INFO) || !is_in_trace() || !request.uri().path().starts_with(OURS) {
        return Span::none();
    }
    let span = span!(request, "rpc.client", "client");
    continue_request(&span);
    span
}

fn server_span<B>(request: &Request<B>, scope: &Scope) -> Span {
    if !scope.is_in_trace() {
        return Span::none();
    }
    let span = span!(request, "rpc.server", "server");
    adopt_headers(&span, request.headers());
    if let Some(correlation) = &scope.correlation {
        span.record("correlation.id", &**correlation);
    }
    span
}

/// Notes how a call has ended, in the span that is entered; answers with the code, -1 for a call without an answer. What fails
/// at once says so in its head; a stream that fails later is for whoever reads it.
fn note(headers: Option<&HeaderMap>) -> i64 {
    let told = |headers: &HeaderMap| headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
    let code = headers.map_or(-1, |headers| told(headers).unwrap_or(0));
    let span = Span::current();
    span.record("rpc.grpc.status_code", code);
    if code != 0 {
        span.record("otel.status_code", "error");
    }
    code
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SdkTracerProvider, SpanData, SpanExporter},
    };
    use tower::{ServiceExt as _, service_fn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::{ids, traceparent};

    const SOMEWHERE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    /// A client on a server, which tells what it has seen of the call.
    async fn called(within: Scope) -> (HeaderMap, String, crate::Ids) {
        let seen = Arc::new(Mutex::new(None));
        let sees = Arc::clone(&seen);
        let server = service_fn(move |request: Request<()>| {
            *sees.lock().unwrap() = Some((request.headers().clone(), traceparent(), ids()));
            async { Ok::<_, Infallible>(Response::new(())) }
        });
        // What a service looks at, it looks at in its future.
        let server = service_fn(move |request| {
            let server = server.clone();
            async move { server.oneshot(request).await }
        });
        let client = ClientLayer.layer(ServerLayer.layer(server));
        let request = Request::builder().uri("/troupe.test.v1.TestService/Try").body(()).unwrap();
        within.around(client.oneshot(request)).await.unwrap();
        let seen = seen.lock().unwrap().take();
        seen.unwrap()
    }

    fn incoming() -> Scope {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(SOMEWHERE));
        headers.insert("tracestate", HeaderValue::from_static("vendor=1"));
        headers.insert(CORRELATION_ID, HeaderValue::from_static("order-1"));
        Scope::of(&headers)
    }

    #[tokio::test]
    async fn without_a_tracer_everything_is_passed_on_as_it_came() {
        let (headers, traceparent, ids) = called(incoming()).await;
        assert_eq!(headers["traceparent"], SOMEWHERE);
        assert_eq!(headers["tracestate"], "vendor=1");
        assert_eq!(headers[CORRELATION_ID], "order-1");
        assert_eq!(traceparent, SOMEWHERE);
        assert_eq!((ids.correlation.as_deref(), ids.span), (Some("order-1"), None));
        assert_eq!(ids.trace.unwrap().to_string(), SOMEWHERE[3..35]);
        let (headers, traceparent, ids) = called(Scope::default()).await;
        assert!(headers.is_empty() && traceparent.is_empty());
        assert_eq!(ids, crate::Ids::default());
    }

    #[tokio::test]
    async fn with_a_tracer_the_server_continues_the_client() {
        let exporter = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        let _recorded = tracing::subscriber::set_default(subscriber);
        let (headers, traceparent, ids) = called(incoming()).await;
        let spans = exporter.0.lock().unwrap();
        let [server, client] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!(
            (&*client.name, &*server.name),
            ("troupe.test.v1.TestService/Try", "troupe.test.v1.TestService/Try")
        );
        assert_eq!(server.parent_span_id, client.span_context.span_id());
        assert_eq!(headers["tracestate"], "vendor=1");
        assert_eq!(headers["traceparent"].to_str().unwrap()[36..52], client.span_context.span_id().to_string());
        assert_eq!(traceparent[36..52], server.span_context.span_id().to_string());
        assert_eq!(ids.span, Some(server.span_context.span_id()));
        assert_eq!(ids.trace.unwrap().to_string(), SOMEWHERE[3..35]);
        assert_eq!(client.parent_span_id.to_string(), SOMEWHERE[36..52]);
    }
}
