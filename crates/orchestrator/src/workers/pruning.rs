//! What is kept of executions that live for years: of runs before the present one, `history_retention`.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use domain::{ExecutionId, Timestamp};
use tokio::time::Instant;
use workflow::Event;

use super::{Live, chores::Chore, worker::Worker};
use crate::metrics;

/// Executions of which one sweep has earlier runs removed: many have their turn.
const AT_ONCE: usize = 256;
/// The first event and the last before the present run are always kept.
const ALWAYS_KEPT: u64 = 2;

/// What a worker knows of its pruning.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    /// What is being pruned.
    at_work: Weak<Vec<(ExecutionId, u64)>>,
    /// The latest time before which something could go, and when that was.
    latest: Option<(Timestamp, Instant)>,
}

impl Pruning {
    /// Before when something may go. A clock that leaps ahead takes nothing at once: this goes on at most twice as fast as time does.
    fn before(&mut self, now: Timestamp, retention: Duration) -> Option<Timestamp> {
        let wanted = now.as_micros().checked_sub_unsigned(micros(retention)).map(Timestamp::from_micros)?;
        let (latest, since) = self.latest.unwrap_or((wanted, Instant::now()));
        let before = wanted.min(latest + 2 * since.elapsed());
        self.latest = Some((before.max(latest), Instant::now()));
        Some(before)
    }
}

impl Worker {
    /// Has earlier runs removed whose time has come.
    pub(super) fn prune(&mut self) {
        let retention = self.shared.settings.history_retention;
        let now = self.shared.now();
        let Some(before) = self.pruning.before(now, retention) else { return };
        let pause = (retention / 16).clamp(Duration::ZERO, Duration::from_hours(1));
        // One at a time: the next would find the same.
        if self.pruning.at_work.strong_count() > 0 {
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
            self.pruning.at_work = Arc::downgrade(&runs);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_leaps_takes_nothing_at_once() {
        let (week, hour) = (Duration::from_hours(7 * 24), Duration::from_hours(1));
        let mut pruning = Pruning::default();
        let begin = Timestamp::from_millis(1_700_000_000_000);
        let mut before = |after: Duration| pruning.before(begin + week + after, week).unwrap();
        assert_eq!(before(Duration::ZERO), begin);
        tokio::time::advance(hour).await;
        assert_eq!(before(hour), begin + hour);
        tokio::time::advance(hour).await;
        assert_eq!(before(8 * 24 * hour), begin + 3 * hour, "it is ahead");
        assert_eq!(before(2 * hour), begin + 2 * hour, "it is right again");
        assert_eq!(before(Duration::ZERO), begin, "it is behind");
        tokio::time::advance(2 * hour).await;
        assert_eq!(before(4 * hour), begin + 4 * hour);
    }
}
