//! Topics.

use contracts::communication::v1::{self as communication, topic_event::Event, topic_service_server::TopicService};
use errors::Error;
use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::{Request, Response, Status, async_trait};

use super::Backend;

/// The largest payload.
const LARGEST: usize = 64 << 10;

#[async_trait]
impl TopicService for Backend {
    type SubscribeStream = BoxStream<'static, Result<communication::SubscribeResponse, Status>>;

    async fn publish(
        &self,
        request: Request<communication::PublishRequest>,
    ) -> Result<Response<communication::PublishResponse>, Status> {
        let request = self.called("publish", request)?;
        if request.payload.len() > LARGEST {
            return Err(Error::invalid_field("payload", "too_large", "is too long").into());
        }
        self.state().published.push(request);
        self.answered(communication::PublishResponse {})
    }

    /// A message for each pattern, with the namespace as its payload, then one that was lost and a gap; then it stops.
    async fn subscribe(
        &self,
        request: Request<communication::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = self.called("subscribe", request)?;
        let payload = bytes::Bytes::from(format!("{:?}", request.namespace));
        let message = |topic| communication::TopicMessage { topic, payload: Clone::clone(&payload) };
        let messages = request.patterns.into_iter().map(message).map(Event::Message);
        let lost = Event::Lost(communication::TopicLost { count: 1 });
        let events = messages.chain([lost]).map(|event| communication::TopicEvent { event: Some(event) }).collect();
        let gap = communication::TopicEvent { event: Some(Event::Gap(communication::TopicGap {})) };
        let answers = [events, vec![gap]].map(|events| Ok(communication::SubscribeResponse { events }));
        let heard = stream::iter(answers);
        if self.state().is_live {
            return Ok(Response::new(heard.chain(stream::pending()).boxed()));
        }
        let over = Err(Error::unavailable("stopping", "the server stops").into());
        Ok(Response::new(heard.chain(stream::iter([over])).boxed()))
    }
}
