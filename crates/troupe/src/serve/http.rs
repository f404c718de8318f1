//! Metrics and health of a service that serves no HTTP otherwise.

use std::{io, time::Duration};

use axum::{
    Json, Router,
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::IntoResponse,
    routing::get,
};
use domain::{Clock as _, SystemClock};
use lifecycle::{Checked, Checks, HealthStatus, Shutdown, overall};
use rpc::Token;
use serde_json::json;
use telemetry::Telemetry;
use tokio::net::TcpListener;

/// How long anything may take to show that it works. Shorter than what probes usually wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves `/metrics`, `/health/live` and `/health/ready` until `end` drains; not ready any more once `stop` does. Metrics are for
/// those who present the token, where there is one; probes have none.
pub(super) async fn serve(
    listener: TcpListener,
    telemetry: Telemetry,
    token: Option<Token>,
    checks: Checks,
    stop: Shutdown,
    end: Shutdown,
) -> io::Result<()> {
    let metrics = move |headers: HeaderMap| {
        let is_let_in = token.as_ref().is_none_or(|token| token.is(headers.get(AUTHORIZATION)));
        let text = is_let_in.then(|| telemetry.render_metrics());
        async move {
            match text {
                Some(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
                None => (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response(),
            }
        }
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
    use lifecycle::{Complaint, OnExit, Tasks};
    use settings::Secret;

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

    #[tokio::test]
    async fn metrics_are_for_those_with_the_token_and_health_is_for_everybody() {
        let tasks = Tasks::new(Shutdown::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let token = Token::new(&Secret::new("a-token-of-metrics-that-is-long-enough")).unwrap();
        let (stop, end) = (tasks.shutdown().clone(), tasks.shutdown().clone());
        let settings = telemetry::Settings::default();
        let telemetry = Telemetry::install("test", &settings, "off", telemetry::LogFormat::Readable).unwrap();
        tasks.spawn("http", OnExit::StopService, serve(listener, telemetry, Some(token), Checks::new(), stop, end));
        let client = reqwest::Client::new();
        let status = async |path: &str, token: &str| {
            client.get(format!("{url}{path}")).bearer_auth(token).send().await.unwrap().status().as_u16()
        };
        assert_eq!(status("/metrics", "a-token-of-others").await, 401);
        assert_eq!(status("/metrics", "a-token-of-metrics-that-is-long-enough").await, 200);
        assert_eq!(status("/health/live", "").await, 200);
        drop(client);
        tasks.shutdown().drain();
        tasks.join(Duration::from_secs(30)).await.unwrap();
    }
}
