//! What a run has cost: the growth of the server's own counters, and the client's processor time.

use std::fmt::Write as _;

use serde::Serialize;

use super::meter::{Meter, Sample};

/// What is told: its key in JSON, its words, the counters that are summed, and how many of its unit one of theirs is.
const ITEMS: [(&str, &str, &[&str], f64); 10] = [
    ("server_cpu_us", "CPU of the server, µs", &["process_cpu_seconds_total"], 1e6),
    ("engine_us", "of that, deciding, µs", &["orchestrator_decide_seconds_sum"], 1e6),
    ("allocations", "allocations", &["process_allocations_total"], 1.0),
    ("allocated_bytes", "bytes allocated", &["process_allocated_bytes_total"], 1.0),
    ("written_bytes", "bytes to disk, by the server", &["process_io_write_bytes_total"], 1.0),
    (
        "transactions",
        "transactions",
        &["orchestrator_commit_seconds_count", "troupe_message_commit_seconds_count"],
        1.0,
    ),
    ("events", "events in logs", &["orchestrator_commit_events_sum"], 1.0),
    ("hand_overs", "hand-overs to agents", &["troupe_task_deliveries_total", "troupe_message_deliveries_total"], 1.0),
    ("frames", "frames of streams", &["troupe_frames_total"], 1.0),
    ("calls", "calls between services", &["troupe_rpc_calls_total"], 1.0),
];

/// What the measured part of a workload has cost.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    /// Processes whose metrics are summed.
    processes: usize,
    items: Vec<Item>,
}

/// One line of the sheet.
#[derive(Debug, Serialize)]
struct Item {
    item: &'static str,
    #[serde(skip)]
    words: &'static str,
    total: f64,
    /// Per execution, or per message.
    per_run: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_step: Option<f64>,
}

/// The state before a run.
pub(super) struct Before<'a> {
    meter: &'a Meter,
    sample: Sample,
    client_cpu: Option<f64>,
}

impl<'a> Before<'a> {
    pub(super) async fn read(meter: &'a Meter) -> anyhow::Result<Self> {
        Ok(Self { meter, sample: meter.read().await?, client_cpu: telemetry::process::cpu_seconds() })
    }

    /// What has come to it since, of so many runs with so many steps each.
    pub(super) async fn cost(self, runs: u64, steps: u64) -> anyhow::Result<Cost> {
        let client = telemetry::process::cpu_seconds().zip(self.client_cpu).map(|(after, before)| after - before);
        let after = self.meter.read().await?;
        Ok(Cost::new(&self.sample, &after, client, self.meter.processes(), (runs, steps)))
    }
}

impl Cost {
    fn new(before: &Sample, after: &Sample, client: Option<f64>, processes: usize, (runs, steps): (u64, u64)) -> Self {
        let item = |item, words, total: f64| {
            let per_run = total / runs as f64;
            Item { item, words, total, per_run, per_step: (steps > 0).then(|| per_run / steps as f64) }
        };
        let of_server = ITEMS.iter().filter_map(|(name, words, counters, scale)| {
            let grown: Vec<_> = counters.iter().filter_map(|counter| after.since(before, counter)).collect();
            // What was never counted is not known to be nothing.
            (!grown.is_empty()).then(|| item(*name, *words, grown.iter().sum::<f64>() * scale))
        });
        let of_client = client.map(|seconds| item("client_cpu_us", "CPU of the client, µs", seconds * 1e6));
        Self { processes, items: of_server.chain(of_client).collect() }
    }

    /// For people: a table.
    pub(super) fn text(&self) -> String {
        let Self { processes, items } = self;
        let mut text = format!("         {:<30}{:>14}{:>14}", "cost", "per run", "per step");
        for Item { words, per_run, per_step, .. } in items {
            let (per_run, per_step) = (number(*per_run), per_step.map(number).unwrap_or_default());
            // Writing to a text cannot fail.
            let _ = write!(text, "\n         {words:<30}{per_run:>14}{per_step:>14}");
        }
        if *processes > 1 {
            let _ = write!(text, "\n         summed over {processes} processes");
        }
        text
    }
}

/// With as many digits as tell something: hundreds of runs share a transaction.
fn number(value: f64) -> String {
    if value < 1.0 { format!("{value:.4}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::meter::tests::sample;

    #[test]
    fn a_sheet_has_what_was_counted_per_run_and_per_step() {
        let before = sample("process_cpu_seconds_total 1.5\norchestrator_commit_events_sum 100\n");
        let after = sample(
            "process_cpu_seconds_total 1.8\norchestrator_commit_events_sum 1300\n\
             orchestrator_commit_seconds_count 7\ntroupe_message_commit_seconds_count 3\n",
        );
        let cost = Cost::new(&before, &after, Some(0.05), 1, (100, 3));
        let found: Vec<_> = cost.items.iter().map(|item| (item.item, item.total.round(), item.per_step)).collect();
        assert_eq!(found[0].0, "server_cpu_us");
        assert!((cost.items[0].per_run - 3_000.0).abs() < 1e-6);
        assert_eq!(found[1], ("transactions", 10.0, Some(0.1 / 3.0)));
        assert_eq!(found[2], ("events", 1_200.0, Some(4.0)));
        assert_eq!((found[3].0, found[3].1, found.len()), ("client_cpu_us", 50_000.0, 4));
        assert!(cost.text().contains("events in logs"), "{}", cost.text());
        let without_steps = Cost::new(&before, &after, None, 2, (100, 0));
        assert!(without_steps.items.iter().all(|item| item.per_step.is_none()));
        assert!(without_steps.text().contains("2 processes"));
    }
}
