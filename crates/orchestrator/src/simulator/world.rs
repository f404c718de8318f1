//! The world of one history: the replicas and their lives, and what befalls them.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use contracts::Link;
use domain::WorkflowId;
use futures::future::BoxFuture;
use lifecycle::{Shutdown, Tasks};
use rand::Rng;
use tokio::sync::oneshot;
use workflow::Invariant;

use super::{
    communication::Communication,
    connection::Connection,
    database::Database,
    doors::Doors,
    ground::{Ground, ReplicaClock, Trouble},
    process::Process,
    registry::Registry,
};
use crate::{Core, Peers, Settings, api::Api, app::App, error::OrchestratorError, store::Store};

/// How long shards belong to a replica that is not heard of.
const LEASE: Duration = Duration::from_secs(2);
/// How long a replica may take to leave.
const GRACE: Duration = Duration::from_secs(5);
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(12);

/// One history's world.
pub(super) struct World {
    pub(super) ground: Arc<Ground>,
    pub(super) database: Arc<Database>,
    pub(super) communication: Arc<Communication>,
    registry: Link,
    doors: Doors,
    settings: Settings,
    /// Is there to be one replica at a time, which takes everything when it starts?
    pub(super) is_alone: bool,
    seats: Mutex<Vec<Seat>>,
}

/// The place of a replica, which may have several lives.
#[derive(Default)]
struct Seat {
    lives: u32,
    life: Option<Life>,
}

/// One life of a replica.
#[derive(Clone)]
struct Life {
    process: Process,
    edge: Shutdown,
    shutdown: Shutdown,
    clock: Arc<ReplicaClock>,
    app: Arc<OnceLock<Arc<App>>>,
    /// Was it asked to go?
    is_leaving: Arc<AtomicBool>,
}

impl Life {
    fn app(&self) -> Option<&Arc<App>> {
        self.app.get().filter(|_| !self.process.is_over())
    }
}

impl World {
    pub(super) fn new(ground: &Arc<Ground>) -> Arc<Self> {
        let database = Database::new(ground);
        let (replicas, posts, shards, workers, is_alone) = {
            let mut dice = ground.dice();
            let is_alone = dice.random_bool(0.15);
            let replicas = if is_alone { 2 } else { [1, 2, 2, 2, 3][dice.random_range(0..5)] };
            (replicas, dice.random_range(1..=2), dice.random_range(1..=6), dice.random_range(1..=2), is_alone)
        };
        let settings = Settings {
            shards,
            workers,
            queue: 64,
            batch: 8,
            ended_kept: 2,
            lease: LEASE,
            take_over: Some(is_alone),
            sweep_interval: Duration::from_secs(2),
            command_timeout: Duration::from_secs(5),
            voter_grace: Duration::from_millis(500),
            history_retention: Duration::from_millis(500),
            ..Settings::default()
        };
        Arc::new(Self {
            communication: Communication::new(ground, &database, posts),
            registry: Registry::link(ground),
            doors: Doors::new(ground),
            database,
            settings,
            is_alone,
            seats: Mutex::new((0..replicas).map(|_| Seat::default()).collect()),
            ground: Arc::clone(ground),
        })
    }

