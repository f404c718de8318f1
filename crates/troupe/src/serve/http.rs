//! Metrics and health of a service that serves no HTTP otherwise.

use std::io;

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use lifecycle::Shutdown;
use telemetry::Telemetry;
use tokio::net::TcpListener;

/// Serves `/metrics` and `/health/live` until the shutdown drains.
pub(super) async fn serve(listener: TcpListener, telemetry: Telemetry, shutdown: Shutdown) -> io::Result<()> {
    let metrics = move || {
        let text = telemetry.render_metrics();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let router = Router::new().route("/metrics", get(metrics)).route("/health/live", get(|| async { "alive\n" }));
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.draining().await }).await
}
