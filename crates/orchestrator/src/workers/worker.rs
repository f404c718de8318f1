//! The loop of one worker.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use domain::{ExecutionId, Timestamp};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use lifecycle::Shutdown;
use tokio::{sync::mpsc, time::Instant};
use tracing::{Instrument as _, Span};
use workflow::invariant::knows_what_is_owed;

use super::{
    Input, Live, MAX_IN_FLIGHT, Shared,
    batch::{After, Open},
    chores::{Chore, Lanes, Turns},
    errands::hand_out,
    leaving::Leaving,
    lock_keeper::Numbered,
    pruning::Pruning,
    timers::Timer,
    voters::Wanted,
    writer::{self, Job, Outcome},
};
use crate::{
    app::{Loaded, load},
    error::OrchestratorError,
    exchange::{Outgoing, Said},
    hash::HashMap,
    spans,
};

/// Events that may wait for a free place in flight; beyond it nothing more is decided.
const MOST_OPEN: usize = 8_192;
/// Events that go to the exchange at once.
const FRAME: usize = 256;
/// Before a log that could not be read is read again.
const RELOAD_AFTER: Duration = Duration::from_secs(1);

/// The channels of a worker.
pub(super) struct Ends {
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) committed: mpsc::Receiver<Outcome>,
    pub(super) frames: mpsc::Sender<Vec<Said>>,
    pub(super) searches: mpsc::Sender<Wanted>,
    pub(super) chores: Lanes<mpsc::Sender<Chore>>,
    pub(super) locks: mpsc::Sender<Numbered>,
}

/// What a read of a log has come to, with its number.
type LoadResult = (ExecutionId, u64, Result<Option<Loaded>, OrchestratorError>);

/// An execution that is being read from the log.
#[derive(Default)]
pub(super) struct Loading {
    /// The number of the read: what an older one says, whose shard was lost meanwhile, is old.
    number: u64,
    /// What waits for it.
    waiting: Vec<Input>,
}

/// The only writer of its share of the shards.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    inputs: mpsc::Receiver<Input>,
    /// Until when everything that had come in is read: no result is too late that was here in time.
    pub(super) read_until: Timestamp,
    /// Inputs that were here at `unread_since` and are not read yet.
    unread: usize,
    unread_since: Timestamp,
    pub(super) jobs: mpsc::Sender<Job>,
    committed: mpsc::Receiver<Outcome>,
    frames: mpsc::Sender<Vec<Said>>,
    pub(super) searches: mpsc::Sender<Wanted>,
    /// All that have not ended, and those whose end is not committed.
    pub(super) live: HashMap<ExecutionId, Live>,
    /// Some that have ended, in the order of `ended_order`.
    pub(super) ended: HashMap<ExecutionId, Live>,
    pub(super) ended_order: VecDeque<ExecutionId>,
    pub(super) loading: HashMap<ExecutionId, Loading>,
    /// Numbers reads.
    reads: u64,
    loads: FuturesUnordered<BoxFuture<'static, LoadResult>>,
    pub(super) timers: BTreeSet<(Timestamp, ExecutionId, Timer)>,
    pub(super) open: Open,
    pub(super) in_flight: VecDeque<After>,
    /// The number of the open batch.
    pub(super) batch: u64,
    pub(super) generation: u64,
    /// How often in a row the database has refused the events of an execution.
    pub(super) refusals: HashMap<ExecutionId, u32>,
    runner: Lanes<mpsc::Sender<Chore>>,
    pub(super) pruning: Pruning,
    /// What the runner is to do, and of that what communication is to pass on.
    pub(super) chores: Turns,
    pub(super) mails: Turns,
    lock_keeper: mpsc::Sender<Numbered>,
    /// What the keeper of locks is to do.
    pub(super) lock_orders: VecDeque<Numbered>,
    /// Numbers waits for locks.
    pub(super) waits: u64,
    /// Executions to look after before all are looked at again.
    pub(super) round: VecDeque<ExecutionId>,
    /// Executions whose state is looked at in one of the next sweeps.
    pub(super) unchecked: VecDeque<ExecutionId>,
    /// How many children it has of each depth that have not ended.
    pub(super) children: HashMap<u32, usize>,
    /// What communication is to be told.
    pub(super) outbox: VecDeque<Said>,
    /// Shards that are being given up.
    pub(super) leaving: Vec<Leaving>,
}

