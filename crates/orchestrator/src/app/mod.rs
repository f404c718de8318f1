//! What an orchestrator does for callers: it checks, asks the worker or the database, and answers.

mod calls;
mod history;
mod plans;
mod replicas;
mod snapshot;
mod verify;
mod workflows;

use std::{sync::Arc, time::Duration};

use domain::Clock;
use lifecycle::Shutdown;
use workflow::Status;

pub use self::replicas::{Cluster, Connect};
#[cfg(test)]
pub(crate) use self::verify::differences;
pub(crate) use self::{
    calls::{ChildReport, StartCall},
    history::{Loaded, load, load_all},
    plans::{Compiled, Plans},
    replicas::Replicas,
    snapshot::{Shown, Snapshot, summary_of},
    verify::Verification,
    workflows::Change,
};
use crate::{
    error::OrchestratorError,
    store::{Store, WorkflowRef},
    watch::Watchers,
    workers::Workers,
};

/// Everything that the calls need.
pub(crate) struct App {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) plans: Arc<Plans>,
    pub(crate) workers: Workers,
    pub(crate) replicas: Replicas,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) command_timeout: Duration,
    /// Drains before the workers do: nobody waits here from then on.
    pub(crate) edge: Shutdown,
}

fn not_found(workflow: &WorkflowRef) -> OrchestratorError {
    OrchestratorError::WorkflowNotFound(match workflow {
        WorkflowRef::Id(id) => id.to_string(),
        WorkflowRef::Name(name) => name.clone(),
    })
}

const STATUSES: [(Status, &str); 7] = [
    (Status::Queued, "queued"),
    (Status::Running, "running"),
    (Status::Paused, "paused"),
    (Status::Compensating, "compensating"),
    (Status::Completed, "completed"),
    (Status::Failed, "failed"),
    (Status::Cancelled, "cancelled"),
];

/// As the database and metrics write it.
pub(crate) fn status_text(status: Status) -> &'static str {
    STATUSES.iter().find(|(known, _)| *known == status).map_or("unknown", |(_, text)| text)
}

/// Reads what [`status_text`] wrote.
pub(crate) fn status_of(text: &str) -> Option<Status> {
    STATUSES.iter().find(|(_, known)| *known == text).map(|(status, _)| *status)
}
