//! Streams that come and go, and what time does.

use std::time::Duration;

use domain::ExecutionId;
use tokio::time::Instant;

use super::{
    Router,
    replicas::ReplicaId,
    task::{Place, Then},
};
use crate::exchange::{News, TaskUpdate};

/// How long a search waits for a replica that may be reached soon. Longer, and the tasks of one that is gone wait for nothing;
/// shorter, and they are done twice where the network was gone and not the replica.
const CONNECTION_AWAITED: Duration = Duration::from_secs(3);
/// How long it waits for a word of a replica that is reached. One that says nothing by then has the task in a queue.
const ANSWER_AWAITED: Duration = Duration::from_secs(10);
/// Between two looks at everything that is remembered.
const SWEEP: Duration = Duration::from_secs(30);
/// After so long with the broker a task is sought again: the broker may have lost it while whoever watched its queue was away.
const LONG_ENQUEUED: Duration = Duration::from_mins(5);
/// Of those, how many at one look.
const SOUGHT_AT_ONCE: usize = 1_000;

impl Router {
    /// There is another replica; a stream to it is being opened.
    pub(crate) fn joined(&mut self, replica: ReplicaId) {
        self.replicas.join(replica);
    }

    /// A stream to it is open.
    pub(crate) fn opened(&mut self, replica: ReplicaId, now: Instant) {
        self.replicas.open(replica);
        for (id, known) in &mut self.tasks {
            let Place::Sought(search) = &mut known.place else { continue };
            search.since = now;
            if !search.unanswered.contains(&replica) {
                search.unanswered.push(replica);
            }
            self.frames.push((replica, known.question(id)));
        }
    }

    /// Its stream has ended, or could not be opened. What only it had is sought, there too if it is soon back.
    pub(crate) fn ended(&mut self, replica: ReplicaId, now: Instant) {
        let was_open = self.replicas.is_open(replica);
        self.replicas.end(replica);
        if was_open {
            self.lose(replica, now);
        } else {
            self.give_up_asking(|asked, _| asked == replica);
        }
        self.tell_unserved();
    }

    /// It is no replica any more.
    pub(crate) fn left(&mut self, replica: ReplicaId, now: Instant) {
        self.ended(replica, now);
        self.replicas.leave(replica);
        self.give_up_asking(|asked, _| asked == replica);
        for known in self.tasks.values_mut() {
            known.elsewhere.retain(|other| *other != replica);
        }
    }

    fn lose(&mut self, replica: ReplicaId, now: Instant) {
        let mut sought = Vec::new();
        for (id, known) in &mut self.tasks {
            known.rival = known.rival.filter(|rival| *rival != replica);
            let was_held = known.place == Place::Held(replica);
            if known.counts_for() != Some(replica) {
                continue;
            }
            let execution = known.execution;
            let mut tell = |news| {
                if was_held {
                    self.news.push(TaskUpdate::of(execution, id, news));
                }
            };
            if let Some(Then::Ask(rival)) = known.give_way(replica) {
                self.frames.push((rival, known.question(id)));
            } else if known.is_in_broker {
                tell(News::Requeued);
                known.place = Place::Enqueued { since: now };
            } else {
                tell(News::Unheard);
                sought.push(id.clone());
            }
            self.replicas.moved(known.kind, Some(replica), known.counts_for());
        }
        for id in sought {
            self.seek(&id, now);
        }
    }

    /// Searches do not wait for some answers any more.
    fn give_up_asking(&mut self, is_given_up: impl Fn(ReplicaId, Instant) -> bool) {
        let can_ask = self.replicas.all_open().next().is_some();
        for (id, known) in &mut self.tasks {
            let Place::Sought(search) = &mut known.place else { continue };
            let before = search.unanswered.len();
            let since = search.since;
            search.unanswered.retain(|replica| !is_given_up(*replica, since));
            if search.unanswered.is_empty() && before > 0 && can_ask {
                self.news.push(known.lost(id));
            }
        }
    }

    /// Time has passed. `is_ours`: is the execution written here?
    pub(crate) fn advance(&mut self, now: Instant, is_ours: impl Fn(ExecutionId) -> bool) {
        if self.is_searching {
            let open: Vec<_> = self.replicas.all_open().collect();
            let is_late = |since: Instant| now.duration_since(since) >= CONNECTION_AWAITED;
            self.give_up_asking(|replica, since| is_late(since) && !open.contains(&replica));
            self.assume(now);
        }
        if now.duration_since(self.swept_at) >= SWEEP {
            self.swept_at = now;
            self.sweep(now, is_ours);
        }
    }

    /// A replica that has been asked for long and does not say that it does not have it has it in a queue. The dispatch that
    /// follows goes there, where it does nothing if that is so.
    fn assume(&mut self, now: Instant) {
        self.is_searching = false;
        for (id, known) in &mut self.tasks {
            let Place::Sought(search) = &known.place else { continue };
            self.is_searching = true;
            if let Some(silent) = search.unanswered.first().copied()
                && now.duration_since(search.since) >= ANSWER_AWAITED
            {
                self.news.push(known.lost(id));
                known.place = Place::Given(silent);
                self.replicas.moved(known.kind, None, Some(silent));
            }
        }
    }

    /// Forgets what others write now, and looks for what has been with the broker for very long.
    fn sweep(&mut self, now: Instant, is_ours: impl Fn(ExecutionId) -> bool) {
        let mut others = Vec::new();
        let mut sought = Vec::new();
        for (id, known) in &self.tasks {
            if !is_ours(known.execution) {
                others.push(id.clone());
            } else if let Place::Enqueued { since } = known.place
                && now.duration_since(since) >= LONG_ENQUEUED
                && sought.len() < SOUGHT_AT_ONCE
            {
                sought.push(id.clone());
            }
        }
        for id in others {
            self.forget(&id);
        }
        for id in sought {
            self.seek(&id, now);
        }
        self.replicas.tidy();
    }
}
