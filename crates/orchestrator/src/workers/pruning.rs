//! What is kept of executions that live for years: of runs before the present one, `history_retention`.

use std::time::Duration;

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
        let is_due = |live: &Live| {
            live.pending == 0 && live.prune_at <= now && live.execution.began_at() > ALWAYS_KEPT + 1 && !live.is_ended()
        };
        let due = self.live.iter_mut().filter(|(_, live)| is_due(live)).take(AT_ONCE);
        let runs: Vec<_> = due
            .map(|(id, live)| {
                live.prune_at = now + pause;
                (*id, live.execution.began_at())
            })
            .collect();
        if !runs.is_empty() {
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
