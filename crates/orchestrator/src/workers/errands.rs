//! What executions owe that is no agent's work, as their worker sees it: which errands are under way, when one is tried again,
//! and what becomes of children.
//!
//! A child tells its parent how it ended, a few times. That call may come to nothing (a process dies, a shard moves), so with
//! each sweep a parent looks in the database which of its children have ended, and a child asks whether it is still wanted:
//! of those that are many, some in each sweep.

use std::time::Duration;

use domain::{ExecutionId, Timestamp};
use tokio::sync::mpsc;
use workflow::{Command, Errand, ErrandKind, Execution, Failure, Parent, Status, TaskKey};

use super::{
    Live, Reply,
    chores::{Asking, Chore, Turns},
    runner::Answer,
    timers::Timer,
    worker::Worker,
};
use crate::{app::ChildReport, error::OrchestratorError, hash::HashMap};

/// Before an errand is tried again, doubled each time.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// What one sweep of a worker asks others about, and children of which it asks the database at once: many have their turn.
const LOOKED_AFTER: usize = 256;
const CHILDREN_LOOKED_AFTER: usize = 4_096;
/// Chores that wait: beyond it what is found out otherwise is not ordered.
const MOST_WAITING: usize = 16_384;

/// An errand that is under way: volatile, and begun anew after a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct Doing {
    /// The child that it starts, where it is to be waited for.
    child: Option<ExecutionId>,
    /// The child goes on.
    is_accepted: bool,
    /// How often in a row it came to nothing.
    failures: u32,
    /// Why it did the last time.
    pub(super) trouble: Option<String>,
    pub(super) again_at: Option<Timestamp>,
}

impl Worker {
    /// Has an errand done.
    pub(super) fn begin_errand(&mut self, id: ExecutionId, errand: Errand) {
        let Errand { task, what } = errand;
        let Some(live) = self.live.get_mut(&id).filter(|live| live.execution.is_current(task)) else { return };
        let child = match &what {
            ErrandKind::Start { child, parent, .. } => (!parent.detached).then_some(*child),
            ErrandKind::Tell { .. } => None,
        };
        let doing = live.errands.entry(task).or_default();
        doing.child = child;
        let old = doing.again_at.take();
        let (task_id, traceparent) = (live.task_id(id, task), live.execution.traceparent().to_owned());
        let namespace = live.namespace();
        self.rearm(id, old, None, Timer::Errand(task));
        let chore = Chore::Errand { id, namespace, task, task_id, traceparent, what };
        let lane = if chore.is_mail() { &mut self.mails } else { &mut self.chores };
        lane.push(chore);
    }

    /// Has it done again, where it is still wanted.
    pub(super) fn errand_again(&mut self, id: ExecutionId, task: TaskKey) {
        let errand = self.live.get(&id).and_then(|live| live.execution.errand(task));
        if let Some(errand) = errand {
            self.begin_errand(id, errand);
        }
    }

    /// The runner has an answer.
    pub(super) fn errand_answered(&mut self, id: ExecutionId, task: TaskKey, answer: Answer) {
        let now = self.shared.now();
        let Some(live) = self.live.get_mut(&id).filter(|live| live.execution.is_current(task)) else {
            // Whoever goes on with it begins it anew; where nobody does, the child finds out.
            return;
        };
        match answer {
            Answer::Done(outcome) => {
                self.forget_errand(id, task);
                // The end of a task is never refused, only dropped.
                let _ = self.decide(id, Command::TaskEnded { task, agent_id: None, begun_at: None, outcome });
            }
            Answer::Accepted => {
                let doing = live.errands.entry(task).or_default();
                (doing.is_accepted, doing.failures, doing.trouble) = (true, 0, None);
            }
            Answer::Again { why, at_most } => {
                let doing = live.errands.entry(task).or_default();
                let pause = TRY_AGAIN.saturating_mul(2_u32.saturating_pow(doing.failures.min(16)));
                doing.failures += 1;
                doing.trouble = Some(why);
                let at = now + pause.min(at_most);
                let old = doing.again_at.replace(at);
                self.rearm(id, old, Some(at), Timer::Errand(task));
            }
        }
    }

