//! The figures of one workload.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{load::Measured, load::Plan};

/// The figures of one workload; times in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) workload: &'static str,
    pub(super) runs: u64,
    pub(super) concurrency: u32,
    pub(super) elapsed_ms: f64,
    /// Per second, of those without error.
    pub(super) throughput: f64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    pub(super) errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_error: Option<String>,
    /// Of messages: from the first call to the ack of the last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) all_acked_ms: Option<f64>,
}

impl Report {
    pub(super) fn new(workload: &'static str, plan: Plan, measured: Measured) -> Self {
        let quantile = |quantile: f64| measured.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        let seconds = measured.elapsed.as_secs_f64();
        Self {
            workload,
            runs: plan.runs,
            concurrency: plan.concurrency,
            elapsed_ms: millis(measured.elapsed),
            throughput: if seconds > 0.0 { measured.latencies.len() as f64 / seconds } else { 0.0 },
            p50_ms: quantile(0.50),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            max_ms: measured.latencies.max() as f64 / 1_000.0,
            errors: measured.errors,
            first_error: measured.first_error,
            all_acked_ms: None,
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Self { workload, runs, concurrency, throughput, p50_ms, p95_ms, p99_ms, errors, .. } = self;
        let mut text = format!(
            "{workload:<8} runs {runs:<7} concurrency {concurrency:<5} {throughput:>9.1}/s   \
             p50 {p50_ms:>8.2} ms   p95 {p95_ms:>8.2} ms   p99 {p99_ms:>8.2} ms   errors {errors}"
        );
        if let Some(all_acked) = self.all_acked_ms {
            let per_second = *runs as f64 / (all_acked / 1_000.0).max(f64::EPSILON);
            // Writing to a text cannot fail.
            let _ = write!(text, "\n         all acknowledged after {all_acked:.0} ms: {per_second:.1}/s");
        }
        if let Some(error) = &self.first_error {
            let _ = write!(text, "\n         first error: {}", crate::output::shorten(error, 500));
        }
        text
    }
}

/// In milliseconds, with fractions.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
