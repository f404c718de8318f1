//! The safety net (I7): looks for executions that nothing will wake, repairs them, and counts. The count must stay zero.

use std::{convert::Infallible, sync::atomic::Ordering};

use domain::{ExecutionId, Timestamp};
use lifecycle::Shutdown;
use workflow::{Command, Effect, Invariant, TaskKey};

use super::{Input, Live, Workers, live::Out, timers::Timer, worker::Worker};
use crate::metrics;

/// Sweeps until the service ends.
pub(super) async fn run(workers: Workers, shutdown: Shutdown) -> Result<(), Infallible> {
    /// Every so many sweeps memory is compared with the database.
    const DATABASE_EVERY: u32 = 12;
    let (mut sweeps, mut ticket, mut held) = (0_u32, 0, Vec::new());
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            biased;
            () = shutdown.draining() => return Ok(()),
            () = tokio::time::sleep(workers.shared.settings.sweep_interval) => {}
        }
        sweeps = sweeps.wrapping_add(1);
        let mut known = None;
        if sweeps.is_multiple_of(DATABASE_EVERY) {
            match workers.shared.store.live(&workers.shared.holdings.shards()).await {
                Ok(live) => known = Some(workers.split(live)),
                Err(error) => tracing::warn!(error = errors::chain(&error), "the sweeper cannot read the executions"),
            }
        }
        let shards = workers.shared.holdings.shards();
        if shards == held {
            ticket = look_at_more_locks(&workers, ticket).await;
        } else {
            // Whoever had a shard before may have died before it gave back what had ended.
            ticket = look_at_all_locks(&workers).await;
            held = shards;
        }
        let mut known = known.map(IntoIterator::into_iter);
        for worker in workers.inputs.iter() {
            let known = known.as_mut().and_then(Iterator::next);
            let _ = worker.send(Input::Sweep { known }).await;
        }
    }
}

/// Goes on where the sweep before stopped, for a few pages, so that all have their turn within a minute or so, however many they
/// are; answers where it stopped.
async fn look_at_more_locks(workers: &Workers, mut ticket: i64) -> i64 {
    const PAGES: usize = 8;
    for _ in 0..PAGES {
        match look_at_locks(workers, ticket).await {
            Some(0) => return 0,
            None => return ticket,
            Some(last) => ticket = last,
        }
    }
    ticket
}

/// From the first to the last; answers where it stopped because they could not be read.
async fn look_at_all_locks(workers: &Workers) -> i64 {
    let mut ticket = 0;
    loop {
        match look_at_locks(workers, ticket).await {
            Some(0) => return 0,
            None => return ticket,
            Some(last) => ticket = last,
        }
    }
}

/// Shows to the workers what the database has of locks, after a ticket, at most so much at a time; answers with the last, or zero
/// where there are no more. None where they could not be read.
async fn look_at_locks(workers: &Workers, after: i64) -> Option<i64> {
    const AT_ONCE: i64 = 1_000;
    let shared = &workers.shared;
    let rows = match shared.store.lock_rows(&shared.holdings.shards(), after, AT_ONCE).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::warn!(error = errors::chain(&error), "the sweeper cannot read the locks");
            return None;
        }
    };
    let is_last = rows.len() < AT_ONCE as usize;
    let last = rows.last().map_or(0, |row| row.ticket);
    let mut shares: Vec<Vec<_>> = workers.inputs.iter().map(|_| Vec::new()).collect();
    for row in rows {
        shares[workers.index(row.execution)].push(row);
    }
    for (worker, rows) in workers.inputs.iter().zip(shares) {
        if !rows.is_empty() {
            let _ = worker.send(Input::Locks { rows }).await;
        }
    }
    Some(if is_last { 0 } else { last })
}

