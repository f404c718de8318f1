//! The gRPC services: decoding, calling [`App`], encoding.

mod executions;
mod routed;
mod watch_events;
mod wire;
mod workflows;

use std::sync::Arc;

use lifecycle::Shutdown;

use crate::app::App;

/// Both services.
#[derive(Clone)]
pub(crate) struct Api {
    app: Arc<App>,
    shutdown: Shutdown,
}

impl Api {
    pub(crate) const fn new(app: Arc<App>, shutdown: Shutdown) -> Self {
        Self { app, shutdown }
    }
}
