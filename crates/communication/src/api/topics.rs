//! `TopicService`.

use std::collections::VecDeque;

use bytes::Bytes;
use contracts::communication::v1::{
    self as proto, PublishRequest, PublishResponse, SubscribeRequest, SubscribeResponse, topic_event::Event,
    topic_service_server::TopicService,
};
use domain::TopicPattern;
use errors::Error;
use futures::{StreamExt as _, stream, stream::BoxStream};
use lifecycle::Shutdown;
use tonic::{Request, Response, Status};

use super::{Api, wire};
use crate::{
    error::CommunicationError,
    metrics,
    transport::{Feed, LiveMessage, MAX_LIVE_PAYLOAD, Notice},
};

/// The most patterns of one subscription: each is looked at for each message.
const MOST_PATTERNS: usize = 16;
/// A batch ends when its events weigh this much, in bytes: far below the largest message that a peer accepts.
const BATCH_WEIGHT: usize = 2 << 20;

#[tonic::async_trait]
impl TopicService for Api {
    type SubscribeStream = BoxStream<'static, Result<SubscribeResponse, Status>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let PublishRequest { namespace, topic, payload } = request.into_inner();
        let message = LiveMessage {
            namespace: wire::namespace("namespace", &namespace)?,
            topic: topic.parse().map_err(|error| CommunicationError::field("topic", "invalid_topic", error))?,
            payload: live_payload(payload)?,
        };
        self.0.live.publish(vec![message]).await.map_err(CommunicationError::from)?;
        ::metrics::counter!(metrics::LIVE_PUBLISHED).increment(1);
        Ok(Response::new(PublishResponse {}))
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let SubscribeRequest { namespace, patterns } = request.into_inner();
        let namespace = wire::namespace("namespace", &namespace)?;
        let patterns = wanted(&patterns)?;
        let feed = self.0.live.subscribe(namespace, patterns).await.map_err(CommunicationError::from)?;
        Ok(Response::new(heard(feed, self.0.tasks.shutdown().clone())))
    }
}

fn live_payload(field: Bytes) -> Result<Bytes, CommunicationError> {
    if field.len() > MAX_LIVE_PAYLOAD {
        let message = format!("is longer than {MAX_LIVE_PAYLOAD} bytes");
        return Err(CommunicationError::field("payload", "too_large", message));
    }
    wire::payload("payload", field)
}

fn wanted(patterns: &[String]) -> Result<Vec<TopicPattern>, CommunicationError> {
    if patterns.is_empty() {
        return Err(wire::missing("patterns"));
    }
    if patterns.len() > MOST_PATTERNS {
        let message = format!("must be at most {MOST_PATTERNS}");
        return Err(CommunicationError::field("patterns", "too_many", message));
    }
    let parse = |(index, text): (usize, &String)| {
        let fault = |error| CommunicationError::field(format_args!("patterns[{index}]"), "invalid_pattern", error);
        text.parse().map_err(fault)
    };
    patterns.iter().enumerate().map(parse).collect()
}

/// What a subscriber hears, until it leaves or the server stops.
fn heard(feed: Feed, shutdown: Shutdown) -> BoxStream<'static, Result<SubscribeResponse, Status>> {
    let batches = stream::unfold((feed, VecDeque::new()), async |(mut feed, mut waiting)| {
        if waiting.is_empty() {
            waiting.extend(feed.next().await);
        }
        let events = batch(&mut waiting);
        Some((Ok(SubscribeResponse { events }), (feed, waiting)))
    });
    let stopping = async move { shutdown.draining().await };
    let over = stream::once(async { Err(Error::from(CommunicationError::Stopping).into()) });
    batches.take_until(Box::pin(stopping)).chain(over).boxed()
}

/// What goes out at once; what is larger alone goes alone.
fn batch(waiting: &mut VecDeque<Notice>) -> Vec<proto::TopicEvent> {
    let (mut weight, mut events) = (0, Vec::new());
    while let Some(notice) = waiting.front() {
        if let Notice::Message(message) = notice {
            weight += message.weight();
        }
        if weight > BATCH_WEIGHT && !events.is_empty() {
            break;
        }
        events.extend(waiting.pop_front().map(event));
    }
    events
}

fn event(notice: Notice) -> proto::TopicEvent {
    let event = match notice {
        Notice::Message(message) => {
            Event::Message(proto::TopicMessage { topic: message.topic.to_string(), payload: message.payload.clone() })
        }
        Notice::Lost(count) => Event::Lost(proto::TopicLost { count }),
        Notice::Gap => Event::Gap(proto::TopicGap {}),
    };
    proto::TopicEvent { event: Some(event) }
}
