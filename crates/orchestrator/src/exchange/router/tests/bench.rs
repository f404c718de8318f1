//! A worker, replicas of communication and a message broker, played.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use domain::{ExecutionId, Payload};
use tokio::time::Instant;
use workflow::{Target, TaskKey, TaskOrder};

use super::super::{ReplicaId, Router, Serving};
use crate::exchange::{Delivery, News, Outgoing, Said, TaskUpdate};

/// Where a task is on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Queued,
    Held,
    Enqueued,
    Over,
}

/// What a replica says.
#[derive(Clone, Debug)]
enum Says {
    Serves(u32),
    News(Box<TaskUpdate>),
}

/// One replica.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) is_open: bool,
    /// None: it has not said.
    capacity: Option<u32>,
    pub(super) tasks: BTreeMap<String, At>,
    down: VecDeque<Said>,
    up: VecDeque<Says>,
}

/// A copy of a task in the broker, and who has taken it.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) task: String,
    pub(super) taken_by: Option<usize>,
}

/// What a worker knows.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) wanted: BTreeSet<String>,
    pub(super) waiting: BTreeSet<String>,
    /// The session that has a task.
    pub(super) held: BTreeMap<String, String>,
    inbox: VecDeque<TaskUpdate>,
}

pub(super) struct Bench {
    pub(super) router: Router,
    pub(super) sides: Vec<Side>,
    pub(super) broker: Vec<Copy>,
    pub(super) worker: Worker,
    pub(super) is_ours: bool,
    /// What replicas have heard is another's.
    pub(super) disowned: Vec<(usize, String)>,
    dispatches: BTreeMap<String, usize>,
    now: Instant,
    epoch: i64,
    /// Numbers hand-overs.
    turn: u32,
}

fn id(side: usize) -> ReplicaId {
    ReplicaId(u32::try_from(side).unwrap())
}

fn target() -> Target {
    Target::AgentType("clerk".to_owned())
}

fn execution() -> ExecutionId {
    ExecutionId::from_parts(1, 1)
}

impl Bench {
    /// So many replicas, all reached.
    pub(super) fn new(count: usize) -> Self {
        let now = Instant::now();
        let mut bench = Self {
            router: Router::new(now),
            sides: (0..count).map(|_| Side::default()).collect(),
            broker: Vec::new(),
            worker: Worker::default(),
            is_ours: true,
            disowned: Vec::new(),
            dispatches: BTreeMap::new(),
            now,
            epoch: 1,
            turn: 0,
        };
        (0..count).for_each(|side| bench.router.joined(id(side)));
        (0..count).for_each(|side| bench.connect(side));
        bench
    }

    pub(super) fn at(&self, side: usize, task: &str) -> Option<At> {
        self.sides[side].tasks.get(task).copied()
    }

    /// One of the tasks that are there like this.
    pub(super) fn pick(&self, side: usize, at: At, pick: usize) -> Option<String> {
        let found: Vec<_> = self.sides[side].tasks.iter().filter(|(_, found)| **found == at).collect();
        found.get(pick % found.len().max(1)).map(|(task, _)| (*task).clone())
    }

    pub(super) fn tasks_at(&self, side: usize) -> Vec<&str> {
        self.sides[side].tasks.keys().map(String::as_str).collect()
    }

    /// How often replicas were given a task.
    pub(super) fn dispatches(&self, task: &str) -> usize {
        self.dispatches.get(task).copied().unwrap_or_default()
    }

    /// Is nothing wanted, and nothing remembered?
    pub(super) fn is_all_over(&self) -> bool {
        self.worker.wanted.is_empty() && self.router.tasks.is_empty()
    }

    fn say(&mut self, outgoing: Outgoing) {
        self.router.said(Said { epoch: self.epoch, outgoing }, self.now);
        self.collect();
    }

