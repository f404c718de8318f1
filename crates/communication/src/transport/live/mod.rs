//! What is told to whoever listens now, and kept nowhere: progress, notifications. One module per way of carrying it behind
//! one trait, as with mailboxes; `direct` within a process, `redis` between processes.
//!
//! What is promised:
//! - At most once, to every subscription whose patterns fit, each message once however many of its patterns do.
//! - In order for each publisher and topic.
//! - Nothing crosses namespaces.
//! - A subscriber that is too slow loses the oldest of what waits for it, and is told how many ([`Notice::Lost`]).
//! - Where the connection was lost, subscribers are told when it is back that they may have missed something ([`Notice::Gap`]).
//! - Neither publishing nor listening waits for anything durable, and nothing durable waits for them: with Redis away, a
//!   publisher is refused within the time that a call to Redis may take.

mod direct;
mod feed;
mod hall;
mod redis;

use async_trait::async_trait;
use bytes::Bytes;
use domain::{Namespace, Topic, TopicPattern};
use store::RedisError;

pub(crate) use self::{
    direct::LiveDirect,
    feed::{Feed, FeedLimits, Notice},
    redis::LiveRedis,
};

/// The largest payload, in bytes.
pub(crate) const MAX_LIVE_PAYLOAD: usize = 64 << 10;

/// Something that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveMessage {
    pub(crate) namespace: Namespace,
    pub(crate) topic: Topic,
    /// A JSON value; at most [`MAX_LIVE_PAYLOAD`].
    pub(crate) payload: Bytes,
}

impl LiveMessage {
    /// About what it takes, in memory and on the wire.
    pub(crate) fn weight(&self) -> usize {
        self.topic.as_str().len() + self.payload.len() + size_of::<Self>()
    }
}

/// Bounds of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveLimits {
    pub(crate) subscriptions: usize,
    pub(crate) feed: FeedLimits,
}

/// Why something is not published, or nobody can listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveError {
    /// There is no Redis now.
    #[error("live events cannot be carried now")]
    Unavailable(#[source] Option<RedisError>),
    /// As many listen here as may.
    #[error("too many subscriptions")]
    TooMany,
}

/// A way for live events.
#[async_trait]
pub(crate) trait Live: Send + Sync + 'static {
    /// Tells everybody who listens now, in this order.
    async fn publish(&self, messages: Vec<LiveMessage>) -> Result<(), LiveError>;
    /// Listens: what is published after this has returned is heard.
    async fn subscribe(&self, namespace: Namespace, patterns: Vec<TopicPattern>) -> Result<Feed, LiveError>;
}
