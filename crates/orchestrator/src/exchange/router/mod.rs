//! Which replica of communication gets a task, who hears of its end, and what the loss of a stream means. No I/O, no waiting:
//! every call changes the state, and what follows from it is in [`Router::take_frames`] and [`Router::take_news`].
//!
//! Invariants:
//! - A task is given to one replica at a time. It is given again only when whoever may have it has said that it does not, or
//!   cannot be asked.
//! - A task that the broker has is left to the broker, whatever becomes of the replica that put it there, until a replica that knew
//!   it there says that it is not.
//! - Of two replicas whose sessions hold a task one lets go: the second, unless the first does not hold it any more.
//! - A task is remembered until its end, which everybody hears who remembers it too.
//! - While a replica is reached, what is nowhere is so only until its worker has heard of it.
//!
//! What it remembers is in memory only: after a takeover workers say of every task that is out that it may be anywhere.
//!
//! Modules: [`replicas`] is who is there and serves whom; [`task`] what is known of one task, and what news of it means;
//! [`losses`] what streams that come and go mean, and time. This one has the rest.

mod losses;
mod replicas;
mod task;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;

use domain::ExecutionId;
use tokio::time::Instant;
use workflow::Target;

pub(crate) use self::replicas::{ReplicaId, Serving};
use self::{
    replicas::{Choice, Replicas},
    task::{Known, Place, Search, Then},
};
use super::{News, Outgoing, Said, TaskUpdate};
use crate::{hash::HashMap, metrics};

/// The state.
#[derive(Debug)]
pub(crate) struct Router {
    replicas: Replicas,
    tasks: HashMap<String, Known>,
    /// May there be searches?
    is_searching: bool,
    swept_at: Instant,
    frames: Vec<(ReplicaId, Said)>,
    news: Vec<TaskUpdate>,
}

