//! The database of a history: it does what the SQL does, and checks what is written to it as it comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ::store::Page;
use domain::{ExecutionId, Timestamp, WorkflowId};
use tokio::time::Instant;
use workflow::{
    Effect, Event, Execution, Holder, Lock, Recorded,
    invariant::{Once, chained, continues_the_log},
};

use super::{
    ground::{Ground, Sabotage},
    locks::Locks,
};
use crate::{
    app::{Compiled, differences, summary_of},
    store::{
        Append, AppendError, EventRow, Granted, Held, LockOrder, NewEvent, Owner, Pruned, Replica, Summary,
        WorkflowRef, WorkflowRow,
    },
};

/// One for all replicas; it outlives them.
pub(super) struct Database {
    ground: Arc<Ground>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
pub(super) struct Tables {
    workflows: BTreeMap<WorkflowId, WorkflowRow>,
    compiled: BTreeMap<WorkflowId, Arc<Compiled>>,
    events: BTreeMap<ExecutionId, Vec<EventRow>>,
    removed: BTreeMap<ExecutionId, Pruned>,
    pub(super) summaries: BTreeMap<ExecutionId, Summary>,
    shards: Vec<Shard>,
    replicas: BTreeMap<String, (Replica, Instant)>,
    observed: BTreeMap<ExecutionId, Observed>,
    pub(super) locks: Locks,
    pub(super) commits: u64,
    pub(super) fenced: u64,
    /// Shards that another had held before.
    pub(super) takeovers: u64,
    /// Executions that had a parent.
    pub(super) children: u64,
    /// Locks that were taken.
    pub(super) taken: u64,
    /// Runs that were continued, and events of earlier runs that were removed.
    pub(super) continued: u64,
    pub(super) pruned: u64,
}

struct Shard {
    owner: String,
    epoch: i64,
    until: Instant,
}

/// What the log of an execution says, read as it is written.
struct Observed {
    execution: Execution,
    hash: [u8; 32],
    /// Every task that ever went out.
    tasks: BTreeSet<String>,
    once: Once,
    /// Locks that it has asked for, and those of them that it has.
    asked: BTreeMap<Holder, Lock>,
    has: BTreeMap<Holder, Lock>,
}

impl Observed {
    fn new(compiled: &Compiled) -> Self {
        let execution = Execution::new(Arc::clone(&compiled.plan));
        let (tasks, once, asked, has) = Default::default();
        Self { execution, hash: [0; 32], tasks, once, asked, has }
    }

    /// Follows which locks it has; answers with one that it has just got.
    fn follow_locks(&mut self, event: &Event) -> Option<Lock> {
        let holder = match event {
            Event::TurnTaken => Some(Holder::Execution),
            Event::MutexTaken { unit, .. } => Some(Holder::Unit(*unit)),
            _ => None,
        };
        let got = holder.and_then(|holder| Some((holder, self.asked.remove(&holder)?)));
        self.has.extend(got.clone());
        let execution = &self.execution;
        self.has.retain(|holder, _| execution.lock_of(*holder).is_some());
        for effect in execution.locks_wanted() {
            if let Effect::Acquire { holder, lock } = effect {
                self.asked.insert(holder, lock);
            }
        }
        got.map(|(_, lock)| lock)
    }
}

impl Database {
    pub(super) fn new(ground: &Arc<Ground>) -> Arc<Self> {
        Arc::new(Self { ground: Arc::clone(ground), tables: Mutex::default() })
    }

    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    pub(super) fn add_workflow(&self, row: WorkflowRow) {
        self.tables().workflows.insert(row.id, row);
    }

    /// With this it can read the logs of the workflow's executions.
    pub(super) fn add_compiled(&self, compiled: &Arc<Compiled>) {
        self.tables().compiled.insert(compiled.workflow_id, Arc::clone(compiled));
    }

