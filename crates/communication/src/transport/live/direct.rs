//! Live events within one process.

use std::sync::Arc;

use async_trait::async_trait;
use domain::{Namespace, TopicPattern};

use super::{Feed, Live, LiveError, LiveLimits, LiveMessage, hall::Hall};

/// Reaches subscribers of this process, and no other.
pub(crate) struct LiveDirect(Arc<Hall>);

impl LiveDirect {
    pub(crate) fn new(limits: LiveLimits) -> Self {
        Self(Arc::new(Hall::new(limits)))
    }
}

#[async_trait]
impl Live for LiveDirect {
    async fn publish(&self, messages: Vec<LiveMessage>) -> Result<(), LiveError> {
        for message in messages {
            self.0.deliver(&Arc::new(message));
        }
        Ok(())
    }

    async fn subscribe(&self, namespace: Namespace, patterns: Vec<TopicPattern>) -> Result<Feed, LiveError> {
        self.0.enter(namespace, patterns)
    }
}
