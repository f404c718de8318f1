//! The gRPC services: decoding, calling [`App`], encoding.

mod executions;
mod routed;
mod watch_events;
mod wire;
mod workflows;

use std::sync::Arc;

pub(crate) use self::{
    routed::IMPATIENT,
    wire::{failure, of_parent, outcome},
};
use crate::app::App;

/// Both services.
#[derive(Clone)]
pub(crate) struct Api {
    app: Arc<App>,
}

impl Api {
    pub(crate) const fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}