/// What should wake an execution, and does not.
#[derive(Debug)]
pub(super) struct Lost {
    /// Out, and not known to be.
    tasks: Vec<TaskKey>,
    /// Voters that nobody looks for.
    searches: Vec<Effect>,
    /// Errands that nobody does.
    errands: Vec<TaskKey>,
    /// Locks that nobody has asked for.
    locks: Vec<Effect>,
    /// The state has something to do at a time, and no timer for it.
    timer: bool,
    /// It has not ended, and waits for nothing at all.
    wakeup: bool,
}

impl Lost {
    pub(super) fn is_nothing(&self) -> bool {
        self.count() == 0
    }

    pub(super) fn count(&self) -> usize {
        let works = self.tasks.len() + self.searches.len() + self.errands.len() + self.locks.len();
        works + usize::from(self.timer) + usize::from(self.wakeup)
    }
}

impl Worker {
    pub(super) fn sweep(&mut self, known: Option<Vec<ExecutionId>>) {
        let ids = self.live.iter().filter(|(id, live)| live.pending == 0 && self.writes(**id));
        let ids: Vec<_> = ids.map(|(id, _)| *id).collect();
        let mut repairs = 0;
        for id in ids {
            let repaired = self.repair(id);
            if repaired > 0 {
                let what = format!("{repaired} things that should wake it were gone; they are back");
                self.shared.violations.note(id, &Invariant::I7.breach(what));
            }
            repairs += repaired;
        }
        self.check_some();
        for id in known.unwrap_or_default() {
            let is_here = self.live.contains_key(&id) || self.ended.contains_key(&id) || self.loading.contains_key(&id);
            if !is_here && self.writes(id) {
                // It may have ended since the database was asked; reading it tells.
                self.load(id, None);
            }
        }
        self.look_after();
        self.prune();
        metrics::stuck(self.index, repairs);
        if repairs > 0 {
            metrics::repaired(repairs as u64);
            self.shared.repaired.fetch_add(repairs as u64, Ordering::Relaxed);
        }
    }

    /// Looks whether the state of some executions is sound: of many, some in each sweep, and none that is large.
    fn check_some(&mut self) {
        const AT_ONCE: usize = 32;
        /// With more the look takes longer than a worker may be away.
        const MOST_EVENTS: u64 = 1_000;
        if self.unchecked.is_empty() {
            self.unchecked.extend(self.live.keys());
        }
        for id in self.unchecked.drain(..self.unchecked.len().min(AT_ONCE)) {
            let Some(live) = self.live.get(&id).filter(|live| live.execution.history() <= MOST_EVENTS) else {
                continue;
            };
            for breach in live.execution.breaches() {
                self.shared.violations.note(id, &breach);
            }
        }
    }

    /// What should wake the execution, and is gone.
    pub(super) fn lost(&self, id: ExecutionId, live: &Live) -> Lost {
        let is_armed = |at: Option<Timestamp>, timer| at.is_none_or(|at| self.timers.contains(&(at, id, timer)));
        let is_timed = |task: TaskKey, out: &Out| {
            is_armed(out.timeout_at, Timer::Timeout(task))
                && is_armed(out.heartbeat_at, Timer::Heartbeat(task))
                && is_armed(out.again_at, Timer::Dispatch(task))
        };
        let is_known = |task: &TaskKey| live.tasks.get(task).is_some_and(|out| is_timed(*task, out));
        let is_sought = |effect: &Effect| {
            matches!(effect, Effect::FindVoters { unit, .. }
                if live.searches.get(unit).is_some_and(|search| is_armed(search.again_at, Timer::Voters(*unit))))
        };
        let is_done =
            |task: &TaskKey| live.errands.get(task).is_some_and(|doing| is_armed(doing.again_at, Timer::Errand(*task)));
        let is_asked =
            |effect: &Effect| matches!(effect, Effect::Acquire { holder, .. } if live.locks.contains_key(holder));
        let due = live.execution.next_due();
        Lost {
            tasks: live.execution.tasks_out().into_iter().filter(|task| !is_known(task)).collect(),
            searches: live.execution.searches().filter(|effect| !is_sought(effect)).collect(),
            errands: live.execution.errands().filter(|task| !is_done(task)).collect(),
            locks: live.execution.locks_wanted().filter(|effect| !is_asked(effect)).collect(),
            timer: live.due != due || !is_armed(due, Timer::Due),
            wakeup: !live.is_ended() && live.execution.wakeups() == 0,
        }
    }

