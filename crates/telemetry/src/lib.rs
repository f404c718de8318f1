//! Logs, spans and metrics of a process, set up once by the binary.
//!
//! Logs go to standard error, so that a command's output stays clean: readable for people, JSON for machines; every line says
//! to which trace and request it belongs. Spans go to an OpenTelemetry collector, where one is set. Metrics are recorded
//! through the `metrics` facade; [`Telemetry::render_metrics`] prints them for Prometheus, with what the [`process`] uses.
//!
//! Logs see no spans, and without a collector nobody does: every span is then disabled where it would be made, which is one
//! look at a static, and none of its fields is computed.

mod export;
mod log;
pub mod process;
mod settings;

use std::{io::IsTerminal as _, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use self::settings::Settings;

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
    /// The collector's address is none.
    #[error("spans cannot be exported to {endpoint}")]
    Exporter {
        /// The collector.
        endpoint: String,
        /// Why.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Another subscriber is in place.
    #[error("logs are already set up in this process")]
    Logs(#[source] tracing_subscriber::util::TryInitError),
    /// Another recorder is in place.
    #[error("metrics are already set up in this process")]
    Metrics(#[source] metrics_exporter_prometheus::BuildError),
}

/// The process's telemetry. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Telemetry {
    metrics: PrometheusHandle,
    spans: Option<SdkTracerProvider>,
    flush_timeout: Duration,
}

/// Latency buckets in seconds: from a hand-over inside one process to a slow outside call.
const SECONDS: [f64; 14] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

impl Telemetry {
    /// Sets up logs, spans and metrics for this process. `service` is its name in traces; `filter` is in the syntax of
    /// `tracing_subscriber::EnvFilter`. Called within the runtime that is to carry the spans away.
    pub fn install(service: &str, settings: &Settings, filter: &str, format: LogFormat) -> Result<Self, Error> {
        let parsed =
            EnvFilter::try_new(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })?;
        let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let logs = match format {
            LogFormat::Readable => logs
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false)
                .fmt_fields(log::ReadableFields)
                .boxed(),
            LogFormat::Json => logs.event_format(log::Json).boxed(),
        };
        let spans = export::provider(service, settings)?;
        // Not an `Option` as a second layer: one that is absent has no filter, and so wants every span.
        let mut layers = vec![logs.with_filter(log::Events(parsed)).boxed()];
        layers.extend(spans.as_ref().map(|spans| export::layer(spans).boxed()));
        tracing_subscriber::registry().with(layers).try_init().map_err(Error::Logs)?;
        let metrics = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(Error::Metrics)?;
        process::describe();
        Ok(Self { metrics, spans, flush_timeout: settings.export_timeout })
    }

    /// All metrics in Prometheus' text format.
    pub fn render_metrics(&self) -> String {
        process::record();
        self.metrics.run_upkeep();
        self.metrics.render()
    }

    /// Sends the spans that wait, within the timeout of exports; nothing is recorded any more afterwards. To be called at the
    /// end, whether the process fails or not.
    pub async fn flush(&self) {
        let Some(spans) = self.spans.clone() else { return };
        let timeout = self.flush_timeout;
        // It waits for the thread that exports.
        let flushed = tokio::task::spawn_blocking(move || spans.shutdown_with_timeout(timeout)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the last spans could not be exported");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the hot paths rely on: whatever is logged, a span that nobody exports is not made.
    #[tokio::test]
    async fn without_a_collector_no_span_is_ever_made_and_metrics_say_what_the_process_uses() {
        let settings = Settings { otlp_endpoint: Some(String::new()), ..Settings::default() };
        let telemetry = Telemetry::install("test", &settings, "trace", LogFormat::Json).unwrap();
        let computed = std::cell::Cell::new(false);
        let span = tracing::error_span!(
            "span",
            field = {
                computed.set(true);
                1
            }
        );
        assert!(span.is_disabled());
        assert!(!computed.get());
        telemetry.flush().await;

        // One recorder to a process, so this is looked at here.
        let text = telemetry.render_metrics();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value("process_resident_memory_bytes ").is_some_and(|bytes| bytes > 1e6), "{text}");
        assert!(value("process_cpu_seconds_total ").is_some(), "{text}");
        #[cfg(target_os = "linux")]
        assert!(value("process_io_write_bytes_total ").is_some(), "{text}");
    }
}