    /// One transaction.
    pub(super) fn append(&self, owner: &str, append: &Append) -> Result<(), AppendError> {
        let mut tables = self.tables();
        let held = append.held();
        let is_held = |held: &Held| {
            let shard = &tables.shards[held.shard as usize];
            shard.owner == owner && shard.epoch == held.epoch
        };
        if !held.iter().all(is_held) && self.ground.sabotage != Sabotage::NoEpochs {
            tables.fenced += 1;
            return Err(AppendError::Fenced);
        }
        tables.commits += 1;
        if self.ground.sabotage == Sabotage::LostCommits && tables.commits.is_multiple_of(7) {
            return Ok(());
        }
        for event in &append.events {
            self.write(&mut tables, event);
        }
        for summary in &append.summaries {
            self.summarize(&mut tables, summary);
        }
        Ok(())
    }

    fn write(&self, tables: &mut Tables, event: &NewEvent) {
        let id = event.execution;
        let log = tables.events.entry(id).or_default();
        if let Err(breach) = continues_the_log(log.last().map_or(0, |last| last.sequence), event.sequence) {
            return self.ground.breach(|| format!("{id}: {breach}"));
        }
        let mut data = event.data.clone();
        if self.ground.sabotage == Sabotage::ChangedEvents && tables.commits.is_multiple_of(11) {
            data.push(b' ');
        }
        log.push(EventRow { sequence: event.sequence, at: event.at, data, hash: event.hash.to_vec() });
        let Ok(decoded) = Event::decode(&event.data) else {
            return self.ground.breach(|| format!("an event of {id} cannot be read"));
        };
        self.ground.tell("log", || format!("{id} {} {}", event.sequence, String::from_utf8_lossy(&event.data)));
        if let Event::Accepted { workflow_id, .. } = &decoded
            && let Some(compiled) = tables.compiled.get(workflow_id)
        {
            tables.observed.insert(id, Observed::new(compiled));
        }
        let Some(observed) = tables.observed.get_mut(&id) else {
            return self.ground.breach(|| format!("the log of {id} does not begin with its acceptance"));
        };
        match chained(&observed.hash, event.sequence, event.at, &event.data, &event.hash) {
            Ok(hash) => observed.hash = hash,
            Err(breach) => self.ground.breach(|| format!("{id}: {breach}")),
        }
        if let Err(breach) = observed.once.see(&decoded) {
            self.ground.breach(|| format!("{id}: {breach}"));
        }
        let was_over = observed.execution.status().is_terminal();
        observed.execution.apply(&Recorded { sequence: event.sequence, at: event.at, event: decoded.clone() });
        if was_over && observed.execution.status().is_terminal() {
            self.ground.breach(|| format!("something happened to {id} after its end: {decoded:?}"));
        }
        tables.continued += u64::from(decoded.is_snapshot());
        let got = observed.follow_locks(&decoded);
        if let Event::StepScheduled { task, .. } = &decoded {
            observed.tasks.insert(observed.execution.plan().task_id(id, *task));
        }
        if let Event::Accepted { parent: Some(parent), .. } = &decoded {
            tables.children += 1;
            if !tables.has_task(&parent.task_id) {
                self.ground.breach(|| format!("I3: {id} is the child of {}, which never went out", parent.task_id));
            }
        }
        if let Some(lock) = got {
            tables.taken += 1;
            let has = tables.observed.values().flat_map(|observed| observed.has.values());
            let holders = has.filter(|held| (held.kind, &held.name) == (lock.kind, &lock.name)).count();
            if holders > lock.limit as usize {
                self.ground.breach(|| format!("{id} has got {lock:?}, which {holders} have now"));
            }
        }
    }

    /// One transaction.
    pub(super) fn change_locks(&self, owner: &str, orders: &[LockOrder]) -> Granted {
        let mut tables = self.tables();
        let is_held = |order: &&LockOrder| {
            let shard = &tables.shards[order.held.shard as usize];
            shard.owner == owner && shard.epoch == order.held.epoch
        };
        let orders: Vec<_> = orders.iter().filter(is_held).cloned().collect();
        tables.locks.change(&orders)
    }