impl Router {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            replicas: Replicas::default(),
            tasks: HashMap::default(),
            is_searching: false,
            swept_at: now,
            frames: Vec::new(),
            news: Vec::new(),
        }
    }

    /// What replicas are to be told, in order.
    pub(crate) fn take_frames(&mut self) -> std::vec::Drain<'_, (ReplicaId, Said)> {
        self.frames.drain(..)
    }

    /// What workers are to be told, in order.
    pub(crate) fn take_news(&mut self) -> std::vec::Drain<'_, TaskUpdate> {
        self.news.drain(..)
    }

    /// A worker says something.
    pub(crate) fn said(&mut self, said: Said, now: Instant) {
        match &said.outgoing {
            Outgoing::Dispatch { .. } => self.dispatch(said, now),
            Outgoing::Locate { .. } => self.locate(said, now),
            Outgoing::Ack { .. } | Outgoing::Cancel { .. } => self.over(said),
            // That is said here.
            Outgoing::Disown { .. } => {}
        }
    }

    fn dispatch(&mut self, said: Said, now: Instant) {
        let Outgoing::Dispatch { task_id, execution, namespace, order, .. } = &said.outgoing else { return };
        let Self { replicas, tasks, .. } = self;
        let known = remember(tasks, replicas, task_id, (*execution, said.epoch), (namespace, &order.target));
        let before = known.counts_for();
        let choice = match known.place {
            // It is there already, and that is known there as well.
            Place::Given(replica) => Some(Choice { replica, is_served: true }),
            Place::Sought(_) | Place::Nowhere => replicas.choose(known.kind),
            // Found since its worker was told that it was nowhere; it was told that too.
            Place::Held(_) | Place::Over(_) | Place::Enqueued { .. } => return,
        };
        let Some(Choice { replica, is_served }) = choice else {
            return self.seek(task_id, now);
        };
        known.place = Place::Given(replica);
        replicas.moved(known.kind, before, Some(replica));
        if !is_served {
            self.news.push(TaskUpdate::of(*execution, task_id, News::Waiting));
        }
        self.frames.push((replica, said));
    }

    /// Where a task is that may be out is asked of all replicas.
    fn locate(&mut self, said: Said, now: Instant) {
        let Outgoing::Locate { task_id, execution, namespace, target } = said.outgoing else { return };
        let before = self.tasks.get(&task_id).map(|known| known.epoch);
        let owner = (execution, said.epoch);
        let known = remember(&mut self.tasks, &mut self.replicas, &task_id, owner, (&namespace, &target));
        if before == Some(said.epoch) && matches!(known.place, Place::Enqueued { .. }) {
            // In this life, so it is there still.
            return self.tell_waiting(&task_id, None);
        }
        self.seek(&task_id, now);
    }

    /// A task is over for its worker: who has its result may forget it, and who has it as well is not to go on.
    fn over(&mut self, said: Said) {
        let (Outgoing::Ack { task_id } | Outgoing::Cancel { task_id, .. }) = &said.outgoing else { return };
        let known = self.forget(task_id);
        let holder = known.as_ref().and_then(Known::is_at).filter(|replica| self.replicas.is_open(*replica));
        for replica in known.map(Known::others).unwrap_or_default() {
            self.cancel(said.epoch, replica, task_id, "the task is over");
        }
        match holder {
            Some(replica) => self.frames.push((replica, said)),
            None => self.frames.extend(self.replicas.all_open().map(|replica| (replica, said.clone()))),
        }
    }

    fn forget(&mut self, id: &str) -> Option<Known> {
        let known = self.tasks.remove(id)?;
        self.replicas.moved(known.kind, known.counts_for(), None);
        self.replicas.forgotten(known.kind);
        Some(known)
    }

    /// A replica says something. `is_ours`: is the execution written here?
    pub(crate) fn heard(
        &mut self,
        from: ReplicaId,
        serving: Vec<Serving>,
        updates: Vec<TaskUpdate>,
        now: Instant,
        is_ours: impl Fn(ExecutionId) -> bool,
    ) {
        self.replicas.hear(from, serving);
        self.tell_unserved();
        for update in updates {
            if is_ours(update.execution) {
                self.update(from, update, now);
            } else if update.news.is_of_what_is_there(update.needs_ack) {
                let outgoing = Outgoing::Disown { task_id: update.task_id };
                self.frames.push((from, Said { epoch: 0, outgoing }));
            }
        }
    }

    fn update(&mut self, from: ReplicaId, update: TaskUpdate, now: Instant) {
        let Some(known) = self.tasks.get_mut(&update.task_id) else {
            if !matches!(update.news, News::Unknown) {
                // Of another life, or of another's execution: whoever writes it knows.
                self.news.push(update);
            }
            return;
        };
        let before = known.counts_for();
        let then = known.hear(from, &update, now);
        self.replicas.moved(known.kind, before, known.counts_for());
        match then {
            Then::Nothing => {}
            Then::Tell => self.news.push(update),
            Then::Waits { by, was_held } => {
                if was_held {
                    self.news.push(TaskUpdate::of(update.execution, &update.task_id, News::Requeued));
                }
                self.tell_waiting(&update.task_id, by);
            }
            Then::Ask(replica) => self.ask(replica, &update),
            Then::Withdraw(replica) => self.withdraw(replica, from, update),
            Then::Answered => self.answered(&update.task_id),
            Then::Seek => self.seek(&update.task_id, now),
            Then::Buried => self.bury(from, update),
        }
    }

    /// It is a dead letter of this replica.
    fn bury(&mut self, from: ReplicaId, update: TaskUpdate) {
        if let Some(known) = self.forget(&update.task_id) {
            let (epoch, holder) = (known.epoch, known.is_at());
            for replica in known.others().into_iter().chain(holder).filter(|replica| *replica != from) {
                self.cancel(epoch, replica, &update.task_id, "the task is a dead letter");
            }
        }
        self.news.push(update);
    }

    /// It waits for an agent where nobody serves it, `by` aside, who says that it does not.
    fn tell_waiting(&mut self, id: &str, by: Option<ReplicaId>) {
        let Some(known) = self.tasks.get(id) else { return };
        let is_served = match by {
            Some(by) => self.replicas.is_served_beside(known.kind, by),
            None => self.replicas.is_served(known.kind),
        };
        if !is_served {
            self.news.push(TaskUpdate::of(known.execution, id, News::Waiting));
        }
    }

    /// What is in line and has just lost its last server waits for an agent.
    fn tell_unserved(&mut self) {
        if !self.replicas.has_newly_unserved() {
            return;
        }
        for (id, known) in &self.tasks {
            let is_in_line = match known.place {
                Place::Given(_) | Place::Enqueued { .. } => true,
                Place::Held(_) | Place::Over(_) | Place::Sought(_) | Place::Nowhere => false,
            };
            if is_in_line && self.replicas.is_newly_unserved(known.kind) {
                self.news.push(TaskUpdate::of(known.execution, id, News::Waiting));
            }
        }
        self.replicas.told_unserved();
    }

    fn ask(&mut self, replica: ReplicaId, update: &TaskUpdate) {
        if let Some(known) = self.tasks.get(&update.task_id) {
            self.frames.push((replica, known.question(&update.task_id)));
        }
    }

    /// Two hold it: this replica lets go. A copy in the broker was what made two of it, and is used up: nobody but the holder
    /// counts on it any more.
    fn withdraw(&mut self, replica: ReplicaId, from: ReplicaId, update: TaskUpdate) {
        const REASON: &str = "another session has the task";
        metrics::second_hand_over();
        let Some(known) = self.tasks.get_mut(&update.task_id) else { return };
        known.is_in_broker = false;
        let (epoch, holder) = (known.epoch, known.is_at());
        let others = std::mem::take(&mut known.elsewhere);
        for other in others.into_iter().filter(|other| *other != replica).chain([replica]) {
            self.cancel(epoch, other, &update.task_id, REASON);
        }
        if holder == Some(from) {
            self.news.push(update);
        }
    }

    fn cancel(&mut self, epoch: i64, replica: ReplicaId, id: &str, reason: &'static str) {
        if self.replicas.is_open(replica) {
            let outgoing = Outgoing::Cancel { task_id: id.to_owned(), reason };
            self.frames.push((replica, Said { epoch, outgoing }));
        }
    }

    /// Asks every replica for a task: those that are reached at once, those that may be soon when they are.
    fn seek(&mut self, id: &str, now: Instant) {
        let Some(known) = self.tasks.get_mut(id) else { return };
        let before = known.counts_for();
        known.rival = None;
        let unanswered: Vec<_> = self.replicas.all_open().collect();
        self.frames.extend(unanswered.iter().map(|replica| (*replica, known.question(id))));
        let unanswered = unanswered.into_iter().chain(self.replicas.all_connecting()).collect();
        known.place = Place::Sought(Search { unanswered, since: now, was_held: known.is_held() });
        self.replicas.moved(known.kind, before, None);
        self.is_searching = true;
    }

    /// Was that the last answer? Where nobody can be asked at all, the search goes on until somebody can.
    fn answered(&mut self, id: &str) {
        let Some(known) = self.tasks.get_mut(id) else { return };
        if let Place::Sought(search) = &known.place
            && search.unanswered.is_empty()
            && self.replicas.all_open().next().is_some()
        {
            self.news.push(known.lost(id));
        }
    }
}