    /// An errand is not under way any more.
    pub(super) fn forget_errand(&mut self, id: ExecutionId, task: TaskKey) {
        let doing = self.live.get_mut(&id).and_then(|live| live.errands.remove(&task));
        if let Some(at) = doing.and_then(|doing| doing.again_at) {
            self.timers.remove(&(at, id, Timer::Errand(task)));
        }
    }

    pub(super) fn cancel_child(&mut self, id: ExecutionId, child: ExecutionId, reason: &'static str) {
        // Its errand is not looked for: there may be thousands. The next sweep forgets those that are over.
        let Some(live) = self.live.get(&id) else { return };
        self.chores.push(Chore::CancelChild { id, namespace: live.namespace(), child, reason });
    }

    /// The execution has ended, and its parent waits for that.
    pub(super) fn report_end(&mut self, id: ExecutionId) {
        if self.chores.len() >= MOST_WAITING {
            // They hold outputs. Its parent looks by itself.
            return;
        }
        let Some(live) = self.live.get(&id) else { return };
        let parent = live.execution.parent().filter(|parent| !parent.detached).cloned();
        if let (Some(parent), Some(outcome)) = (parent, outcome(id, &live.execution)) {
            self.chores.push(Chore::Report { namespace: live.namespace(), child: id, parent, outcome });
        }
    }

    /// A child has ended, or asks whether it is still wanted.
    pub(super) fn child(&mut self, report: ChildReport, reply: Reply<bool>) {
        let id = report.parent;
        if self.find(id).is_none() {
            return self.load(id, Some(super::Input::Child { report, reply }));
        }
        if self.is_foreign(id, &report.namespace) {
            let _ = reply.send(Err(OrchestratorError::ExecutionNotFound(id)));
            return;
        }
        let live = self.live.get(&id);
        let task = live.and_then(|live| live.compiled.plan.parse_task_id(&report.task_id)).map(|(_, task)| task);
        let task = task.filter(|task| live.is_some_and(|live| live.execution.is_current(*task)));
        if let (Some(task), Some(outcome)) = (task, report.outcome) {
            self.forget_errand(id, task);
            // The end of a task is never refused, only dropped.
            let _ = self.decide(id, Command::TaskEnded { task, agent_id: None, begun_at: None, outcome });
        }
        if self.is_certain(id) {
            self.answer(id, reply, |_| task.is_some());
        } else {
            let _ = reply.send(Err(OrchestratorError::Moved));
        }
    }

    /// Its parent does not want it any more, and could not say so.
    pub(super) fn unwanted(&mut self, id: ExecutionId) {
        if self.live.get(&id).is_some_and(|live| !live.is_ended()) {
            // Refused only where it has ended.
            let _ = self.decide(id, Command::Cancel { reason: "its parent does not want it any more".to_owned() });
        }
    }

    /// May a child be started though there are too many executions? All of them may wait for children, and end after those alone.
    /// So there is room for some at each depth: for the deepest of all there is always, and depth has a limit.
    pub(super) fn has_room_below(&self, parent: Option<&Parent>) -> bool {
        /// Of `max_executions`.
        const SHARE: usize = 32;
        let room = (self.shared.settings.max_executions / SHARE).max(1);
        parent.is_some_and(|parent| self.children.get(&parent.depth).is_none_or(|count| *count < room))
    }

    /// An execution with this parent is here now.
    pub(super) fn count_child(&mut self, parent: Option<&Parent>) {
        if let Some(parent) = parent {
            *self.children.entry(parent.depth).or_default() += 1;
        }
    }

    /// It was here.
    pub(super) fn discount_child(&mut self, live: &Live) {
        let count = live.execution.parent().and_then(|parent| self.children.get_mut(&parent.depth));
        if let Some(count) = count {
            *count = count.saturating_sub(1);
        }
    }

