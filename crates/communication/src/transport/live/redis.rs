//! Live events between any number of processes, over Redis.
//!
//! Each message is one `PUBLISH` to the channel `communication:live:<database>:<namespace>:<topic>`. A process hears all of them
//! over one connection, which it has while anybody listens there, and picks out what fits: so Redis knows one pattern for each
//! process, however many people watch. What this process publishes comes back the same way, so that there is one order.

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use domain::{Namespace, TopicPattern};
use lifecycle::Shutdown;
use store::{Heard, Key, Redis};
use tokio::time::timeout;

use super::{Feed, Live, LiveError, LiveLimits, LiveMessage, MAX_LIVE_PAYLOAD, hall::Hall};

/// How long somebody who wants to listen waits for Redis.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reaches subscribers of every process that uses the same database of the same Redis.
pub(crate) struct LiveRedis {
    redis: Redis,
    hall: Arc<Hall>,
}

impl LiveRedis {
    pub(crate) fn new(redis: Redis, limits: LiveLimits) -> Self {
        Self { redis, hall: Arc::new(Hall::new(limits)) }
    }

    /// Channels know no databases, and whoever shares a Redis by database must not hear the others.
    fn channel(&self, id: &str) -> Key {
        self.redis.key("live", &format!("{}:{id}", self.redis.database()))
    }

    /// Hears what is published, while anybody here wants to, until the drain.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), Infallible> {
        // Both arms are cancel-safe.
        tokio::select! {
            () = self.listen() => {}
            () = shutdown.draining() => {}
        }
        Ok(())
    }

    async fn listen(&self) {
        let prefix = self.channel("");
        loop {
            self.hall.wanted(true).await;
            let mut heard = self.redis.subscribe(&self.channel("*"));
            loop {
                // Both arms are cancel-safe.
                tokio::select! {
                    heard = heard.next() => self.hear(&prefix, heard),
                    () = self.hall.wanted(false) => if self.hall.over() { break },
                }
            }
        }
    }

    fn hear(&self, prefix: &Key, heard: Heard) {
        match heard {
            Heard::Begun => self.hall.begun(),
            // Listeners learn of the gap when it is over.
            Heard::Lost => {}
            Heard::Message { channel, payload } => {
                if let Some(message) = self.read(channel.strip_prefix(prefix.as_str()), payload) {
                    self.hall.deliver(&Arc::new(message));
                }
            }
        }
    }

    /// None where nobody here is concerned, or where somebody else has published something of their own.
    fn read(&self, place: Option<&str>, payload: Bytes) -> Option<LiveMessage> {
        let (namespace, topic) = place?.split_once(':')?;
        let namespace: Namespace = namespace.parse().ok()?;
        if payload.len() > MAX_LIVE_PAYLOAD || !self.hall.is_wanted(&namespace) {
            return None;
        }
        Some(LiveMessage { namespace, topic: topic.parse().ok()?, payload })
    }
}

#[async_trait]
impl Live for LiveRedis {
    async fn publish(&self, messages: Vec<LiveMessage>) -> Result<(), LiveError> {
        let place = |message: &LiveMessage| self.channel(&format!("{}:{}", message.namespace, message.topic));
        let messages: Vec<_> = messages.into_iter().map(|message| (place(&message), message.payload)).collect();
        self.redis.publish_all(&messages).await.map_err(|error| LiveError::Unavailable(Some(error)))
    }

    async fn subscribe(&self, namespace: Namespace, patterns: Vec<TopicPattern>) -> Result<Feed, LiveError> {
        let feed = self.hall.enter(namespace, patterns)?;
        // Whoever is told that they listen hears what is published from then on.
        timeout(PATIENCE, self.hall.heard()).await.map_err(|_| LiveError::Unavailable(None))?;
        Ok(feed)
    }
}
