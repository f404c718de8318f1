//! The figures of one workload.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{
    cost::Cost,
    load::{Measured, Plan},
};

/// The figures of one workload; times in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) workload: &'static str,
    pub(super) runs: u64,
    pub(super) concurrency: u32,
    pub(super) elapsed_ms: f64,
    /// Per second, of those without error.
    pub(super) throughput: f64,
    /// Steps of one run; none of a message.
    pub(super) steps: u64,
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
    /// Of waiting executions: what the server took for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Memory>,
    /// Of waiting executions: from the first signal to the completion of the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) all_completed_ms: Option<f64>,
    /// Of several kinds of agent: the throughput in proportion to that of one kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) against_one_kind: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cost: Option<Cost>,
}

/// The server's resident memory.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    before_bytes: f64,
    after_bytes: f64,
    bytes_per_execution: f64,
}

impl Memory {
    pub(super) fn new(before_bytes: f64, after_bytes: f64, executions: u64) -> Self {
        Self { before_bytes, after_bytes, bytes_per_execution: (after_bytes - before_bytes) / executions as f64 }
    }
}

impl Report {
    pub(super) fn new(workload: &'static str, plan: Plan, steps: u64, measured: Measured) -> Self {
        let quantile = |quantile: f64| measured.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        let seconds = measured.elapsed.as_secs_f64();
        Self {
            workload,
            runs: plan.runs,
            concurrency: plan.concurrency,
            elapsed_ms: millis(measured.elapsed),
            throughput: if seconds > 0.0 { measured.latencies.len() as f64 / seconds } else { 0.0 },
            steps,
            p50_ms: quantile(0.50),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            max_ms: measured.latencies.max() as f64 / 1_000.0,
            errors: measured.errors,
            first_error: measured.first_error,
            all_acked_ms: None,
            memory: None,
            all_completed_ms: None,
            against_one_kind: None,
            cost: None,
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Self { workload, runs, concurrency, throughput, p50_ms, p95_ms, p99_ms, errors, .. } = self;
        let mut text = format!(
            "{workload:<8} runs {runs:<7} concurrency {concurrency:<5} {throughput:>9.1}/s   \
             p50 {p50_ms:>8.2} ms   p95 {p95_ms:>8.2} ms   p99 {p99_ms:>8.2} ms   errors {errors}"
        );
        let mut line = |words: String| {
            // Writing to a text cannot fail.
            let _ = write!(text, "\n         {words}");
        };
        let per_second = |milliseconds: f64| *runs as f64 / (milliseconds / 1_000.0).max(f64::EPSILON);
        if self.steps > 1 {
            line(format!("{:.0} steps/s", throughput * self.steps as f64));
        }
        if let Some(all_acked) = self.all_acked_ms {
            line(format!("all acknowledged after {all_acked:.0} ms: {:.1}/s", per_second(all_acked)));
        }
        if let Some(Memory { before_bytes, after_bytes, bytes_per_execution }) = &self.memory {
            let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
            let (before, after) = (mebibytes(*before_bytes), mebibytes(*after_bytes));
            line(format!("memory of the server {before:.1} MiB, then {after:.1}: {bytes_per_execution:.0} bytes each"));
        }
        if let Some(all_completed) = self.all_completed_ms {
            line(format!("all completed after {all_completed:.0} ms: {:.1}/s", per_second(all_completed)));
        }
        if let Some(ratio) = self.against_one_kind {
            line(format!("{:.1} % of the throughput over one kind", ratio * 100.0));
        }
        if let Some(error) = &self.first_error {
            line(format!("first error: {}", crate::output::shorten(error, 500)));
        }
        if let Some(cost) = &self.cost {
            let _ = write!(text, "\n{}", cost.text());
        }
        text
    }
}

/// In milliseconds, with fractions.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
