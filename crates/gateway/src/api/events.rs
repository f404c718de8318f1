//! An execution's log: page by page, or live as server-sent events.

use std::{convert::Infallible, fmt::Write as _, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse as _, Response, sse},
};
use contracts::orchestrator::v1 as wire_api;
use domain::Payload;
use futures::{Stream, StreamExt as _, stream};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Page, lasting::Lasting, streams, wire};
use crate::{
    app::{self, App},
    context::{self, Context},
    extract::Path,
    problem::Problem,
    query::Query,
    reply::Reply,
    words::{ExecutionId, Limit, Moment, Position},
};

/// Where a client that lost its stream goes on.
const LAST_EVENT_ID: &str = "last-event-id";

/// One entry of an execution's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Event {
    /// From 1, without gaps.
    sequence: u64,
    /// What happened, `step_completed` for one.
    #[serde(rename = "type")]
    kind: String,
    /// When.
    at: Moment,
    /// Depends on the type.
    #[schema(value_type = Object)]
    data: Payload,
    /// Chains this event to all before it; in hex.
    hash: String,
}

impl Event {
    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    fn from_wire(event: wire_api::Event) -> Result<Self, Problem> {
        let hash = event.hash.iter().fold(String::with_capacity(event.hash.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Ok(Self {
            sequence: event.sequence,
            kind: event.r#type,
            at: wire::required_moment(event.at)?,
            data: wire::payload(&event.data)?.unwrap_or_else(Payload::empty_object),
            hash,
        })
    }
}

/// Which part of the log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// At most this many events; does not bound a stream.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before: the sequence number after which to go on.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<Position>,
}

/// Read an execution's log, or follow it live.
///
/// With `Accept: text/event-stream` every event is sent as it happens, its sequence number as its id, and the stream ends
/// after the last event of an execution that has ended. It ends sooner, with an event `problem`, where the credential is good no more
/// that it was asked for with.
#[utoipa::path(get, path = "/api/v1/executions/{id}/events", tag = "executions",
    params(
        ("id" = inline(ExecutionId), Path, description = "the execution"),
        Part,
        ("Last-Event-ID" = inline(Option<Position>), Header, nullable = false,
            description = "for a stream: go on after this event"),
    ),
    responses((status = 200, description = "oldest first",
        content((Page<Event> = "application/json"), (String = "text/event-stream")))))]
pub(crate) async fn list_events(
    State(app): State<Arc<App>>,
    context: Context,
    lasting: Lasting,
    Path(id): Path<ExecutionId>,
    Query(part): Query<Part>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last_event = match context::header(&headers, LAST_EVENT_ID)? {
        Some(text) => Some(context::word::<Position>("Last-Event-ID", text)?.0),
        None => None,
    };
    let after = part.cursor.map_or(0, |cursor| cursor.0);
    if streams::is_wanted(&headers) {
        return follow(&app, &context, lasting, &id, last_event.unwrap_or(after)).await;
    }
    let request = wire_api::ListEventsRequest {
        namespace: context.namespace.clone(),
        execution_id: id.to_string(),
        after_sequence: after,
        page_size: part.limit.map_or(store::PageSize::DEFAULT, |limit| limit.0),
    };
    let page = app.call(app.executions().list_events(context.request(request))).await?;
    let events = page.events.into_iter().map(Event::from_wire).collect::<Result<Vec<_>, _>>()?;
    let last = events.last().filter(|_| page.has_more).map(|event| event.sequence.to_string());
    Ok(Reply::ok(&Page::new(events, last.unwrap_or_default()))?.into_response())
}

async fn follow(
    app: &Arc<App>,
    context: &Context,
    lasting: Lasting,
    id: &ExecutionId,
    after: u64,
) -> Result<Response, Problem> {
    let events = sent(open(app, context, id, after).await?, lasting.request_id());
    Ok(streams::respond(app, lasting, events))
}

/// An execution's events after one, and then each as it happens, until the execution has ended. A failure in the middle is the last.
/// Takes room for one stream until it is dropped.
pub(super) async fn open(
    app: &App,
    context: &Context,
    id: &ExecutionId,
    after: u64,
) -> Result<impl Stream<Item = Result<Event, Problem>> + Send + use<>, Problem> {
    let permit = streams::permit(app)?;
    let request = wire_api::WatchEventsRequest {
        namespace: context.namespace.clone(),
        execution_id: id.to_string(),
        after_sequence: after,
    };
    let events = app.call(app.executions().watch_events(context.request(request))).await?;
    Ok(stream::unfold(Some((events, permit)), |state| async move {
        let (mut events, permit) = state?;
        let event = match events.next().await? {
            Ok(answer) => answer.event.ok_or_else(|| app::lacking("an event")).and_then(Event::from_wire),
            Err(status) => Err(status.into()),
        };
        let rest = event.is_ok().then_some((events, permit));
        Some((event, rest))
    }))
}

/// Each event as it is sent; a failure is sent as an event `problem`.
fn sent(
    events: impl Stream<Item = Result<Event, Problem>>,
    request_id: Arc<str>,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    events.map(move |event| {
        let encoded = event.and_then(|event| encode(&event));
        Ok(encoded.unwrap_or_else(|problem| streams::broken(&problem, &request_id)))
    })
}

fn encode(event: &Event) -> Result<sse::Event, Problem> {
    let data = serde_json::to_string(event).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(sse::Event::default().id(event.sequence.to_string()).event(&event.kind).data(data))
}