    /// A way to the database without trouble.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        let process = Process::new("nobody".to_owned(), &self.ground);
        Arc::new(Connection { ground: Arc::clone(&self.ground), database: Arc::clone(&self.database), process })
    }

    fn lives(&self) -> Vec<Life> {
        self.seats.lock().unwrap().iter().filter_map(|seat| seat.life.clone()).collect()
    }

    fn alive(&self) -> Vec<Life> {
        self.lives().into_iter().filter(|life| !life.process.is_over()).collect()
    }

    fn any(&self) -> Option<Life> {
        let alive = self.alive();
        (!alive.is_empty()).then(|| alive[self.ground.one_of(alive.len())].clone())
    }

    pub(super) fn apps(&self) -> Vec<Arc<App>> {
        let serves = |life: &&Life| !life.shutdown.is_draining();
        self.lives().iter().filter(serves).filter_map(|life| life.app().cloned()).collect()
    }

    /// Starts the replicas that are not there.
    pub(super) fn boot(&self) {
        let mut seats = self.seats.lock().unwrap();
        for number in 0..seats.len() {
            let is_awake = |seat: &Seat| {
                seat.life.as_ref().is_some_and(|life| !life.process.is_over() && !life.process.is_frozen())
            };
            if self.is_alone && seats.iter().any(is_awake) {
                return;
            }
            let seat = &mut seats[number];
            if seat.life.as_ref().is_none_or(|life| life.process.is_over()) {
                seat.lives += 1;
                seat.life = Some(self.begin(number, seat.lives));
            }
        }
    }

    fn begin(&self, number: usize, lives: u32) -> Life {
        let process = Process::new(format!("replica-{number}.{lives}"), &self.ground);
        self.ground.tell(&process, || "starts".to_owned());
        let store: Arc<dyn Store> = Arc::new(Connection {
            ground: Arc::clone(&self.ground),
            database: Arc::clone(&self.database),
            process: process.clone(),
        });
        let (shutdown, runner) = (Shutdown::new(), process.clone());
        let tasks = Tasks::run_by(shutdown.clone(), move |task| runner.spawn(task));
        let clock = self.ground.clock();
        let edge = Shutdown::new();
        let life =
            Life { process, edge: edge.clone(), shutdown, clock, app: Arc::default(), is_leaving: Arc::default() };
        // In the order of age, as the ids of processes are.
        let replica_id = format!("rep_{lives:03}_{number}");
        let core =
            Core { store: Arc::clone(&store), redis: None, replica_id: replica_id.clone(), clock: life.clock.clone() };
        let (doors, cluster) = (self.doors.clone(), Some(self.doors.cluster(&replica_id)));
        let peers = Peers { registry: self.registry.clone(), communication: self.communication.links(), cluster };
        let (settings, is_alone, ground) = (self.settings.clone(), self.is_alone, Arc::clone(&self.ground));
        let own = life.clone();
        life.process.spawn(async move {
            match core.run(settings, peers, &tasks, edge).await {
                Ok(app) => {
                    let api = Api::new(Arc::clone(&app));
                    doors.open(&replica_id, own.process.clone(), api);
                    drop(own.app.set(app));
                }
                Err(error) => return own.process.kill(&format!("cannot start: {}", errors::chain(&error))),
            }
            ground.tell(&own.process, || "serves".to_owned());
            let ended = tasks.join(GRACE).await;
            if let Err(failed) = ended
                && !(is_alone && failed.task == "shard keeper")
            {
                ground.breach(|| format!("{}: {failed}", own.process));
            } else if !own.is_leaving.load(Ordering::SeqCst) && !is_alone {
                ground.breach(|| format!("{} stopped by itself", own.process));
            }
            let _ = store.leave(&replica_id).await;
            own.process.kill("it has left");
        });
        life
    }

    /// One thing befalls somebody.
    pub(super) fn misfortune(self: &Arc<Self>) {
        let which = self.ground.dice().random_range(0..20);
        let Some(life) = self.any() else { return self.boot() };
        match which {
            0 | 1 => life.process.kill("out of the blue"),
            2..5 => life.process.kill_after(self.ground.dice().random_range(1..300)),
            5..8 => self.freeze(&life),
            8 => {
                life.is_leaving.store(true, Ordering::SeqCst);
                self.ground.tell(&life.process, || "is asked to leave".to_owned());
                life.edge.drain();
                let (shutdown, pause) = (life.shutdown.clone(), self.ground.while_of(0..3_000));
                Self::beside(async move {
                    tokio::time::sleep(pause).await;
                    shutdown.drain();
                });
            }
            9 | 10 => {
                let millis = self.ground.dice().random_range(-5_000..20_000);
                self.ground.tell(&life.process, || format!("its clock jumps by {millis} ms"));
                life.clock.jump(millis);
            }
            11 => self.communication.restart(self.ground.one_of(self.communication.count())),
            12 => self.communication.hang_up(self.ground.one_of(self.communication.count())),
            13 | 14 => self.communication.staff(),
            15 => self.outage(),
            _ => self.boot(),
        }
    }

    fn freeze(&self, life: &Life) {
        life.process.freeze();
        let (process, pause) = (life.process.clone(), self.ground.while_of(50..6_000));
        Self::beside(async move {
            tokio::time::sleep(pause).await;
            process.thaw();
        });
    }

    /// The database is away for a while.
    fn outage(&self) {
        let before = self.ground.trouble();
        self.ground.tell("database", || "is away".to_owned());
        self.ground.set_trouble(Trouble { fails: 0.9, ..before });
        let (ground, pause) = (Arc::clone(&self.ground), self.ground.while_of(100..5_000));
        Self::beside(async move {
            tokio::time::sleep(pause).await;
            // Unless the trouble is over altogether.
            if ground.trouble().fails > 0.0 {
                ground.set_trouble(before);
            }
        });
    }

    /// Does something that is no part of any replica.
    #[expect(clippy::disallowed_methods, reason = "it ends with the history, as the runtime does")]
    pub(super) fn beside(work: impl Future<Output = ()> + Send + 'static) {
        drop(tokio::spawn(work));
    }

    /// Nothing goes wrong any more.
    pub(super) fn calm(&self) {
        self.ground.tell("all", || "trouble is over".to_owned());
        self.ground.set_trouble(Trouble::default());
        for life in self.lives() {
            life.process.kill_after(u64::MAX / 2);
            life.process.thaw();
        }
        self.communication.staff();
        self.boot();
    }

    /// What holds at any time.
    pub(super) fn look(&self) {
        for life in self.alive() {
            let Some(app) = life.app() else { continue };
            for invariant in Invariant::ALL {
                if app.workers.shared().violations.count(invariant) > 0 {
                    self.ground.breach(|| format!("{}: {} has counted it", invariant.as_str(), life.process));
                }
            }
        }
    }

    /// Asks any replica that is there; nothing where none is, or it does not answer.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(Arc<App>) -> BoxFuture<'static, Result<T, OrchestratorError>>,
    ) -> Option<Result<T, OrchestratorError>> {
        let life = self.any()?;
        let app = Arc::clone(life.app()?);
        let (reply, answer) = oneshot::channel();
        let work = act(app);
        life.process.spawn(async move {
            // Who asked may have lost patience.
            let _ = reply.send(work.await);
        });
        tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()
    }

    /// How many lives all replicas had.
    pub(super) fn lived(&self) -> u64 {
        self.seats.lock().unwrap().iter().map(|seat| u64::from(seat.lives)).sum()
    }

    /// The id of a workflow.
    pub(super) fn workflow_id(number: usize) -> WorkflowId {
        WorkflowId::from_parts(1, number as u128)
    }
}