    fn collect(&mut self) {
        for (ReplicaId(side), said) in self.router.take_frames() {
            let side = &mut self.sides[side as usize];
            if side.is_open {
                side.down.push_back(said);
            }
        }
        self.worker.inbox.extend(self.router.take_news());
    }

    pub(super) fn dispatch(&mut self, task: &str) {
        self.worker.wanted.insert(task.to_owned());
        let order = TaskOrder {
            task: TaskKey {
                unit: workflow::Unit { frame: 0, step: 0, index: None },
                purpose: workflow::Purpose::Work,
                attempt: 1,
            },
            target: target(),
            action: String::new(),
            input: Payload::null(),
            priority: 0,
            timeout: None,
            heartbeat_timeout: None,
        };
        let (task_id, namespace) = (task.to_owned(), "default".to_owned());
        let (step_id, traceparent) = (String::new(), String::new());
        self.say(Outgoing::Dispatch { task_id, execution: execution(), namespace, step_id, traceparent, order });
    }

    pub(super) fn cancel(&mut self, task: &str) {
        if self.worker.wanted.remove(task) {
            self.worker.held.remove(task);
            self.say(Outgoing::Cancel { task_id: task.to_owned(), reason: "" });
        }
    }

    /// Another orchestrator goes on with the tasks; it reaches nobody yet.
    pub(super) fn take_over(&mut self) {
        self.worker.inbox.clear();
        self.worker.held.clear();
        self.epoch += 1;
        self.router = Router::new(self.now);
        for side in 0..self.sides.len() {
            self.detach(side);
            self.router.joined(id(side));
        }
        for task in self.worker.wanted.clone() {
            let (execution, namespace) = (execution(), "default".to_owned());
            self.say(Outgoing::Locate { task_id: task, execution, namespace, target: target() });
        }
    }

    /// The worker takes its news in.
    pub(super) fn work(&mut self) {
        while let Some(TaskUpdate { task_id, news, needs_ack, .. }) = self.worker.inbox.pop_front() {
            let is_wanted = self.worker.wanted.contains(&task_id);
            if !matches!(news, News::Waiting) {
                self.worker.waiting.remove(&task_id);
            }
            if matches!(news, News::Requeued | News::Lost | News::Ended(_)) {
                self.worker.held.remove(&task_id);
            }
            match news {
                News::Ended(_) => {
                    self.worker.wanted.remove(&task_id);
                    if needs_ack {
                        self.say(Outgoing::Ack { task_id });
                    }
                }
                News::Lost | News::Refused if is_wanted => self.dispatch(&task_id),
                News::Waiting => drop(self.worker.waiting.insert(task_id)),
                News::HandedOver(_) | News::Begun | News::Enqueued if !is_wanted => {
                    self.say(Outgoing::Cancel { task_id, reason: "" });
                }
                News::HandedOver(delivery) => drop(self.worker.held.insert(task_id, delivery.session_id)),
                _ => {}
            }
        }
    }

