//! Server-sent events: what all streams have in common.

use std::{convert::Infallible, sync::Arc};

use axum::response::{
    IntoResponse as _, Response,
    sse::{self, KeepAlive, Sse},
};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use http::{HeaderMap, header};
use tokio::sync::OwnedSemaphorePermit;

use super::lasting::Lasting;
use crate::{app::App, problem::Problem};

/// The type of what is streamed.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// Does the client ask for a stream, by its name?
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with(EVENT_STREAM))
}

/// Room for one more stream.
pub(super) fn permit(app: &App) -> Result<OwnedSemaphorePermit, Problem> {
    let permit = Arc::clone(&app.streams).try_acquire_owned();
    permit.map_err(|_| Problem::overloaded("too many event streams at once (setting max_streams)"))
}

/// Streams events until they end, the client leaves, its credential is good no more, or the gateway drains; comments keep the
/// connection alive meanwhile.
pub(super) fn respond(
    app: &App,
    lasting: Lasting,
    events: impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static,
) -> Response {
    let keep_alive = KeepAlive::new().interval(app.settings.keep_alive).text("keep-alive");
    // At a drain the stream ends in good order; the client comes back, to another process or later.
    let shutdown = app.shutdown.clone();
    let events = events.take_until(Box::pin(async move { shutdown.draining().await }));
    let mut response = Sse::new(bound(lasting, events)).keep_alive(keep_alive).into_response();
    // Proxies that gather an answer before they pass it on would hold events back.
    response.headers_mut().insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    response
}

/// The events for as long as the credential is good; then one that says why there are no more.
fn bound(
    lasting: Lasting,
    events: impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static,
) -> impl Stream<Item = Result<sse::Event, Infallible>> + Send {
    let request_id = lasting.request_id();
    let ended = async move {
        let problem = lasting.ended().await;
        tracing::info!(request = &*request_id, code = problem.code(), "an event stream ends with its credential");
        last(&problem, &request_id)
    };
    stream::unfold(Some((events.boxed(), ended.boxed())), |state| async move {
        let (mut events, mut ended) = state?;
        // Both arms are cancel-safe.
        tokio::select! {
            biased;
            last = &mut ended => Some((Ok(last), None)),
            event = events.next() => Some((event?, Some((events, ended)))),
        }
    })
}

/// What tells that a stream broke off; the last of it.
pub(super) fn broken(problem: &Problem, request_id: &str) -> sse::Event {
    tracing::warn!(request = request_id, error = problem.cause(), "an event stream broke off");
    last(problem, request_id)
}

fn last(problem: &Problem, request_id: &str) -> sse::Event {
    let document = serde_json::to_string(&problem.document(request_id)).unwrap_or_default();
    sse::Event::default().event("problem").data(document)
}
