//! What everybody in a history shares: chance, time, what happened so far, and the first thing that was wrong.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use domain::{Clock, Timestamp};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

/// What the simulated world does wrong, so that a test can see that it is found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// The store appends without looking at epochs.
    NoEpochs,
    /// The store says that it has committed, and has not.
    LostCommits,
    /// The store changes a byte of an event.
    ChangedEvents,
    /// The store gives a shard away whose lease has not ended, under the same epoch.
    TwoOwners,
    /// Communication loses tasks that it was given, and says that the broker has them.
    LostTasks,
}

/// How likely what goes wrong, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    /// A call of the store is slow.
    pub(super) slow: f64,
    /// It fails.
    pub(super) fails: f64,
    /// It happens, and its answer is lost.
    pub(super) unanswered: f64,
    /// A replica ends at a boundary of a commit.
    pub(super) crash: f64,
    /// A frame between an orchestrator and communication is late.
    pub(super) late: f64,
    /// A stream breaks at a frame.
    pub(super) cut: f64,
    /// An update is told twice.
    pub(super) twice: f64,
    /// An agent loses its session at a task.
    pub(super) lost_session: f64,
    /// Agents of a kind are away.
    pub(super) away: f64,
    /// A task takes its way through the message broker.
    pub(super) broker: f64,
    /// The store gives shards away that are held, under the same epoch. Only where it is sabotaged.
    pub(super) theft: f64,
}

/// The ground of one history.
pub(super) struct Ground {
    dice: Mutex<ChaCha8Rng>,
    begun: Instant,
    trouble: Mutex<Trouble>,
    told: Mutex<Vec<String>>,
    is_told: bool,
    breach: Mutex<Option<String>>,
    pub(super) sabotage: Sabotage,
    pub(super) seed: u64,
}

impl Ground {
    pub(super) fn new(seed: u64, sabotage: Sabotage, is_told: bool) -> Arc<Self> {
        Arc::new(Self {
            dice: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            begun: Instant::now(),
            trouble: Mutex::default(),
            told: Mutex::default(),
            is_told,
            breach: Mutex::default(),
            sabotage,
            seed,
        })
    }

    /// The dice. Everybody throws the same ones: the order is that of the history.
    pub(super) fn dice(&self) -> MutexGuard<'_, ChaCha8Rng> {
        self.dice.lock().unwrap()
    }

    pub(super) fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.dice().random_bool(probability)
    }

    /// One of so many.
    pub(super) fn one_of(&self, count: usize) -> usize {
        self.dice().random_range(0..count)
    }

    /// A while, in milliseconds.
    pub(super) fn while_of(&self, millis: Range<u64>) -> Duration {
        Duration::from_millis(self.dice().random_range(millis))
    }

    pub(super) fn trouble(&self) -> Trouble {
        *self.trouble.lock().unwrap()
    }

    pub(super) fn set_trouble(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }

    /// Adds a line to the history: when, who, what.
    pub(super) fn tell(&self, who: impl fmt::Display, what: impl FnOnce() -> String) {
        if self.is_told {
            let millis = self.begun.elapsed().as_millis();
            self.told.lock().unwrap().push(format!("{millis:>7} ms  {who:<12} {}", what()));
        }
    }

    /// Something is wrong that must never be. The first counts.
    pub(super) fn breach(&self, what: impl FnOnce() -> String) {
        let mut breach = self.breach.lock().unwrap();
        if breach.is_none() {
            *breach = Some(what());
        }
    }

    pub(super) fn breached(&self) -> Option<String> {
        self.breach.lock().unwrap().clone()
    }

    pub(super) fn told(&self) -> String {
        self.told.lock().unwrap().join("\n")
    }

    /// A clock of one replica.
    pub(super) fn clock(self: &Arc<Self>) -> Arc<ReplicaClock> {
        Arc::new(ReplicaClock { begun: self.begun, offset: AtomicI64::new(0) })
    }
}

/// The wall clock of a replica: the one time of the history, and jumps.
#[derive(Debug)]
pub(super) struct ReplicaClock {
    begun: Instant,
    /// In milliseconds.
    offset: AtomicI64,
}

impl ReplicaClock {
    pub(super) fn jump(&self, millis: i64) {
        self.offset.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ReplicaClock {
    fn now(&self) -> Timestamp {
        const BASE: i64 = 1_700_000_000_000;
        let offset = self.offset.load(Ordering::SeqCst);
        let since = i64::try_from(self.begun.elapsed().as_micros()).unwrap();
        Timestamp::from_micros(BASE * 1_000 + offset * 1_000 + since)
    }
}