/// A task is out: what is known of it, or nothing yet.
fn remember<'a>(
    tasks: &'a mut HashMap<String, Known>,
    replicas: &mut Replicas,
    id: &str,
    (execution, epoch): (ExecutionId, i64),
    (namespace, target): (&str, &Target),
) -> &'a mut Known {
    match tasks.entry(id.to_owned()) {
        Entry::Occupied(found) => {
            let known = found.into_mut();
            known.epoch = epoch;
            known
        }
        Entry::Vacant(vacant) => {
            let kind = replicas.kind(namespace, target);
            replicas.remembered(kind);
            vacant.insert(Known::new(execution, kind, epoch))
        }
    }
}

impl Known {
    /// Asks for it.
    fn question(&self, id: &str) -> Said {
        // Only the id goes out.
        let (namespace, target) = (String::new(), Target::AgentType(String::new()));
        let outgoing = Outgoing::Locate { task_id: id.to_owned(), execution: self.execution, namespace, target };
        Said { epoch: self.epoch, outgoing }
    }

    /// It is nowhere.
    fn lost(&mut self, id: &str) -> TaskUpdate {
        metrics::task_lost();
        self.place = Place::Nowhere;
        self.is_in_broker = false;
        self.elsewhere.clear();
        TaskUpdate::of(self.execution, id, News::Lost)
    }
}
