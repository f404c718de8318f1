//! One replica of communication: what it knows, and what it says.

use std::collections::{BTreeMap, BTreeSet};

use contracts::communication::v1::{
    ExchangeTasksResponse, Serving, Task, TaskEnqueued, TaskHandedOver, TaskRequeued, TaskResult, TaskUpdate,
    TaskWaiting, serving, task::Target, task_update::Update,
};
use tokio::time::Instant;

use super::door::Outgoing;
use crate::simulator::{agents, ground::Ground};

/// Deliveries of a task that may be lost; then its agent stays.
const MOST_DELIVERIES: u32 = 4;

/// A task with the message broker, with who dispatched it under which epoch.
pub(super) struct Lot {
    pub(super) task: Task,
    pub(super) replica: String,
    pub(super) epoch: i64,
}

/// One replica of communication.
#[derive(Default)]
pub(super) struct Post {
    /// Streams of orchestrators by replica, each with its number.
    pub(super) attached: BTreeMap<String, (u64, Outgoing)>,
    pub(super) tasks: BTreeMap<String, Entry>,
    /// Results of tasks that are not known here.
    pub(super) foreign: BTreeMap<String, agents::Ended>,
    /// Tasks that it has put into the broker, with whose they are; withdrawn ones are not handed over when they come back.
    pub(super) enqueued: BTreeMap<String, (String, i64, bool)>,
    /// Kinds of tasks for which no agent is here now.
    pub(super) unserved: BTreeSet<String>,
    /// How often it has begun anew.
    pub(super) life: u64,
}

pub(super) struct Entry {
    pub(super) task: Task,
    pub(super) replica: String,
    pub(super) epoch: i64,
    pub(super) deliveries: u32,
    pub(super) came_from_broker: bool,
    pub(super) place: Place,
}

pub(super) enum Place {
    Queued { told_waiting: bool },
    Held { turn: u64, agent: String, session: String },
    Ended { ended: agents::Ended, since: Instant },
}

pub(super) fn kind(target: Option<&Target>) -> String {
    match target {
        Some(Target::AgentType(name)) => format!("type {name}"),
        Some(Target::Capability(name)) => format!("capability {name}"),
        Some(Target::AgentId(id)) => format!("agent {id}"),
        None => String::new(),
    }
}

pub(super) fn served(target: Target, capacity: u32) -> Serving {
    let target = match target {
        Target::AgentType(name) => serving::Target::AgentType(name),
        Target::Capability(name) => serving::Target::Capability(name),
        Target::AgentId(id) => serving::Target::AgentId(id),
    };
    Serving { namespace: "default".to_owned(), target: Some(target), capacity }
}

pub(super) fn told(id: &str, agent: &str, update: Update) -> TaskUpdate {
    let namespace = if agent.is_empty() { "" } else { "default" };
    TaskUpdate {
        task_id: id.to_owned(),
        agent_id: agent.to_owned(),
        namespace: namespace.to_owned(),
        update: Some(update),
    }
}

pub(super) fn result(id: &str, ended: &agents::Ended) -> TaskUpdate {
    let outcome = Some(ended.outcome.clone());
    let result = TaskResult { task_id: id.to_owned(), outcome, ..TaskResult::default() };
    told(id, &ended.agent, Update::Result(result))
}

impl Post {
    /// Tells the replica to which a task belongs; all of them where that one is away.
    pub(super) fn tell(&self, ground: &Ground, replica: Option<&str>, update: &TaskUpdate) {
        let times = if ground.chance(ground.trouble().twice) { 2 } else { 1 };
        let frame = ExchangeTasksResponse { updates: vec![update.clone(); times], serving: Vec::new() };
        match replica.and_then(|replica| self.attached.get(replica)) {
            Some((_, outgoing)) => drop(outgoing.send(Ok(frame))),
            None => self.attached.values().for_each(|(_, outgoing)| drop(outgoing.send(Ok(frame.clone())))),
        }
    }

    pub(super) fn is_current(&self, replica: &str, number: u64) -> bool {
        self.attached.get(replica).is_some_and(|(current, _)| *current == number)
    }

    /// Forgets an orchestrator's tasks that nobody holds: it dispatches them again.
    pub(super) fn forget_unheld(&mut self, replica: &str) {
        self.tasks.retain(|_, entry| {
            entry.replica != replica || entry.came_from_broker || !matches!(entry.place, Place::Queued { .. })
        });
    }

    pub(super) fn is_outdated(&self, id: &str, epoch: i64) -> bool {
        let known = self.tasks.get(id).map(|entry| entry.epoch);
        known.or_else(|| self.enqueued.get(id).map(|(_, epoch, _)| *epoch)).is_some_and(|known| epoch < known)
    }