    /// Looks after some of the executions that have a child or a parent, or wait for a lock.
    pub(super) fn look_after(&mut self) {
        if self.round.is_empty() {
            let is_kin = |live: &Live| {
                let has_child = live.errands.values().any(|doing| doing.is_accepted);
                has_child || !live.locks.is_empty() || live.execution.parent().is_some_and(|parent| !parent.detached)
            };
            self.round.extend(self.live.iter().filter(|(_, live)| is_kin(live)).map(|(id, _)| *id));
        }
        if self.chores.len() >= MOST_WAITING {
            return;
        }
        // What was ordered before may not be done yet.
        let asks_for_locks = self.lock_orders.is_empty();
        let (mut children, mut asked, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        while asked.len() + waiting.len() < LOOKED_AFTER && children.len() < CHILDREN_LOOKED_AFTER {
            let Some(id) = self.round.pop_front() else { break };
            let Some(live) = self.live.get(&id).filter(|live| live.pending == 0 && !live.is_ended()) else { continue };
            if asks_for_locks && !live.locks.is_empty() {
                waiting.push(id);
            }
            let accepted = live.errands.iter().filter(|(_, doing)| doing.is_accepted);
            children.extend(accepted.filter_map(|(task, doing)| Some((id, *task, doing.child?))));
            if let Some(parent) = live.execution.parent().filter(|parent| !parent.detached).cloned() {
                asked.push(Asking { namespace: live.namespace(), child: id, parent });
            }
        }
        for id in waiting {
            self.review(id);
        }
        if !children.is_empty() {
            self.chores.push(Chore::Look { children });
        }
        if !asked.is_empty() {
            self.chores.push(Chore::Ask { asked });
        }
    }
}

/// Hands chores to the runner, as far as it has room: for one it has.
pub(super) fn hand_out(
    chores: &mut Turns,
    live: &HashMap<ExecutionId, Live>,
    permit: mpsc::Permit<'_, Chore>,
    runner: &mpsc::Sender<Chore>,
) {
    let mut first = Some(permit);
    while let Some(permit) = first.take().or_else(|| runner.try_reserve().ok()) {
        // What was given up meanwhile need not be begun.
        let is_wanted = |chore: &Chore| match chore {
            Chore::Errand { id, task, .. } => live.get(id).is_some_and(|live| live.execution.is_current(*task)),
            _ => true,
        };
        match std::iter::from_fn(|| chores.pop()).find(is_wanted) {
            Some(chore) => permit.send(chore),
            None => return,
        }
    }
}

/// How a child that has ended shows to its parent.
fn outcome(id: ExecutionId, execution: &Execution) -> Option<Result<domain::Payload, Failure>> {
    match execution.status() {
        Status::Completed => Some(Ok(execution.output().cloned().unwrap_or_else(domain::Payload::null))),
        Status::Failed => Some(Err(failed_child(id, execution.failure().cloned()))),
        Status::Cancelled => Some(Err(cancelled_child(id, execution.cancel_reason().unwrap_or_default()))),
        Status::Queued | Status::Running | Status::Paused | Status::Compensating => None,
    }
}

/// The failure of a step whose child failed.
pub(crate) fn failed_child(id: ExecutionId, failure: Option<Failure>) -> Failure {
    let failure = failure.unwrap_or_else(|| Failure::fatal("internal", "it does not say why"));
    let message = format!("the child execution {id} failed: {}", failure.message);
    // The step that is named is one of the child.
    Failure { message, step_id: None, retryable: false, ..failure }
}

/// The failure of a step whose child was cancelled.
pub(crate) fn cancelled_child(id: ExecutionId, reason: &str) -> Failure {
    Failure::fatal("child_cancelled", format!("the child execution {id} was cancelled: {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workers::bench;

    #[tokio::test]
    async fn who_wants_many_children_does_not_hold_up_who_wants_one() {
        const MANY: usize = 20_000;
        let directory = tempfile::tempdir().unwrap();
        let definition = json!({ "name": "parent", "config": { "max_parallel": 1 }, "steps": [
            { "id": "child", "for_each": "${{ input }}", "workflow": { "name": "child" }, "max_parallel": MANY },
        ] });
        let (mut worker, first) = bench::worker(&bench::shared(directory.path()).await, &definition).await;
        worker.remove(first);
        let of = |chore: Option<Chore>| match chore {
            Some(Chore::Errand { id, .. }) => id,
            other => panic!("{other:?}"),
        };
        let (one, other) = (ExecutionId::from_parts(2, 1), ExecutionId::from_parts(2, 2));
        bench::begin(&mut worker, one, json!(vec![0; MANY])).await;
        assert_eq!((of(worker.chores.pop()), worker.chores.len()), (one, MANY - 1));
        bench::begin(&mut worker, other, json!([0])).await;
        let next = [of(worker.chores.pop()), of(worker.chores.pop())];
        assert!(next.contains(&other), "{next:?}");
        assert_eq!((of(worker.chores.pop()), worker.chores.len()), (one, MANY - 3));
    }
}
