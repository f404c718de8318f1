//! Ids, problem documents, metrics, a span and one line of log per request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, Method, StatusCode, header};
use trace::Scope;
use tracing::{Instrument as _, Span, field::Empty};

use super::headers;
use crate::{
    app::App,
    context::{self, CORRELATION_ID, Ids, REQUEST_ID},
    problem::{self, Problem},
    words,
};

/// Requests by `method`, `endpoint` (the route's template) and `status`.
const REQUESTS: &str = "http_requests_total";
/// Seconds until the answer begins, by `method` and `endpoint`.
const DURATION: &str = "http_request_duration_seconds";

/// Outermost around every request.
pub(super) async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let endpoint = request.extensions().get::<MatchedPath>().cloned();
    let request_id: Arc<str> = request_id(&app).into();
    let (correlation, refused) = match correlation_id(&request) {
        Ok(found) => (found.unwrap_or_else(|| Arc::clone(&request_id)), None),
        Err(problem) => (Arc::clone(&request_id), Some(problem)),
    };
    let ids = Ids { request: request_id, correlation };
    request.extensions_mut().insert(ids.clone());
    let scope = Scope::of(request.headers()).correlated(Arc::clone(&ids.correlation));
    let span = span(&request, method, endpoint.as_ref(), &ids);
    let path = request.uri().path().to_owned();
    let observed = async move {
        let response = match refused {
            Some(problem) => problem.into_response(),
            None => next.run(request).await,
        };
        let response = finished(&app, response, &path, method, endpoint.as_ref(), &ids, started);
        note(response.status());
        response
    };
    scope.around(observed.instrument(span)).await
}

/// The span of a request, as OpenTelemetry names it, in the trace that the client says. Probes and metrics are asked for
/// again and again, and make none.
fn span(request: &Request, method: &'static str, endpoint: Option<&MatchedPath>, ids: &Ids) -> Span {
    let path = request.uri().path();
    if !path.starts_with("/api/") {
        return Span::none();
    }
    let route = endpoint.map_or("", MatchedPath::as_str);
    let span = tracing::info_span!(
        parent: None,
        "http.server",
        otel.name = format!("{method} {route}").trim_end(),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = path,
        request.id = &*ids.request,
        correlation.id = &*ids.correlation,
    );
    trace::adopt_headers(&span, request.headers());
    span
}

/// Notes in the span that is entered how the request has ended.
fn note(status: StatusCode) {
    let span = Span::current();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "error");
    }
}

/// The answer with all that every answer has, counted and logged.
fn finished(
    app: &App,
    response: Response,
    path: &str,
    method: &'static str,
    endpoint: Option<&MatchedPath>,
    ids: &Ids,
    started: Instant,
) -> Response {
    let (mut response, cause) = written(response, ids);
    for (name, value) in [(REQUEST_ID, &ids.request), (CORRELATION_ID, &ids.correlation)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    headers::protect(response.headers_mut(), path, app.settings.tls.is_some());
    if app.shutdown.is_draining() {
        // The next request on this connection would meet a closed one.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let endpoint = endpoint.map_or("unmatched", MatchedPath::as_str);
    record(method, endpoint, response.status(), started.elapsed());
    log(ids, method, endpoint, response.status(), started.elapsed(), cause.as_deref());
    response
}

/// With a problem document where it is a failure; and the failure's cause for the log.
fn written(mut response: Response, ids: &Ids) -> (Response, Option<String>) {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return (problem.render(response, &ids.request), problem.cause().map(str::to_owned));
    }
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == problem::CONTENT_TYPE);
    if (status.is_client_error() || status.is_server_error()) && !is_problem {
        let problem = Problem::of_status(status);
        return (problem.render(response, &ids.request), None);
    }
    (response, None)
}

pub(crate) fn request_id(app: &App) -> String {
    let micros = app.clock.now().as_micros().max(0).unsigned_abs();
    let id = ulid::Ulid::from_datetime(std::time::UNIX_EPOCH + Duration::from_micros(micros));
    format!("req_{}", id.to_string().to_ascii_lowercase())
}

fn correlation_id(request: &Request) -> Result<Option<Arc<str>>, Problem> {
    let Some(text) = context::header(request.headers(), CORRELATION_ID)? else { return Ok(None) };
    Ok(Some(context::word::<words::Key>("X-Correlation-ID", text)?.0.into()))
}

/// Clients can make up methods; labels must not grow with them.
pub(super) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

fn record(method: &'static str, endpoint: &str, status: StatusCode, took: Duration) {
    let endpoint = endpoint.to_owned();
    metrics::counter!(REQUESTS, "method" => method, "endpoint" => endpoint.clone(), "status" => status.as_u16().to_string())
        .increment(1);
    metrics::histogram!(DURATION, "method" => method, "endpoint" => endpoint).record(took.as_secs_f64());
}

fn log(ids: &Ids, method: &str, endpoint: &str, status: StatusCode, took: Duration, cause: Option<&str>) {
    let request = &*ids.request;
    let (status, cause) = (status.as_u16(), cause.unwrap_or_default());
    match status {
        500 => tracing::error!(request, method, endpoint, status, ?took, error = cause, "request failed"),
        501.. => tracing::warn!(request, method, endpoint, status, ?took, error = cause, "request failed"),
        _ => tracing::debug!(request, method, endpoint, status, ?took, "request"),
    }
}
