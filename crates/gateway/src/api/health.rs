//! Is the gateway alive, and can it do its work?

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use contracts::{communication::v1 as communication, orchestrator::v1 as orchestrator, registry::v1 as registry};
use errors::{Error, Violation};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{app::App, problem::Problem, reply::Reply};

/// How long a service behind may take to show that it works. Shorter than what probes usually wait.
const DEADLINE: Duration = Duration::from_secs(2);

/// How well something does.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HealthStatus {
    /// It does its work.
    Healthy,
}

/// One part.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Check {
    /// The service behind.
    name: &'static str,
    /// How it does.
    status: HealthStatus,
}

/// The gateway and what it needs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// How it does.
    status: HealthStatus,
    /// The release.
    version: &'static str,
    /// The services behind; empty for liveness.
    checks: Vec<Check>,
}

/// Can requests be served? With every service behind.
#[utoipa::path(get, path = "/health", tag = "operation",
    responses((status = 200, description = "all is well", body = Health)))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<Reply, Problem> {
    check_all(&app).await
}

/// Is the process alive? Says nothing about the services behind: restarting the gateway mends none of them.
#[utoipa::path(get, path = "/health/live", tag = "operation",
    responses((status = 200, description = "alive", body = Health)))]
pub(crate) async fn live() -> Result<Reply, Problem> {
    Reply::ok(&healthy(Vec::new()))
}

/// Can requests be served? The same as `/health`, for probes.
#[utoipa::path(get, path = "/health/ready", tag = "operation",
    responses((status = 200, description = "ready", body = Health)))]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Reply, Problem> {
    if app.shutdown.is_draining() {
        return Err(Error::unavailable("stopping", "the gateway is stopping").into());
    }
    check_all(&app).await
}

const fn healthy(checks: Vec<Check>) -> Health {
    Health { status: HealthStatus::Healthy, version: env!("CARGO_PKG_VERSION"), checks }
}

async fn check_all(app: &App) -> Result<Reply, Problem> {
    let (mut agents, mut executions, mut messages) = (app.agents(), app.executions(), app.messages());
    // The smallest question that each answers from its database.
    let agents = agents.list_agents(registry::ListAgentsRequest { page_size: 1, ..Default::default() });
    let executions =
        executions.list_executions(orchestrator::ListExecutionsRequest { page_size: 1, ..Default::default() });
    let messages = messages.list_messages(communication::ListMessagesRequest { page_size: 1, ..Default::default() });
    let (registry, orchestrator, communication) =
        futures::join!(answers(agents), answers(executions), answers(messages));
    let found = [("registry", registry), ("orchestrator", orchestrator), ("communication", communication)];
    let faults: Vec<_> = found
        .iter()
        .filter_map(|(name, fault)| fault.as_ref().map(|fault| Violation::new(*name, "unhealthy", fault)))
        .collect();
    if !faults.is_empty() {
        let names: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        let detail = format!("not healthy: {}", names.join(", "));
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail).with_violations(faults));
    }
    let checks = found.iter().map(|(name, _)| Check { name, status: HealthStatus::Healthy }).collect();
    Reply::ok(&healthy(checks))
}

/// What is wrong with a service, if anything is.
async fn answers<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Option<String> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(_)) => None,
        Ok(Err(status)) => Some(Error::from(status).message),
        Err(_) => Some(format!("no answer within {DEADLINE:?}")),
    }
}
