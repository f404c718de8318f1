//! Topics: what is told to whoever listens now, and kept nowhere.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use axum::{
    extract::State,
    response::{Response, sse},
};
use contracts::communication::v1 as wire_api;
use domain::Payload;
use futures::{Stream, stream};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Streaming;

use super::{Done, lasting::Lasting, streams, wire};
use crate::{
    app::{self, App},
    context::Context,
    extract::{PathPattern, PathTopic, Value},
    json::Any,
    problem::Problem,
    reply::Reply,
    words::{Topic, TopicPattern},
};

/// Publish something to whoever listens now.
///
/// It is kept nowhere: nobody who comes later hears it. The body is any JSON value of at most 64 KiB. What must not be lost is
/// sent as a message.
#[utoipa::path(post, path = "/api/v1/topics/{topic}", tag = "topics", request_body(content = inline(Any),
        description = "any JSON value, at most 64 KiB"),
    params(("topic" = inline(Topic), Path, description = "words with dots between them")),
    responses((status = 202, description = "told, whether anybody listens or not", body = Done)))]
pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    context: Context,
    PathTopic(topic): PathTopic,
    Value(Any(payload)): Value,
) -> Result<Reply, Problem> {
    let request = wire_api::PublishRequest {
        namespace: context.namespace.clone(),
        topic: topic.to_string(),
        payload: payload.as_bytes().to_vec().into(),
    };
    app.call(app.topics().publish(context.request(request))).await.map_err(in_payload)?;
    Reply::new(StatusCode::ACCEPTED, &Done { message: format!("published to {topic}") })
}

/// A refusal of the payload, which is the whole body.
fn in_payload(mut error: errors::Error) -> Problem {
    for violation in &mut error.violations {
        if violation.field == "payload" {
            violation.field.clear();
        }
    }
    error.into()
}

/// Listen to topics, live.
///
/// Must be asked for with `Accept: text/event-stream`. In the pattern `*` stands for one word and `#`, in a path written `%23`,
/// for any number of them. `message` events are what is published from now on, at most once, with `topic` and `payload`; a
/// `lost` event stands for `count` messages that this client was too slow for, and a `gap` event for a time in which some may
/// have been missed. Nothing is kept, so a client that comes back does not get what it missed. A `problem` event is the last: the
/// credential is good no more that the stream was asked for with, or the server stops.
#[utoipa::path(get, path = "/api/v1/topics/{pattern}/events", tag = "topics",
    params(("pattern" = inline(TopicPattern), Path, description = "which topics")),
    responses((status = 200, description = "each event as it happens, until the client leaves",
        content((String = "text/event-stream")))))]
pub(crate) async fn watch_topics(
    State(app): State<Arc<App>>,
    context: Context,
    lasting: Lasting,
    PathPattern(pattern): PathPattern,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !streams::is_wanted(&headers) {
        let detail = "live events come as a stream: ask for it with `Accept: text/event-stream`";
        return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "stream_only", detail));
    }
    let permit = streams::permit(&app)?;
    let patterns = vec![pattern.to_string()];
    let request = wire_api::SubscribeRequest { namespace: context.namespace.clone(), patterns };
    let answers = app.call(app.topics().subscribe(context.request(request))).await?;
    let heard = Heard { answers, waiting: VecDeque::new(), request_id: lasting.request_id(), _permit: permit };
    Ok(streams::respond(&app, lasting, heard.into_events()))
}

/// What a client hears.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Message { topic: String, payload: Payload },
    Lost { count: u64 },
    Gap,
}

impl Event {
    fn from_wire(event: wire_api::TopicEvent) -> Result<Self, Problem> {
        use wire_api::topic_event::Event as Wire;
        Ok(match event.event.ok_or_else(|| app::lacking("an event"))? {
            Wire::Message(message) => {
                let payload = wire::payload(&message.payload)?.unwrap_or_else(Payload::null);
                Self::Message { topic: message.topic, payload }
            }
            Wire::Lost(lost) => Self::Lost { count: lost.count },
            Wire::Gap(_) => Self::Gap,
        })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Message { .. } => "message",
            Self::Lost { .. } => "lost",
            Self::Gap => "gap",
        }
    }
}

/// A subscription at communication, and what of it is not sent yet.
struct Heard {
    answers: Streaming<wire_api::SubscribeResponse>,
    waiting: VecDeque<wire_api::TopicEvent>,
    request_id: Arc<str>,
    /// A stream counts as long as it lives.
    _permit: OwnedSemaphorePermit,
}

impl Heard {
    /// Each event as it is sent; a failure in the middle is sent as an event `problem`, and is the last.
    fn into_events(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(Some(self), |state| async move {
            let mut heard = state?;
            match heard.next().await {
                Ok(event) => Some((Ok(event?), Some(heard))),
                Err(problem) => Some((Ok(streams::broken(&problem, &heard.request_id)), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<sse::Event>, Problem> {
        while self.waiting.is_empty() {
            let Some(answer) = self.answers.message().await? else { return Ok(None) };
            self.waiting.extend(answer.events);
        }
        self.waiting.pop_front().map(encode).transpose()
    }
}

fn encode(event: wire_api::TopicEvent) -> Result<sse::Event, Problem> {
    let event = Event::from_wire(event)?;
    let data = serde_json::to_string(&event).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(sse::Event::default().event(event.name()).data(data))
}