    /// A task has come from the broker; it goes back where its result is here already.
    pub(super) fn take_lot(&mut self, ground: &Ground, lot: Lot) -> Option<Lot> {
        let id = lot.task.id.clone();
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.came_from_broker = true;
            if lot.epoch > entry.epoch {
                self.take_over(ground, &lot.replica, &id, lot.epoch, true);
            }
            return None;
        }
        if self.foreign.contains_key(&id) {
            return Some(lot);
        }
        let (replica, epoch) = match self.enqueued.remove(&id) {
            Some((.., true)) => return None,
            Some((replica, epoch, false)) if epoch > lot.epoch => (replica, epoch),
            Some(_) | None => (lot.replica, lot.epoch),
        };
        let place = Place::Queued { told_waiting: false };
        let entry = Entry { task: lot.task, replica, epoch, deliveries: 0, came_from_broker: true, place };
        self.tasks.insert(id, entry);
        None
    }

    /// Gives what is in line to agents, where there are any.
    pub(super) fn hand_over(&mut self, ground: &Ground, number: usize, turns: &mut u64) -> Vec<agents::Work> {
        let (mut begun, mut updates) = (Vec::new(), Vec::new());
        for (id, entry) in &mut self.tasks {
            let Place::Queued { told_waiting } = &mut entry.place else { continue };
            if self.unserved.contains(&kind(entry.task.target.as_ref())) {
                if !std::mem::replace(told_waiting, true) {
                    updates.push((entry.replica.clone(), told(id, "", Update::Waiting(TaskWaiting {}))));
                }
                continue;
            }
            *turns += 1;
            entry.deliveries += 1;
            let agent = agents::of(&entry.task, *turns);
            let session = format!("ses_{number}_{}", self.life);
            let handed = TaskHandedOver { session_id: session.clone(), delivery: entry.deliveries };
            updates.push((entry.replica.clone(), told(id, &agent, Update::HandedOver(handed))));
            begun.push(agents::Work {
                task: entry.task.clone(),
                agent: agent.clone(),
                turn: *turns,
                post: number,
                life: self.life,
                may_be_lost: entry.deliveries < MOST_DELIVERIES,
            });
            entry.place = Place::Held { turn: *turns, agent, session };
        }
        for (replica, update) in updates {
            self.tell(ground, Some(&replica), &update);
        }
        begun
    }

    /// Whoever speaks of a task that is here hears where it is, and of it from now on; false where it is not here.
    pub(super) fn take_over(&mut self, ground: &Ground, replica: &str, id: &str, epoch: i64, is_asked: bool) -> bool {
        let Some(entry) = self.tasks.get_mut(id) else { return false };
        if epoch < entry.epoch {
            return true;
        }
        let is_new = entry.replica != replica;
        (entry.replica, entry.epoch) = (replica.to_owned(), epoch);
        let is_told = match entry.place {
            Place::Queued { told_waiting } => is_asked || (told_waiting && is_new),
            Place::Ended { .. } | Place::Held { .. } => true,
        };
        if is_told {
            let update = entry.whereabouts(id);
            self.tell(ground, Some(replica), &update);
        }
        true
    }

    /// A replica was told of what is not its own: from now on everybody is.
    pub(super) fn disown(&mut self, ground: &Ground, replica: &str, id: &str) {
        if let Some((owner, ..)) = self.enqueued.get_mut(id).filter(|(owner, ..)| owner == replica) {
            owner.clear();
            self.tell(ground, None, &told(id, "", Update::Enqueued(TaskEnqueued {})));
        }
        if let Some(entry) = self.tasks.get_mut(id).filter(|entry| entry.replica == replica) {
            entry.replica.clear();
            let update = entry.whereabouts(id);
            self.tell(ground, None, &update);
        }
    }

    pub(super) fn take_over_enqueued(
        &mut self,
        ground: &Ground,
        replica: &str,
        id: &str,
        epoch: i64,
        is_wanted: bool,
    ) -> bool {
        let Some(enqueued) = self.enqueued.get_mut(id).filter(|(.., is_withdrawn)| is_wanted || !is_withdrawn) else {
            return false;
        };
        if epoch >= enqueued.1 {
            *enqueued = (replica.to_owned(), epoch, false);
            self.tell(ground, Some(replica), &told(id, "", Update::Enqueued(TaskEnqueued {})));
        }
        true
    }
}

impl Entry {
    fn whereabouts(&self, id: &str) -> TaskUpdate {
        match &self.place {
            Place::Ended { ended, .. } => result(id, ended),
            Place::Held { agent, session, .. } => {
                let handed = TaskHandedOver { session_id: session.clone(), delivery: self.deliveries };
                told(id, agent, Update::HandedOver(handed))
            }
            Place::Queued { .. } if self.came_from_broker => told(id, "", Update::Enqueued(TaskEnqueued {})),
            Place::Queued { told_waiting: true } => told(id, "", Update::Waiting(TaskWaiting {})),
            Place::Queued { .. } => told(id, "", Update::Requeued(TaskRequeued { reason: "in line".to_owned() })),
        }
    }
}