    /// What the summary says, the log says (I5); and nobody is left without a wake-up between two transitions (I7).
    fn summarize(&self, tables: &mut Tables, summary: &Summary) {
        let Some(observed) = tables.observed.get(&summary.id) else { return };
        let compiled = &tables.compiled[&summary.workflow_id];
        let expected = summary_of(&observed.execution, observed.hash, summary.shard, compiled);
        if let Some(breach) = differences(&expected, summary).next() {
            self.ground.breach(|| format!("{breach}: the log says {expected:?}, the summary {summary:?}"));
        }
        if let Some(breach) = observed.execution.breaches().first() {
            self.ground.breach(|| format!("{}: {breach}", summary.id));
        }
        tables.summaries.insert(summary.id, summary.clone());
    }
}

impl Tables {
    pub(super) fn make_shards(&mut self, count: u32) -> u32 {
        if self.shards.is_empty() {
            let free = || Shard { owner: String::new(), epoch: 0, until: Instant::now() };
            self.shards = (0..count).map(|_| free()).collect();
        }
        self.shards.len() as u32
    }

    pub(super) fn announce(&mut self, replica: &Replica, lease: Duration) -> Vec<Replica> {
        let now = Instant::now();
        self.replicas.insert(replica.id.clone(), (replica.clone(), now + lease));
        self.replicas.values().filter(|(_, until)| *until > now).map(|(replica, _)| replica.clone()).collect()
    }

    pub(super) fn claim(&mut self, owner: &str, most: usize, lease: Duration, any: bool, is_theft: bool) -> Vec<Held> {
        let now = Instant::now();
        let is_free =
            |shard: &Shard| shard.owner != owner && (shard.owner.is_empty() || shard.until <= now || any || is_theft);
        let mut free: Vec<_> = (0..self.shards.len()).filter(|number| is_free(&self.shards[*number])).collect();
        free.sort_by_key(|number| (self.shards[*number].until, *number));
        let take = |number: &usize| {
            let shard = &mut self.shards[*number];
            shard.epoch += i64::from(!is_theft);
            (shard.owner, shard.until) = (owner.to_owned(), now + lease);
            Held { shard: *number as u32, epoch: shard.epoch }
        };
        let claimed: Vec<_> = free.iter().take(most).map(take).collect();
        self.takeovers += claimed.iter().filter(|held| held.epoch > 1).count() as u64;
        claimed
    }

    pub(super) fn renew(&mut self, owner: &str, lease: Duration) -> Vec<Held> {
        let until = Instant::now() + lease;
        let mut renewed = Vec::new();
        for (number, shard) in (0..).zip(&mut self.shards).filter(|(_, shard)| shard.owner == owner) {
            shard.until = until;
            renewed.push(Held { shard: number, epoch: shard.epoch });
        }
        renewed
    }

    pub(super) fn release(&mut self, owner: &str, shards: &[u32]) {
        for number in shards {
            let shard = &mut self.shards[*number as usize];
            if shard.owner == owner {
                (shard.owner, shard.until) = (String::new(), Instant::now());
            }
        }
    }

    pub(super) fn leave(&mut self, owner: &str) {
        let all: Vec<_> = (0..self.shards.len() as u32).collect();
        self.release(owner, &all);
        self.replicas.remove(owner);
    }

    pub(super) fn owners(&self) -> Vec<Owner> {
        let now = Instant::now();
        let owner = |(number, shard): (u32, &Shard)| {
            let (replica, _) = self.replicas.get(&shard.owner).filter(|_| shard.until > now)?;
            Some(Owner { shard: number, replica: replica.clone() })
        };
        (0..).zip(&self.shards).filter_map(owner).collect()
    }

    pub(super) fn events(&self, id: ExecutionId, after: u64, limit: usize) -> Page<EventRow> {
        let log = self.events.get(&id).map(Vec::as_slice).unwrap_or_default();
        let rest = &log[log.partition_point(|event| event.sequence <= after)..];
        Page { rows: rest.iter().take(limit).cloned().collect(), is_last: rest.len() <= limit }
    }

