//! What happens to tasks that come back from a session undone: another try, or the end.

use std::{sync::Arc, time::Instant};

use domain::{DeadLetterId, SessionId};

use super::{
    Broker, Session, cool_down,
    queues::{Line, QueueKey},
    tasks::{Entry, State},
};
use crate::{
    app::{
        journal,
        model::{DeadLetter, DeadTask, HandOver, Kind, Reason, TaskId, Update, What},
    },
    metrics,
};

/// Hand-overs that a dead letter tells of, the last ones.
const MOST_HAND_OVERS: usize = 16;

impl Broker {
    pub(super) fn nack_task(&mut self, id: SessionId, task: &TaskId, reason: &str, not_before: Option<Instant>) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.tasks.remove(task);
        }
        if self.give_back(task, reason)
            && let Some(entry) = self.tasks.get_mut(task)
        {
            self.turns += 1;
            let due = (not_before.unwrap_or_else(|| Instant::now() + cool_down(entry.deliveries)), self.turns);
            entry.state = State::Delayed { due };
            self.delayed.insert(due, Arc::clone(task));
        }
        self.pump(id);
    }

    pub(super) fn reject_task(&mut self, id: SessionId, task: &TaskId, reason: &str) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.tasks.remove(task);
        }
        self.came_back(task, reason);
        self.bury(task, Reason::Rejected, reason);
        self.pump(id);
    }

    /// Queues what a lost session held: in front, in the order in which it was handed over. Answers with the queues, which
    /// are to be served when everything is back, so that order holds.
    pub(super) fn return_tasks(&mut self, session: &Session, why: &str) -> Vec<Arc<QueueKey>> {
        let turn = |id: &TaskId| match self.tasks.get(id)?.state {
            State::Held { turn, .. } => Some((turn, Arc::clone(id))),
            State::Queued { .. }
            | State::Delayed { .. }
            | State::Leaving
            | State::Ended { .. }
            | State::Dying { .. } => None,
        };
        let mut held: Vec<_> = session.tasks.iter().filter_map(turn).collect();
        held.sort_unstable_by(|left, right| right.cmp(left));
        let mut keys = Vec::new();
        for (_, id) in held {
            if self.give_back(&id, why)
                && let Some(entry) = self.tasks.get_mut(&id)
            {
                entry.lost += 1;
                let place = self.queues.push(&entry.key, entry.task.priority, Line::Front, id);
                entry.state = State::queued(place);
                keys.push(Arc::clone(&entry.key));
            }
        }
        keys
    }

    /// Should a held task be queued again? Tells so, or buries it, or forgets it where its orchestrator is away.
    fn give_back(&mut self, id: &TaskId, why: &str) -> bool {
        let Some(entry) = self.tasks.get(id) else { return false };
        // What came from the message broker nobody dispatches again.
        if entry.lot.is_none() && self.orchestrators.is_away(&entry.replica) {
            self.forget(id);
            return false;
        }
        let (deliveries, agent) = (entry.deliveries, entry.state.holder());
        self.came_back(id, why);
        if deliveries >= self.limits.deliveries {
            self.bury(id, Reason::DeliveryLimit, why);
            return false;
        }
        let Some(entry) = self.tasks.get(id) else { return false };
        ::metrics::counter!(metrics::TASKS_REQUEUED).increment(1);
        let update = Update::new(Arc::clone(id), agent, What::Requeued(why.to_owned()));
        self.orchestrators.tell(Some(&entry.replica), update);
        true
    }

    /// Remembers a delivery that came to nothing.
    fn came_back(&mut self, id: &TaskId, why: &str) {
        let ended_at = self.clock.now();
        let Some(entry) = self.tasks.get_mut(id) else { return };
        if let State::Held { session, agent, since, .. } = entry.state {
            if entry.hand_overs.len() >= MOST_HAND_OVERS {
                entry.hand_overs.remove(0);
            }
            let at = ended_at - since.elapsed();
            entry.hand_overs.push(HandOver { agent, session, at, ended_at, reason: why.to_owned() });
        }
    }

    /// Makes a task a dead letter; its orchestrator is told when that is recorded.
    pub(super) fn bury(&mut self, id: &TaskId, reason: Reason, detail: &str) {
        let Some(entry) = self.tasks.get_mut(id) else { return };
        let letter = DeadLetter {
            id: DeadLetterId::generate(&*self.clock),
            namespace: entry.task.namespace.clone(),
            kind: Kind::Task,
            subject_id: entry.task.id.to_string(),
            target: entry.task.target.to_string(),
            reason: reason.as_str().to_owned(),
            detail: detail.to_owned(),
            deliveries: entry.deliveries,
            payload: entry.task.input.clone(),
            created_at: self.clock.now(),
            replayed_at: None,
            task: Some(entry.dead_task()),
        };
        entry.state = State::Dying { agent: entry.state.holder(), letter: letter.id, reason };
        self.journal.note(journal::Entry::DeadTask { task: Arc::clone(&entry.task), letter });
    }

    /// A task's dead letter is recorded.
    pub(crate) fn buried(&mut self, id: &str) {
        if let Some(entry) = self.forget(id)
            && let State::Dying { agent, letter, reason } = entry.state
        {
            let what = What::DeadLettered { letter, reason: reason.as_str() };
            // Told once, and whoever had the execution may have lost it.
            self.orchestrators.tell(None, Update::new(id.into(), agent, what));
        }
    }
}

impl Entry {
    fn dead_task(&mut self) -> DeadTask {
        let task = &self.task;
        DeadTask {
            execution_id: task.execution_id.clone(),
            step_id: task.step_id.clone(),
            index: task.index,
            attempt: task.attempt,
            action: task.action.clone(),
            hand_overs: std::mem::take(&mut self.hand_overs),
        }
    }
}