    /// Time passes, second by second.
    pub(super) fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.now += Duration::from_secs(1);
            let is_ours = self.is_ours;
            self.router.advance(self.now, |_| is_ours);
            self.collect();
        }
    }

    /// Everything that is under way arrives.
    pub(super) fn settle(&mut self) {
        loop {
            let is_quiet = |side: &Side| side.down.is_empty() && side.up.is_empty();
            if self.sides.iter().all(is_quiet) && self.worker.inbox.is_empty() {
                return;
            }
            for side in 0..self.sides.len() {
                while self.listen(side) {}
                while self.hear(side) {}
            }
            self.work();
        }
    }

    /// A replica takes one frame.
    pub(super) fn listen(&mut self, side: usize) -> bool {
        let Some(said) = self.sides[side].down.pop_front() else { return false };
        match said.outgoing {
            Outgoing::Dispatch { task_id, .. } => {
                *self.dispatches.entry(task_id.clone()).or_default() += 1;
                if self.at(side, &task_id).is_none() {
                    self.sides[side].tasks.insert(task_id, At::Queued);
                } else {
                    self.tell_where(side, &task_id);
                }
            }
            Outgoing::Locate { task_id, .. } if self.at(side, &task_id).is_none() => {
                self.tell(side, &task_id, News::Unknown);
            }
            Outgoing::Locate { task_id, .. } => self.tell_where(side, &task_id),
            Outgoing::Cancel { task_id, .. } => {
                if self.at(side, &task_id).is_some_and(|at| at != At::Over) {
                    self.drop_task(side, &task_id);
                }
            }
            Outgoing::Ack { task_id } => {
                if matches!(self.at(side, &task_id), Some(At::Over | At::Enqueued)) {
                    self.drop_task(side, &task_id);
                }
            }
            Outgoing::Disown { task_id } => self.disowned.push((side, task_id)),
        }
        true
    }

    /// A task is over here, and with it what was taken from the broker.
    fn drop_task(&mut self, side: usize, task: &str) {
        self.sides[side].tasks.remove(task);
        self.broker.retain(|copy| copy.task != task || copy.taken_by != Some(side));
    }

    /// What waits in a queue is known to wait there where nothing is said.
    fn tell_where(&mut self, side: usize, task: &str) {
        match self.at(side, task) {
            Some(At::Held) => self.tell_held(side, task),
            Some(At::Enqueued) => self.tell(side, task, News::Enqueued),
            Some(At::Over) => self.tell(side, task, News::Ended(Ok(Payload::null()))),
            Some(At::Queued) | None => {}
        }
    }

    fn tell_held(&mut self, side: usize, task: &str) {
        let delivery = Delivery { session_id: format!("s{side}"), number: self.turn };
        self.tell(side, task, News::HandedOver(delivery));
    }

    pub(super) fn show_life(&mut self, side: usize, task: &str) {
        self.tell(side, task, News::Alive);
    }

    fn tell(&mut self, side: usize, task: &str, news: News) {
        let needs_ack = matches!(news, News::Ended(_));
        let update = TaskUpdate { needs_ack, ..TaskUpdate::of(execution(), task, news) };
        if self.sides[side].is_open {
            self.sides[side].up.push_back(Says::News(Box::new(update)));
        }
    }

    /// The router takes one thing that a replica has said.
    pub(super) fn hear(&mut self, side: usize) -> bool {
        let Some(says) = self.sides[side].up.pop_front() else { return false };
        let (serving, updates) = match says {
            Says::Serves(capacity) => {
                (vec![Serving { namespace: "default".to_owned(), target: target(), capacity }], Vec::new())
            }
            Says::News(update) => (Vec::new(), vec![*update]),
        };
        let is_ours = self.is_ours;
        self.router.heard(id(side), serving, updates, self.now, |_| is_ours);
        self.collect();
        true
    }

    pub(super) fn serve(&mut self, side: usize, capacity: u32) {
        self.sides[side].capacity = Some(capacity);
        self.sides[side].up.push_back(Says::Serves(capacity));
        self.hear_all(side);
    }

    fn hear_all(&mut self, side: usize) {
        while self.hear(side) {}
    }

    fn go(&mut self, side: usize, task: &str, from: At, to: At) -> bool {
        let is_so = self.at(side, task) == Some(from);
        if is_so {
            self.sides[side].tasks.insert(task.to_owned(), to);
        }
        is_so
    }

    pub(super) fn hand_over(&mut self, side: usize, task: &str) {
        if self.go(side, task, At::Queued, At::Held) {
            self.turn += 1;
            self.tell_held(side, task);
        }
    }

    pub(super) fn give_back(&mut self, side: usize, task: &str) {
        if self.go(side, task, At::Held, At::Queued) {
            self.tell(side, task, News::Requeued);
        }
    }

    pub(super) fn wait(&mut self, side: usize, task: &str) {
        self.tell(side, task, News::Waiting);
    }

    pub(super) fn finish(&mut self, side: usize, task: &str) {
        if self.go(side, task, At::Held, At::Over) {
            self.tell_where(side, task);
        }
    }

    /// A task that came some other way, as from the broker a second time.
    pub(super) fn plant(&mut self, side: usize, task: &str) {
        self.sides[side].tasks.insert(task.to_owned(), At::Queued);
    }

    /// Puts what waits into the broker; what came from there goes back.
    pub(super) fn publish(&mut self, side: usize, task: &str) {
        if self.go(side, task, At::Queued, At::Enqueued) {
            self.broker.retain(|copy| copy.task != task || copy.taken_by != Some(side));
            self.broker.push(Copy { task: task.to_owned(), taken_by: None });
            self.tell_where(side, task);
        }
    }

    /// It looks what the broker has, and remembers no more what is not there.
    pub(super) fn look(&mut self, side: usize) {
        let is_waiting = |task: &str| self.broker.iter().any(|copy| copy.task == *task && copy.taken_by.is_none());
        let gone = self.sides[side].tasks.iter().filter(|(task, at)| **at == At::Enqueued && !is_waiting(task));
        for task in gone.map(|(task, _)| task.clone()).collect::<Vec<_>>() {
            self.sides[side].tasks.remove(&task);
            self.tell(side, &task, News::Unknown);
        }
    }

    /// It loses the broker, which gives what it had taken to others.
    pub(super) fn lose_broker(&mut self, side: usize) {
        for copy in self.broker.iter_mut().filter(|copy| copy.taken_by == Some(side)) {
            copy.taken_by = None;
        }
    }

    /// Takes the oldest copy from the broker.
    pub(super) fn consume(&mut self, side: usize) {
        let Some(copy) = self.broker.iter_mut().find(|copy| copy.taken_by.is_none()) else { return };
        copy.taken_by = Some(side);
        let at = self.sides[side].tasks.entry(copy.task.clone()).or_insert(At::Queued);
        if *at == At::Enqueued {
            *at = At::Queued;
        }
    }

    /// An attempt to reach a replica succeeds: it says what it holds and what is over.
    pub(super) fn connect(&mut self, side: usize) {
        if self.sides[side].is_open {
            return;
        }
        self.sides[side].is_open = true;
        self.router.opened(id(side), self.now);
        self.collect();
        if let Some(capacity) = self.sides[side].capacity {
            self.sides[side].up.push_back(Says::Serves(capacity));
        }
        let told: Vec<_> = self.sides[side].tasks.iter().filter(|(_, at)| matches!(at, At::Held | At::Over)).collect();
        let told: Vec<_> = told.into_iter().map(|(task, _)| task.clone()).collect();
        for task in told {
            self.tell_where(side, &task);
        }
    }

    /// An attempt to reach a replica fails.
    pub(super) fn refuse(&mut self, side: usize) {
        if !self.sides[side].is_open {
            self.router.ended(id(side), self.now);
            self.collect();
        }
    }

    /// Its stream is gone; it forgets what nobody holds, the broker's aside.
    fn detach(&mut self, side: usize) {
        let Side { tasks, up, down, is_open, .. } = &mut self.sides[side];
        up.clear();
        down.clear();
        *is_open = false;
        let is_taken = |task: &str| self.broker.iter().any(|copy| copy.task == *task && copy.taken_by == Some(side));
        tasks.retain(|task, at| *at != At::Queued || is_taken(task));
    }

    pub(super) fn lose_stream(&mut self, side: usize) {
        if self.sides[side].is_open {
            self.detach(side);
            self.router.ended(id(side), self.now);
            self.collect();
        }
    }

    /// It dies, and comes back empty.
    pub(super) fn crash(&mut self, side: usize) {
        let was_open = self.sides[side].is_open;
        self.detach(side);
        self.sides[side].tasks.clear();
        self.lose_broker(side);
        if was_open {
            self.router.ended(id(side), self.now);
            self.collect();
        }
    }
}