    /// Of every second one, as if the others were long.
    pub(super) fn logs(&self, ids: &[ExecutionId]) -> Vec<(ExecutionId, Vec<EventRow>)> {
        let log = |id: &ExecutionId| Some((*id, self.events.get(id)?.clone()));
        ids.iter().step_by(2).filter_map(log).collect()
    }

    pub(super) fn prune(&mut self, id: ExecutionId, run: u64, before: Timestamp, limit: u64) -> u64 {
        let log = self.events.entry(id).or_default();
        let goes = |event: &EventRow| event.at < before && event.sequence + 1 < run;
        let mut oldest = log.iter().skip(1).take(limit as usize);
        let count = oldest.rposition(goes).map_or(0, |place| place + 1);
        if let Some(last) = log.drain(1..=count).next_back() {
            self.removed.insert(id, Pruned { to: last.sequence, hash: last.hash });
        }
        self.pruned += count as u64;
        count as u64
    }

    pub(super) fn removed(&self, id: ExecutionId) -> Option<Pruned> {
        self.removed.get(&id).cloned()
    }

    /// Has everything ended?
    pub(super) fn have_ended(&self) -> bool {
        self.summaries.values().all(|summary| summary.ended_at.is_some())
    }

    pub(super) fn summary(&self, id: ExecutionId) -> Option<Summary> {
        self.summaries.get(&id).cloned()
    }

    pub(super) fn ended(&self, ids: &[ExecutionId]) -> Vec<ExecutionId> {
        let has_ended = |id: &&ExecutionId| self.summaries.get(id).is_some_and(|found| found.ended_at.is_some());
        ids.iter().filter(has_ended).copied().collect()
    }

    pub(super) fn live(&self, shards: &[u32]) -> Vec<ExecutionId> {
        let live = self.summaries.values().filter(|summary| summary.ended_at.is_none());
        live.filter(|summary| shards.contains(&summary.shard)).map(|summary| summary.id).collect()
    }

    pub(super) fn workflow(&self, workflow: &WorkflowRef) -> Option<WorkflowRow> {
        match workflow {
            WorkflowRef::Id(id) => self.workflows.get(id).cloned(),
            WorkflowRef::Name(name) => self.workflows.values().find(|row| row.name == *name).cloned(),
        }
    }

    /// Where the execution is, as far as it is committed.
    pub(super) fn execution(&self, id: ExecutionId) -> Option<&Execution> {
        self.observed.get(&id).map(|observed| &observed.execution)
    }

    /// Is this attempt out, as far as it is committed?
    pub(super) fn is_current(&self, task_id: &str) -> bool {
        let id = task_id.split('/').next().and_then(|id| id.parse().ok());
        let Some(execution) = id.and_then(|id| self.execution(id)) else { return false };
        let task = execution.plan().parse_task_id(task_id);
        task.is_some_and(|(_, task)| execution.is_current(task))
    }

    /// Did it ever go out, as far as it is committed?
    pub(super) fn has_task(&self, task_id: &str) -> bool {
        let id: Option<ExecutionId> = task_id.split('/').next().and_then(|id| id.parse().ok());
        id.and_then(|id| self.observed.get(&id)).is_some_and(|observed| observed.tasks.contains(task_id))
    }

    /// Up to where what was shown to a caller is committed: nothing of it where it is another history.
    pub(super) fn committed(&self, shown: &Summary) -> u64 {
        let log = self.events.get(&shown.id).map(Vec::as_slice).unwrap_or_default();
        let newest = log.last().map_or(0, |last| last.sequence);
        match log.iter().find(|event| event.sequence == shown.last_sequence) {
            Some(event) if event.hash != shown.last_hash => 0,
            // Or it is of an earlier run, and has gone.
            Some(_) | None => newest,
        }
    }
}
