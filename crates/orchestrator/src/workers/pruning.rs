//! What is kept of executions that live for years: of runs before the present one, `history_retention`.

use std::{sync::Arc, time::Duration};

use domain::Timestamp;
use workflow::Event;

use super::{Live, chores::Chore, worker::Worker};
use crate::metrics;

/// Executions of which one sweep has earlier runs removed: many have their turn.
const AT_ONCE: usize = 256;
/// The first event and the last before the present run are always kept.
const ALWAYS_KEPT: u64 = 2;

impl Worker {
    /// Has earlier runs removed whose time has come.
    pub(super) fn prune(&mut self) {
        let retention = self.shared.settings.history_retention;
        let now = self.shared.now();
        let Some(before) = now.as_micros().checked_sub_unsigned(micros(retention)).map(Timestamp::from_micros) else {
            return;
        };
        let pause = (retention / 16).clamp(Duration::ZERO, Duration::from_hours(1));
        // One at a time: the next would find the same.
        if self.pruning.strong_count() > 0 {
            return;
        }
        let run = |live: &Live| {
            let is_due = live.pending == 0 && live.prune_at <= now && !live.is_ended();
            live.execution.snapshot_at().filter(|at| is_due && *at > ALWAYS_KEPT + 1)
        };
        let due = self.live.iter_mut().filter_map(|(id, live)| run(live).map(|run| (*id, run, live))).take(AT_ONCE);
        let runs: Vec<_> = due
            .map(|(id, run, live)| {
                live.prune_at = now + pause;
                (id, run)
            })
            .collect();
        if !runs.is_empty() {
            let runs = Arc::new(runs);
            self.pruning = Arc::downgrade(&runs);
            self.chores.push(Chore::Prune { runs, before });
        }
    }

    /// Says that the log of an execution is about to be too long, once.
    pub(super) fn warn_of_length(live: &Live, events: &[Event]) {
        let (length, long) = (live.execution.history(), live.compiled.plan.long_history());
        if length > long && length <= long + events.len() as u64 {
            metrics::long_history(&live.compiled.name);
            let (id, most) = (live.execution.id().map(|id| id.to_string()), live.compiled.plan.max_history);
            tracing::warn!(
                execution.id = id,
                workflow = &*live.compiled.name,
                length,
                most,
                "the log of an execution is about to be too long; it is to end with `continued` before that"
            );
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
