//! Metrics and health of a service that serves no HTTP otherwise.

use std::{io, time::Duration};

use axum::{
    Json, Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use domain::{Clock as _, SystemClock};
use lifecycle::{Checked, Checks, HealthStatus, Shutdown, overall};
use serde_json::json;
use telemetry::Telemetry;
use tokio::net::TcpListener;

/// How long anything may take to show that it works. Shorter than what probes usually wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves `/metrics`, `/health/live` and `/health/ready` until `end` drains; not ready any more once `stop` does.
pub(super) async fn serve(
    listener: TcpListener,
    telemetry: Telemetry,
    checks: Checks,
    stop: Shutdown,
    end: Shutdown,
) -> io::Result<()> {
    let metrics = move || {
        let text = telemetry.render_metrics();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let ready = move || {
        let (checks, stop) = (checks.clone(), stop.clone());
        async move { ready(&checks, &stop).await }
    };
    let live = || async { report(HealthStatus::Healthy, "alive", &[]) };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(ready.clone()))
        .route("/health/ready", get(ready))
        .route("/health/live", get(live));
    axum::serve(listener, router).with_graceful_shutdown(async move { end.draining().await }).await
}

async fn ready(checks: &Checks, stop: &Shutdown) -> impl IntoResponse + use<> {
    if stop.is_draining() {
        return report(HealthStatus::Unhealthy, "stopping", &[]);
    }
    let found = checks.run(PATIENCE).await;
    let status = overall(&found);
    report(status, if status == HealthStatus::Unhealthy { "not ready" } else { "ready" }, &found)
}

/// The same words as the gateway's; what is degraded works.
fn report(status: HealthStatus, message: &str, checks: &[Checked]) -> (StatusCode, Json<serde_json::Value>) {
    let timestamp = SystemClock.now().to_string();
    let check = |check: &Checked| {
        json!({
            "name": check.name,
            "status": check.status.as_str(),
            "latency_ms": (check.latency.as_secs_f64() * 1e6).round() / 1e3,
            "message": check.message,
            "timestamp": timestamp,
            "details": { "needed": check.is_needed },
        })
    };
    let body = json!({
        "status": status.as_str(),
        "message": message,
        "version": env!("CARGO_PKG_VERSION"),
        "timestamp": timestamp,
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
    });
    let code = if status == HealthStatus::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(body))
}

#[cfg(test)]
mod tests {
    use lifecycle::Complaint;

    use super::*;

    #[tokio::test]
    async fn what_is_degraded_is_ready_and_what_is_unhealthy_or_stops_is_not() {
        let status = async |checks: &Checks, stop: &Shutdown| ready(checks, stop).await.into_response().status();
        let stop = Shutdown::new();
        let checks =
            Checks::new().with("broker", HealthStatus::Degraded, || async { Err(Complaint::degraded("away")) });
        assert_eq!(status(&checks, &stop).await, StatusCode::OK);
        let away = || async { Err(Complaint::unhealthy("away")) };
        let without = checks.clone().with("database", HealthStatus::Unhealthy, away);
        assert_eq!(status(&without, &stop).await, StatusCode::SERVICE_UNAVAILABLE);
        let (_, Json(body)) = report(HealthStatus::Degraded, "ready", &checks.run(PATIENCE).await);
        let check = &body["checks"][0];
        assert_eq!((&check["name"], &check["details"]["needed"]), (&json!("broker"), &json!(false)));
        assert!(check["timestamp"].is_string() && body["timestamp"].is_string(), "{body}");
        stop.drain();
        assert_eq!(status(&checks, &stop).await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
