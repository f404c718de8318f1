//! What is due when. Timers of the log are derived from the state and armed again after a restart; timeouts of attempts are
//! volatile and run from the hand-over.

use domain::{ExecutionId, Timestamp};
use workflow::{Command, Failure, TaskKey, Unit};

use super::{Live, worker::Worker};

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The state has something to do.
    Due,
    /// The attempt has taken too long.
    Timeout(TaskKey),
    /// Its agent was silent for too long.
    Heartbeat(TaskKey),
    /// Communication refused it; try again.
    Dispatch(TaskKey),
    /// Look for voters again.
    Voters(Unit),
    /// An errand came to nothing; try again.
    Errand(TaskKey),
}

impl Worker {
    /// Arms the timer of the state.
    pub(super) fn arm(&mut self, id: ExecutionId) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let due = live.execution.next_due();
        if live.due == due {
            return;
        }
        if let Some(old) = live.due {
            self.timers.remove(&(old, id, Timer::Due));
        }
        live.due = due;
        if let Some(due) = due {
            self.timers.insert((due, id, Timer::Due));
        }
    }

    /// Removes every timer of an execution.
    pub(super) fn disarm_all(&mut self, id: ExecutionId, live: &mut Live) {
        if let Some(due) = live.due.take() {
            self.timers.remove(&(due, id, Timer::Due));
        }
        for (task, out) in &live.tasks {
            let armed = [
                (out.timeout_at, Timer::Timeout(*task)),
                (out.heartbeat_at, Timer::Heartbeat(*task)),
                (out.again_at, Timer::Dispatch(*task)),
            ];
            for (at, timer) in armed {
                if let Some(at) = at {
                    self.timers.remove(&(at, id, timer));
                }
            }
        }
        for (unit, search) in &live.searches {
            if let Some(at) = search.again_at {
                self.timers.remove(&(at, id, Timer::Voters(*unit)));
            }
        }
        for (task, doing) in &live.errands {
            if let Some(at) = doing.again_at {
                self.timers.remove(&(at, id, Timer::Errand(*task)));
            }
        }
    }

    /// Does everything that is due, as far as is known what came before it.
    pub(super) fn fire_due(&mut self) {
        let now = self.read_until;
        // Taken first: what is armed meanwhile waits for the next round, also where it is due at once.
        let is_due = |timers: &std::collections::BTreeSet<(Timestamp, ExecutionId, Timer)>| {
            timers.first().is_some_and(|(due, ..)| *due <= now)
        };
        let mut due = Vec::new();
        while is_due(&self.timers) {
            due.extend(self.timers.pop_first());
        }
        for (_, id, timer) in due {
            self.fire(id, timer);
        }
    }

    fn fire(&mut self, id: ExecutionId, timer: Timer) {
        if !self.writes(id) {
            return;
        }
        let Some(live) = self.live.get_mut(&id) else { return };
        match timer {
            Timer::Due => {
                live.due = None;
                // A tick is never refused once there is a first event.
                let _ = self.decide(id, Command::Tick);
            }
            Timer::Timeout(task) => {
                let Some(out) = live.tasks.get_mut(&task) else { return };
                out.timeout_at = None;
                let after = out.timeout.unwrap_or_default();
                self.expire(id, task, Failure::timeout(after), "the attempt has timed out");
            }
            Timer::Heartbeat(task) => {
                self.silent(id, task);
            }
            Timer::Dispatch(task) => {
                if let Some(out) = live.tasks.get_mut(&task) {
                    out.again_at = None;
                    self.dispatch_again(id, task);
                }
            }
            Timer::Errand(task) => {
                if let Some(doing) = live.errands.get_mut(&task) {
                    doing.again_at = None;
                    self.errand_again(id, task);
                }
            }
            Timer::Voters(unit) => {
                if let Some(search) = live.searches.get_mut(&unit) {
                    search.again_at = None;
                    self.search(id, unit);
                }
            }
        }
    }

    /// Nothing was heard of a task for too long.
    fn silent(&mut self, id: ExecutionId, task: TaskKey) {
        let Some(out) = self.live.get_mut(&id).and_then(|live| live.tasks.get_mut(&task)) else { return };
        out.heartbeat_at = None;
        let after = out.heartbeat_timeout.unwrap_or_default();
        self.expire(id, task, Failure::heartbeat_timeout(after), "its agent was silent for too long");
    }

    fn expire(&mut self, id: ExecutionId, task: TaskKey, failure: Failure, reason: &'static str) {
        let Some(live) = self.live.get(&id) else { return };
        let task_id = live.task_id(id, task);
        let agent_id = live.tasks.get(&task).and_then(|out| out.agent_id);
        let begun_at = live.tasks.get(&task).and_then(|out| out.begun_at);
        self.forget(id, task);
        // The end of a task is never refused, only dropped.
        let _ = self.decide(id, Command::TaskEnded { task, agent_id, begun_at, outcome: Err(failure) });
        self.open.share(id).cancels.push((task_id, reason));
    }

    /// Moves a volatile timer of a task.
    pub(super) fn rearm(&mut self, id: ExecutionId, old: Option<Timestamp>, new: Option<Timestamp>, timer: Timer) {
        if let Some(old) = old {
            self.timers.remove(&(old, id, timer));
        }
        if let Some(new) = new {
            self.timers.insert((new, id, timer));
        }
    }
}
