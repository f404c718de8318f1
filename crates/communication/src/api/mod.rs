//! The gRPC services: decoding, calling, encoding.

mod dead_letters;
mod exchange_tasks;
mod messages;
mod open_session;
mod wire;

use std::sync::Arc;

use domain::Clock;
use lifecycle::Tasks;

use crate::app::{agents::Agents, hub::Hub, letters::Letters};

/// What every service needs. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) letters: Arc<Letters>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) terms: Terms,
}

/// What a session is granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) max_credits: u32,
    pub(crate) heartbeat_interval_ms: u32,
    pub(crate) lease_ms: u32,
    pub(crate) stream_buffer: usize,
}

impl Api {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}