impl Worker {
    pub(super) fn new(index: usize, shared: Arc<Shared>, ends: Ends) -> Self {
        let now = shared.now();
        Self {
            index,
            shared,
            inputs: ends.inputs,
            read_until: now,
            unread: 0,
            unread_since: now,
            jobs: ends.jobs,
            committed: ends.committed,
            frames: ends.frames,
            searches: ends.searches,
            runner: ends.chores,
            pruning: Pruning::default(),
            chores: Turns::default(),
            mails: Turns::default(),
            lock_keeper: ends.locks,
            lock_orders: VecDeque::new(),
            waits: 0,
            round: VecDeque::new(),
            unchecked: VecDeque::new(),
            children: HashMap::default(),
            live: HashMap::default(),
            ended: HashMap::default(),
            ended_order: VecDeque::new(),
            loading: HashMap::default(),
            reads: 0,
            loads: FuturesUnordered::new(),
            timers: BTreeSet::new(),
            open: Open::default(),
            in_flight: VecDeque::new(),
            batch: 0,
            generation: 0,
            refusals: HashMap::default(),
            outbox: VecDeque::new(),
            leaving: Vec::new(),
        }
    }

    /// Runs until a drain, then finishes what is in flight.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let batch = self.shared.settings.batch;
        let mut inbox = Vec::with_capacity(batch);
        let mut is_draining = false;
        let (frames, runner, locks) = (self.frames.clone(), self.runner.clone(), self.lock_keeper.clone());
        loop {
            self.flush().await;
            self.finish_leaving();
            if is_draining && self.in_flight.is_empty() && self.open.is_empty() {
                for order in std::mem::take(&mut self.lock_orders) {
                    // The keeper goes on until the last worker has ended. Not waited for: it may wait for this one.
                    let _ = self.lock_keeper.try_send(order);
                }
                return Ok(());
            }
            let has_room = self.has_room() && !is_draining;
            let wait = self.until_due();
            // All arms are cancel-safe. Commits come first: they free memory and answer callers.
            tokio::select! {
                biased;
                Some(outcome) = self.committed.recv() => self.committed(outcome),
                Ok(permit) = frames.reserve(), if !self.outbox.is_empty() => {
                    permit.send(self.next_frame());
                }
                Ok(permit) = locks.reserve(), if !self.lock_orders.is_empty() => self.order_locks(permit, &locks),
                Ok(permit) = runner.calls.reserve(), if !self.chores.is_empty() => {
                    hand_out(&mut self.chores, &self.live, permit, &runner.calls);
                }
                Ok(permit) = runner.mails.reserve(), if !self.mails.is_empty() => {
                    hand_out(&mut self.mails, &self.live, permit, &runner.mails);
                }
                Some((id, number, loaded)) = self.loads.next(), if !self.loads.is_empty() => {
                    if self.loading.get(&id).is_some_and(|loading| loading.number == number) {
                        self.loaded(id, loaded);
                    }
                }
                () = std::future::ready(()), if has_room && !inbox.is_empty() => {}
                taken = self.inputs.recv_many(&mut inbox, batch), if has_room => {
                    is_draining |= taken == 0;
                    self.unread = self.unread.saturating_sub(taken);
                    // They are taken from its end.
                    inbox.reverse();
                }
                () = wait, if has_room => {}
                () = shutdown.draining(), if !is_draining => is_draining = true,
            }
            if has_room && !inbox.is_empty() {
                self.take_all(&mut inbox);
            }
            // Where nothing more may be decided, time decides nothing either.
            if has_room && inbox.is_empty() && !is_draining {
                self.look_at_inputs();
                self.fire_due();
            }
        }
    }

    /// May more be decided? What is open is to fit into one commit.
    fn has_room(&self) -> bool {
        self.open.events < MOST_OPEN && self.open.bytes < writer::MOST_BYTES
    }

    /// Decides what has come in, from the end, as far as there is room.
    fn take_all(&mut self, inbox: &mut Vec<Input>) {
        let begun = Instant::now();
        while self.has_room()
            && let Some(input) = inbox.pop()
        {
            self.take(input);
        }
        crate::metrics::decided(begun.elapsed());
    }

    /// Finds out until when everything is read. Under load there is always something to read; what matters is since when.
    fn look_at_inputs(&mut self) {
        if self.unread > 0 {
            return;
        }
        let now = self.shared.now();
        self.unread = self.inputs.len();
        self.read_until = if self.unread == 0 { now } else { self.unread_since };
        self.unread_since = now;
    }

    /// Takes from the outbox what goes out at once.
    fn next_frame(&mut self) -> Vec<Said> {
        let count = self.outbox.len().min(FRAME);
        self.outbox.drain(..count).collect()
    }

    /// Waits until the next timer is due.
    fn until_due(&self) -> impl Future<Output = ()> + use<> {
        let due = self.timers.first().map(|(due, ..)| due.since(self.shared.now()));
        async move {
            match due {
                // Not zero: the timers' clock is finer than the runtime's, and an early wake-up would come again at once.
                Some(due) => tokio::time::sleep(due.max(Duration::from_millis(1))).await,
                None => std::future::pending().await,
            }
        }
    }

    fn take(&mut self, input: Input) {
        if input.execution().is_some_and(|id| !self.writes(id)) {
            return turn_away(input);
        }
        match input {
            Input::Adopt { held, recovered } => self.take_shards(&held, recovered),
            Input::GiveUp { shards, is_lost, done } => self.give_up(&shards, is_lost, done),
            Input::Start(starting) => self.start(*starting),
            Input::Command { id, namespace, command, reply } => self.command(id, namespace, command, reply),
            Input::Get { id, namespace, with_steps, reply } => self.get(id, namespace, with_steps, reply),
            Input::Explain { id, namespace, places, reply } => self.explain(id, namespace, places, reply),
            Input::Await { id, ended } => self.wait_for_end(id, ended),
            Input::Update(update) => self.update(update),
            Input::Settle { id, task_id } => self.settle(id, task_id),
            Input::Voters { id, unit, found } => self.voters(id, unit, found),
            Input::Errand { id, task, answer } => self.errand_answered(id, task, answer),
            Input::Again { id, task } => self.errand_again(id, task),
            Input::Child { report, reply } => self.child(report, reply),
            Input::Unwanted { id } => self.unwanted(id),
            Input::Review { id } => self.review(id),
            Input::Granted { id, holder, number } => self.granted(id, holder, number),
            Input::Locks { rows } => self.compare_locks(rows),
            Input::Anew => self.locate_all(),
            Input::Sweep { known } => self.sweep(known),
            Input::Census { known, reply } => drop(reply.send(self.census(&known))),
            Input::Compare { replayed, reply } => drop(reply.send(self.compare(&replayed))),
        }
    }

    /// Takes an execution in that the log has, and does what it owes. What it has out may be out already.
    pub(super) fn adopt(&mut self, id: ExecutionId, loaded: Loaded) {
        let Some(held) = self.shared.holdings.held(id) else { return };
        // A commit that was not heard of may have written what it has.
        self.shared.watchers.committed(id, loaded.execution.last_sequence());
        if let Some(breach) = &loaded.breach {
            self.shared.violations.note(id, breach);
        }
        let live = Live::new(loaded, held, self.batch);
        let effects = live.execution.outstanding();
        self.insert(id, live);
        for effect in effects {
            self.perform_again(id, effect);
        }
        self.arm(id);
        if let Some(live) = self.live.get(&id) {
            self.shared.violations.check(id, knows_what_is_owed(self.lost(id, live).count()));
        }
    }

    pub(super) fn insert(&mut self, id: ExecutionId, live: Live) {
        self.count_child(live.execution.parent());
        if let Some(old) = self.live.insert(id, live) {
            self.discount_child(&old);
        } else {
            let count = self.shared.live.fetch_add(1, Ordering::Relaxed) + 1;
            crate::metrics::live(count);
        }
    }

    /// Takes an execution out of memory, with its timers.
    pub(super) fn remove(&mut self, id: ExecutionId) -> Option<Live> {
        let mut live = self.live.remove(&id)?;
        let count = self.shared.live.fetch_sub(1, Ordering::Relaxed) - 1;
        crate::metrics::live(count);
        self.disarm_all(id, &mut live);
        self.discount_child(&live);
        Some(live)
    }

    /// Reads an execution from the log; `input` waits for it.
    pub(super) fn load(&mut self, id: ExecutionId, input: Option<Input>) {
        if let Some(loading) = self.loading.get_mut(&id) {
            loading.waiting.extend(input);
            return;
        }
        let span = match &input {
            Some(Input::Start(starting)) => spans::load(id, Some(&starting.start.traceparent)),
            _ => spans::load(id, None),
        };
        self.begin_load(id, Duration::ZERO, span, input.into_iter().collect());
    }

    /// Reads an execution from the log, a while from now.
    pub(super) fn load_after(&mut self, id: ExecutionId, pause: Duration) {
        if !self.loading.contains_key(&id) {
            self.begin_load(id, pause, spans::load(id, None), Vec::new());
        }
    }

    fn begin_load(&mut self, id: ExecutionId, after: Duration, span: Span, waiting: Vec<Input>) {
        self.reads += 1;
        let number = self.reads;
        self.loading.insert(id, Loading { number, waiting });
        let shared = Arc::clone(&self.shared);
        let read = async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            let timeout = shared.settings.command_timeout;
            let loaded = tokio::time::timeout(timeout, load(shared.store.as_ref(), &shared.plans, id)).await;
            if let Ok(Ok(Some(loaded))) = &loaded {
                spans::loaded(&loaded.execution);
            }
            (id, number, loaded.unwrap_or(Err(OrchestratorError::TimedOut)))
        };
        self.loads.push(read.instrument(span).boxed());
    }

    fn loaded(&mut self, id: ExecutionId, loaded: Result<Option<Loaded>, OrchestratorError>) {
        let waiting = self.loading.remove(&id).unwrap_or_default().waiting;
        if !self.writes(id) {
            return waiting.into_iter().for_each(turn_away);
        }
        match loaded {
            // It came with its shard meanwhile: what was read is older.
            Ok(_) if self.live.contains_key(&id) => waiting.into_iter().for_each(|input| self.take(input)),
            Ok(Some(loaded)) => {
                self.adopt(id, loaded);
                for input in waiting {
                    self.take(input);
                }
                self.retire(id);
            }
            Ok(None) => {
                for input in waiting {
                    match input {
                        Input::Start(starting) => self.begin(*starting),
                        // What follows the start finds it.
                        input if self.live.contains_key(&id) => self.take(input),
                        input => self.refuse(input, || OrchestratorError::ExecutionNotFound(id)),
                    }
                }
            }
            Err(error) => {
                tracing::error!(error = errors::chain(&error), execution.id = %id, "cannot read an execution from its log");
                // Callers hear of it; results wait, or the agent's work would be lost.
                let (results, calls): (Vec<_>, Vec<_>) = waiting
                    .into_iter()
                    .partition(|input| matches!(input, Input::Update(_) | Input::Settle { .. } | Input::Await { .. }));
                for input in calls {
                    self.refuse(input, || OrchestratorError::NotCommitted);
                }
                if error.is_transient() {
                    self.begin_load(id, RELOAD_AFTER, spans::load(id, None), results);
                }
            }
        }
    }

    /// Reads an execution no more, whose shard is another's.
    pub(super) fn stop_loading(&mut self, id: ExecutionId) {
        for input in self.loading.remove(&id).unwrap_or_default().waiting {
            turn_away(input);
        }
    }

    fn refuse(&mut self, input: Input, why: impl Fn() -> OrchestratorError) {
        // A caller that has gone needs no answer.
        match input {
            Input::Command { reply, .. } | Input::Get { reply, .. } => drop(reply.send(Err(why()))),
            Input::Explain { reply, .. } => drop(reply.send(Err(why()))),
            Input::Start(starting) => drop(starting.reply.send(Err(why()))),
            Input::Child { reply, .. } => drop(reply.send(Err(why()))),
            Input::Update(update) => self.acknowledge_now(&update),
            Input::Settle { id, task_id } => self.say(id, Outgoing::Ack { task_id }),
            Input::Await { .. }
            | Input::Voters { .. }
            | Input::Errand { .. }
            | Input::Again { .. }
            | Input::Unwanted { .. }
            | Input::Review { .. }
            | Input::Granted { .. }
            | Input::Locks { .. }
            | Input::Adopt { .. }
            | Input::GiveUp { .. }
            | Input::Anew
            | Input::Sweep { .. }
            | Input::Census { .. }
            | Input::Compare { .. } => {}
        }
    }

    /// Is the shard of the execution held?
    pub(super) fn writes(&self, id: ExecutionId) -> bool {
        self.shared.holdings.held(id).is_some()
    }

    pub(super) fn has_place_in_flight(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
    }
}

/// Another replica writes the shard, or will in a moment. Callers go there; what communication says, it says there as well.
fn turn_away(input: Input) {
    // A caller that has gone needs no answer.
    match input {
        Input::Command { reply, .. } | Input::Get { reply, .. } => drop(reply.send(Err(OrchestratorError::Moved))),
        Input::Explain { reply, .. } => drop(reply.send(Err(OrchestratorError::Moved))),
        Input::Start(starting) => drop(starting.reply.send(Err(OrchestratorError::Moved))),
        Input::Child { reply, .. } => drop(reply.send(Err(OrchestratorError::Moved))),
        _ => {}
    }
}
