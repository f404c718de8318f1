//! Logs and metrics of a process, set up once by the binary.
//!
//! Logs go to standard error, so that a command's output stays clean: readable for people, JSON for machines. Metrics are
//! recorded through the `metrics` facade; [`Telemetry::render_metrics`] prints them for Prometheus.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people, coloured on a terminal.
    Readable,
    /// One JSON object per line.
    Json,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("the log filter {filter:?} is invalid")]
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another subscriber is in place.
    #[error("logs are already set up in this process")]
    Logs(#[source] tracing_subscriber::util::TryInitError),
    /// Another recorder is in place.
    #[error("metrics are already set up in this process")]
    Metrics(#[source] metrics_exporter_prometheus::BuildError),
}

/// The process's telemetry.
#[derive(Clone, Debug)]
pub struct Telemetry {
    metrics: PrometheusHandle,
}

/// Latency buckets in seconds: from a hand-over inside one process to a slow outside call.
const SECONDS: [f64; 14] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

impl Telemetry {
    /// Sets up logs and metrics for this process. `filter` is in the syntax of `tracing_subscriber::EnvFilter`.
    pub fn install(filter: &str, format: LogFormat) -> Result<Self, Error> {
        let parsed =
            EnvFilter::try_new(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })?;
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let layer = match format {
            LogFormat::Readable => layer.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
            LogFormat::Json => layer.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry().with(layer.with_filter(parsed)).try_init().map_err(Error::Logs)?;
        let metrics = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(Error::Metrics)?;
        Ok(Self { metrics })
    }

    /// All metrics in Prometheus' text format.
    pub fn render_metrics(&self) -> String {
        self.metrics.run_upkeep();
        self.metrics.render()
    }
}
