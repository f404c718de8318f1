//! Listening to what is published.

use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::{
    Client, RedisError,
    aio::{PubSubSink, PubSubStream},
};
use futures::StreamExt as _;
use tokio::time::timeout;

/// How long a connection may be silent before it is asked whether it is still there: one that was cut says nothing.
const ASK_AFTER: Duration = Duration::from_secs(5);
/// The first pause before another try to connect; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A subscription that connects again by itself.
///
/// Its connection keeps what arrives until it is read, so whoever has one does nothing slow between two calls of
/// [`Self::next`].
pub struct Subscription {
    client: Client,
    channel: String,
    timeout: Duration,
    max_pause: Duration,
    pause: Duration,
    open: Option<(PubSubSink, PubSubStream)>,
}

/// What a subscription hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It listens (again): what was published before now may have been missed.
    Begun,
    /// It does not listen any more, and tries to again.
    Lost,
    /// Something was published.
    Message {
        /// Where: `<service>:<purpose>:<id>`.
        channel: String,
        /// What.
        payload: Bytes,
    },
}

impl Subscription {
    pub(super) fn new(client: Client, channel: String, timeout: Duration, max_pause: Duration) -> Self {
        Self { client, channel, timeout, max_pause, pause: FIRST_PAUSE, open: None }
    }

    /// Waits for what is heard next, for as long as it takes. Cancel-safe, but a try to connect that is dropped begins anew.
    pub async fn next(&mut self) -> Heard {
        loop {
            let Some((sink, stream)) = &mut self.open else {
                self.connect().await;
                return Heard::Begun;
            };
            match timeout(ASK_AFTER, stream.next()).await {
                Ok(Some(message)) => {
                    let channel = message.get_channel_name().to_owned();
                    return Heard::Message { channel, payload: Bytes::copy_from_slice(message.get_payload_bytes()) };
                }
                Ok(None) => return self.lost(),
                // A slow answer is no reason to miss something.
                Err(_) => match timeout(self.timeout.max(ASK_AFTER), sink.ping::<Bytes>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return self.lost(),
                },
            }
        }
    }

    fn lost(&mut self) -> Heard {
        self.open = None;
        Heard::Lost
    }

    async fn connect(&mut self) {
        loop {
            // Making a connection takes several answers.
            match timeout(self.timeout * 4, connect(&self.client, &self.channel)).await {
                Ok(Ok(open)) => {
                    self.open = Some(open);
                    self.pause = FIRST_PAUSE;
                    return;
                }
                Ok(Err(error)) => tracing::debug!(error = errors::chain(&error), "cannot listen to Redis now"),
                Err(_) => tracing::debug!("cannot listen to Redis in time"),
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(self.max_pause);
        }
    }
}

async fn connect(client: &Client, channel: &str) -> Result<(PubSubSink, PubSubStream), RedisError> {
    let (mut sink, stream) = client.get_async_pubsub().await?.split();
    if channel.contains('*') {
        sink.psubscribe(channel).await?;
    } else {
        sink.subscribe(channel).await?;
    }
    Ok((sink, stream))
}