    /// Answers how many things it repaired.
    fn repair(&mut self, id: ExecutionId) -> usize {
        let Some(live) = self.live.get(&id) else { return 0 };
        let lost = self.lost(id, live);
        let stale: Vec<_> = live.tasks.keys().filter(|task| !live.execution.is_current(**task)).copied().collect();
        let orders: Vec<_> = lost.tasks.iter().filter_map(|task| live.execution.task_order(*task)).collect();
        let errands: Vec<_> = lost.errands.iter().filter_map(|task| live.execution.errand(*task)).collect();
        let idle: Vec<_> = live.errands.keys().filter(|task| !live.execution.is_current(**task)).copied().collect();
        let repairs = lost.count();
        for task in idle {
            self.forget_errand(id, task);
        }
        for task in stale.into_iter().chain(lost.tasks) {
            self.forget(id, task);
        }
        let errands = errands.into_iter().map(Effect::Run);
        for effect in orders.into_iter().map(Effect::Dispatch).chain(lost.searches).chain(errands).chain(lost.locks) {
            if let (Effect::FindVoters { unit, .. }, Some(live)) = (&effect, self.live.get_mut(&id)) {
                live.searches.remove(unit);
            }
            self.perform_again(id, effect);
        }
        if lost.timer
            && let Some(live) = self.live.get_mut(&id)
        {
            live.due = None;
        }
        if lost.timer || lost.wakeup {
            // A tick is never refused once there is a first event; it arms the timer.
            let _ = self.decide(id, Command::Tick);
        }
        repairs
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workers::bench;

    /// A worker with one execution that waits for a task, for voters and for time.
    async fn worker(directory: &std::path::Path) -> (Worker, ExecutionId) {
        let definition = json!({"name": "waits", "steps": [
            {"id": "task", "agent_type": "x"},
            {"id": "sleep", "sleep": "1h"},
            {"id": "decision", "decision": {"question": "?", "options": ["a", "b"], "strategy": "majority",
                                            "voters": {"capability": "judge", "count": 3}}},
        ]});
        bench::worker(&bench::shared(directory).await, &definition).await
    }

    #[tokio::test]
    async fn whatever_should_wake_an_execution_and_is_gone_is_found_and_repaired_once() {
        type Lose = fn(&mut Worker, ExecutionId);
        let directory = tempfile::tempdir().unwrap();
        let (mut worker, id) = worker(directory.path()).await;
        assert!(worker.census(&[]).stuck.is_empty());
        let losses: [(&str, Lose); 5] = [
            ("the task", |worker, id| worker.live.get_mut(&id).unwrap().tasks.clear()),
            ("the search for voters", |worker, id| worker.live.get_mut(&id).unwrap().searches.clear()),
            ("when to look again", |worker, id| {
                let live = worker.live.get_mut(&id).unwrap();
                live.searches.values_mut().for_each(|search| search.again_at = Some(Timestamp::from_millis(1)));
            }),
            ("all timers", |worker, _| worker.timers.clear()),
            ("that a timer is armed", |worker, id| worker.live.get_mut(&id).unwrap().due = None),
        ];
        let mut repaired = 0;
        for (what, lose) in losses {
            lose(&mut worker, id);
            assert_eq!(worker.census(&[]).stuck, [id], "{what}");
            worker.sweep(None);
            let now = worker.shared.repaired.load(Ordering::Relaxed);
            assert!(now > repaired, "{what}");
            assert!(worker.shared.violations.count(Invariant::I7) > 0, "{what}");
            repaired = now;
            assert!(worker.census(&[]).stuck.is_empty(), "{what}");
            worker.sweep(None);
            assert_eq!(worker.shared.repaired.load(Ordering::Relaxed), repaired, "{what}");
        }
    }
}
