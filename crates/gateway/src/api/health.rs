//! Is the gateway alive, and can it do its work?

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use errors::{Error, Violation};
use http::StatusCode;
use lifecycle::{Checked, overall};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{app::App, problem::Problem, reply::Reply, words::Moment};

/// How long anything may take to show that it works. Shorter than what probes usually wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// How well something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HealthStatus {
    /// It does its work.
    Healthy,
    /// It does its work, slower or with something missing.
    Degraded,
    /// It does not do its work.
    Unhealthy,
}

impl From<lifecycle::HealthStatus> for HealthStatus {
    fn from(status: lifecycle::HealthStatus) -> Self {
        match status {
            lifecycle::HealthStatus::Healthy => Self::Healthy,
            lifecycle::HealthStatus::Degraded => Self::Degraded,
            lifecycle::HealthStatus::Unhealthy => Self::Unhealthy,
        }
    }
}

/// One thing that the gateway needs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Check {
    /// What it is: a service behind, or a server.
    name: &'static str,
    /// How it does.
    status: HealthStatus,
    /// How long it took to say so, in milliseconds.
    latency_ms: f64,
    /// What is wrong; `ok` where nothing is.
    message: String,
    /// When it said so.
    timestamp: Moment,
    /// What else is known of it.
    details: Details,
}

/// What else is known of a thing that the gateway needs.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Details {
    /// Does no work go on without it? Otherwise it is slower, or something is missing.
    needed: bool,
}

impl Check {
    fn new(checked: Checked, timestamp: Moment) -> Self {
        let Checked { name, status, is_needed, latency, message } = checked;
        let latency_ms = (latency.as_secs_f64() * 1e6).round() / 1e3;
        Self { name, status: status.into(), latency_ms, message, timestamp, details: Details { needed: is_needed } }
    }
}

/// The gateway and what it needs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// As well as the worst of its checks.
    status: HealthStatus,
    /// The release.
    version: &'static str,
    /// When it was asked.
    timestamp: Moment,
    /// What it needs; empty for liveness.
    checks: Vec<Check>,
}

/// Can requests be served? With everything that the gateway needs.
#[utoipa::path(get, path = "/health", tag = "operation",
    responses((status = 200, description = "all is well, or well enough", body = Health)))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<Reply, Problem> {
    check_all(&app).await
}

/// Is the process alive? Says nothing about the services behind: restarting the gateway mends none of them.
#[utoipa::path(get, path = "/health/live", tag = "operation",
    responses((status = 200, description = "alive", body = Health)))]
pub(crate) async fn live(State(app): State<Arc<App>>) -> Result<Reply, Problem> {
    Reply::ok(&health_of(HealthStatus::Healthy, now(&app), Vec::new()))
}

/// Can requests be served? The same as `/health`, for probes; not any more once a stop was asked for.
#[utoipa::path(get, path = "/health/ready", tag = "operation",
    responses((status = 200, description = "ready", body = Health)))]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Reply, Problem> {
    if app.shutdown.is_draining() {
        return Err(Error::unavailable("stopping", "the gateway is stopping").into());
    }
    check_all(&app).await
}

const fn health_of(status: HealthStatus, timestamp: Moment, checks: Vec<Check>) -> Health {
    Health { status, version: env!("CARGO_PKG_VERSION"), timestamp, checks }
}

fn now(app: &App) -> Moment {
    Moment(app.clock.now())
}

async fn check_all(app: &App) -> Result<Reply, Problem> {
    let found = app.checks.run(PATIENCE).await;
    let status = HealthStatus::from(overall(&found));
    let timestamp = now(app);
    let checks: Vec<_> = found.into_iter().map(|checked| Check::new(checked, timestamp)).collect();
    if status != HealthStatus::Unhealthy {
        return Reply::ok(&health_of(status, timestamp, checks));
    }
    let away: Vec<_> = checks.iter().filter(|check| check.status == HealthStatus::Unhealthy).collect();
    let names: Vec<_> = away.iter().map(|check| check.name).collect();
    let detail = format!("not healthy: {}", names.join(", "));
    let faults = away.iter().map(|check| Violation::new(check.name, "unhealthy", &check.message)).collect();
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail);
    Err(problem.with_violations(faults).with_checks(checks))
}
