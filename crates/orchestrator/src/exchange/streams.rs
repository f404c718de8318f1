//! The streams: one to each replica of communication, opened again whenever it ends, with a growing pause, independent of the
//! others. What the router decides goes through here.
//!
//! A replica is silent while its lease has ended. When the lease is back the streams are opened anew, and workers say anew
//! what is out: what was to be said meanwhile is said then.
//!
//! Every choice between things that are ready is in a written order (`biased`), here and in the workers: the same history is
//! the same again, which the simulator lives on.

use std::{convert::Infallible, sync::Arc, time::Duration};

use contracts::{
    Link, Links, Replica,
    communication::v1::{
        ExchangeTasksRequest, ExchangeTasksResponse, OrchestratorEvent, task_service_client::TaskServiceClient,
    },
};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use lifecycle::{Shutdown, crash_point};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    Router, Said, Serving, TaskUpdate,
    router::ReplicaId,
    wire::{self, Unreadable},
};
use crate::{
    hash::{HashMap, HashSet},
    metrics,
    workers::{Input, Workers},
};

/// Events for one replica that may wait; beyond it everybody waits, at most [`STALLED`].
const LINE: usize = 8_192;
/// A stream that takes nothing for so long is given up: what it has goes to others.
const STALLED: Duration = Duration::from_secs(5);
/// Frames under way on one stream.
const FRAMES: usize = 16;
/// Events of one frame, and the bytes after which it is full: a frame of the largest inputs still fits a message.
const FRAME: usize = 256;
const FRAME_BYTES: usize = 2 << 20;

/// What is to be said to one replica over its present stream. Dropping it ends the stream.
type Line = mpsc::Sender<Said>;

/// What a stream reports.
enum Event {
    /// It is open.
    Opened(ReplicaId, Line),
    Heard(ReplicaId, Vec<Serving>, Vec<TaskUpdate>),
    /// It has ended, or could not be opened; there will be another attempt.
    Ended(ReplicaId),
    /// It has ended, and the replica is not wanted any more.
    Left(ReplicaId),
}

/// Exchanges tasks until the service ends.
pub(crate) async fn run(
    workers: Workers,
    communication: Links,
    outgoing: mpsc::Receiver<Vec<Said>>,
    replica_id: String,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let (events, events_in) = mpsc::channel(FRAMES);
    let (joins, joins_in) = mpsc::unbounded_channel();
    let hub = Hub {
        workers,
        communication,
        router: Router::new(Instant::now()),
        streams: HashMap::default(),
        next: 0,
        events,
        joins,
        replica_id,
    };
    // In one task: with a single replica in the same process no frame waits for another thread.
    tokio::select! {
        biased;
        () = shutdown.draining() => {}
        () = hub.run(outgoing, events_in) => {}
        () = keep_all(joins_in) => {}
    }
    Ok(())
}

/// Drives the streams, independent of whether the hub waits for a worker.
async fn keep_all(mut joins: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
    let mut streams = FuturesUnordered::new();
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            biased;
            Some(stream) = joins.recv() => streams.push(stream),
            Some(()) = streams.next(), if !streams.is_empty() => {}
        }
    }
}

/// Carries between workers, router and streams.
struct Hub {
    workers: Workers,
    communication: Links,
    router: Router,
    streams: HashMap<ReplicaId, Kept>,
    next: u32,
    events: mpsc::Sender<Event>,
    joins: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
    replica_id: String,
}

/// The stream to one replica.
struct Kept {
    address: Arc<str>,
    /// Absent while it is not open.
    line: Option<Line>,
    is_wanted: watch::Sender<bool>,
}

impl Hub {
    async fn run(mut self, mut outgoing: mpsc::Receiver<Vec<Said>>, mut events: mpsc::Receiver<Event>) {
        const TICK: Duration = Duration::from_millis(500);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.meet();
        let workers = self.workers.clone();
        let holdings = &workers.shared().holdings;
        loop {
            // All arms are cancel-safe: what a stream loses is dispatched again. What is rare comes first.
            tokio::select! {
                biased;
                () = holdings.regained.notified() => {
                    tracing::warn!("the lease of the shards had ended; the streams to communication are opened anew");
                    self.streams.values_mut().for_each(|kept| kept.line = None);
                    workers.tell_all(|| Input::Anew).await;
                }
                () = self.communication.changed() => self.meet(),
                _ = ticks.tick() => self.router.advance(Instant::now(), |id| holdings.held(id).is_some()),
                frame = outgoing.recv() => {
                    // The workers have ended.
                    let Some(frame) = frame else { return };
                    let now = Instant::now();
                    for said in frame {
                        self.router.said(said, now);
                    }
                    // However much there is to say, what is heard has its turn.
                    if let Ok(event) = events.try_recv() {
                        self.take(event);
                    }
                }
                Some(event) = events.recv() => self.take(event),
            }
            self.carry().await;
        }
    }

    /// Opens streams to new replicas; one that is gone keeps its stream until that ends, since its agents finish their tasks.
    fn meet(&mut self) {
        let replicas = self.communication.now();
        let listed: HashSet<_> = replicas.iter().map(|replica| &replica.address).collect();
        for kept in self.streams.values() {
            kept.is_wanted.send_replace(listed.contains(&kept.address));
        }
        let known: HashSet<_> = self.streams.values().map(|kept| Arc::clone(&kept.address)).collect();
        for replica in replicas.iter().filter(|replica| !known.contains(&replica.address)) {
            let id = ReplicaId(self.next);
            self.next += 1;
            let (is_wanted, wanted) = watch::channel(true);
            self.streams.insert(id, Kept { address: Arc::clone(&replica.address), line: None, is_wanted });
            self.router.joined(id);
            let stream = Stream::new(id, replica.clone(), self.replica_id.clone(), self.events.clone(), wanted);
            // Its other end is in the same task.
            let _ = self.joins.send(Box::pin(stream.keep()));
        }
    }

    fn take(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Opened(id, line) => {
                if let Some(kept) = self.streams.get_mut(&id) {
                    kept.line = Some(line);
                }
                self.router.opened(id, now);
            }
            Event::Heard(id, serving, updates) => {
                let holdings = &self.workers.shared().holdings;
                self.router.heard(id, serving, updates, now, |id| holdings.held(id).is_some());
            }
            Event::Ended(id) => {
                if let Some(kept) = self.streams.get_mut(&id) {
                    kept.line = None;
                }
                self.router.ended(id, now);
            }
            Event::Left(id) => {
                self.streams.remove(&id);
                self.router.left(id, now);
                // It may have come back meanwhile.
                self.meet();
            }
        }
    }

    /// Takes from the router what it says.
    async fn carry(&mut self) {
        for (id, said) in self.router.take_frames() {
            let Some(kept) = self.streams.get_mut(&id) else { continue };
            let Some(line) = &kept.line else { continue };
            let Err(mpsc::error::TrySendError::Full(said)) = line.try_send(said) else { continue };
            if line.send_timeout(said, STALLED).await.is_err() {
                tracing::warn!(peer.address = %kept.address, "communication takes nothing; its stream is given up");
                kept.line = None;
            }
        }
        for update in self.router.take_news() {
            self.workers.tell(update.execution, Input::Update(update)).await;
        }
    }
}

/// Keeps the stream to one replica.
struct Stream {
    id: ReplicaId,
    replica: Replica,
    client: TaskServiceClient<Link>,
    replica_id: String,
    events: mpsc::Sender<Event>,
    is_wanted: watch::Receiver<bool>,
}

/// An open stream.
struct Open {
    down: mpsc::Sender<ExchangeTasksRequest>,
    up: Streaming<ExchangeTasksResponse>,
}

impl Stream {
    fn new(
        id: ReplicaId,
        replica: Replica,
        replica_id: String,
        events: mpsc::Sender<Event>,
        is_wanted: watch::Receiver<bool>,
    ) -> Self {
        let client = TaskServiceClient::new(replica.link.clone())
            .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
        Self { id, replica, client, replica_id, events, is_wanted }
    }

    /// Opens the stream again and again, while the replica is one.
    async fn keep(mut self) {
        const SHORTEST: Duration = Duration::from_millis(50);
        const LONGEST: Duration = Duration::from_secs(5);
        let mut pause = SHORTEST;
        while *self.is_wanted.borrow() {
            let begun = Instant::now();
            let ended = match self.open().await {
                Ok(open) => self.carry(open).await,
                Err(status) => Err(status),
            };
            if begun.elapsed() > LONGEST {
                pause = SHORTEST;
            }
            let status = ended.err().unwrap_or_else(|| Status::unavailable("closed"));
            tracing::warn!(%status, peer.address = %self.replica.address, "there is no stream to communication");
            self.report(Event::Ended(self.id)).await;
            // Both arms are cancel-safe.
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                _ = self.is_wanted.wait_for(|is_wanted| !is_wanted) => {}
            }
            pause = (pause * 2).min(LONGEST);
        }
        self.report(Event::Left(self.id)).await;
    }

    async fn report(&self, event: Event) {
        // Closed only when the service ends.
        let _ = self.events.send(event).await;
    }

    async fn open(&mut self) -> Result<Open, Status> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let (down, frames) = mpsc::channel(FRAMES);
        down.try_send(wire::attach(&self.replica_id)).map_err(|_| Status::internal("the new stream is full"))?;
        let call = self.client.exchange_tasks(ReceiverStream::new(frames));
        let up = tokio::time::timeout(TIMEOUT, call).await.map_err(|_| Status::deadline_exceeded("no answer"))??;
        metrics::exchange_opened();
        Ok(Open { down, up: up.into_inner() })
    }

    /// Both directions at once: neither waits for the other, so that two full buffers cannot hold each other up.
    async fn carry(&self, Open { down, up }: Open) -> Result<(), Status> {
        let (line, said) = mpsc::channel(LINE);
        self.report(Event::Opened(self.id, line)).await;
        let refusals = down.clone();
        // Dropping the other direction is what the end of a stream means.
        tokio::select! {
            biased;
            ended = speak(said, down) => ended,
            ended = self.listen(up, refusals) => ended,
        }
    }

    async fn listen(
        &self,
        mut up: Streaming<ExchangeTasksResponse>,
        down: mpsc::Sender<ExchangeTasksRequest>,
    ) -> Result<(), Status> {
        while let Some(response) = up.message().await? {
            if !response.updates.is_empty() {
                crash_point("orchestrator.news.received");
            }
            let serving = response.serving.into_iter().filter_map(wire::serving).collect();
            let (mut updates, mut refused) = (Vec::with_capacity(response.updates.len()), Vec::new());
            for update in response.updates {
                match wire::update(update) {
                    Ok(update) => updates.push(update),
                    Err(Unreadable { result_of: Some(task_id) }) => refused.push(wire::refusal(task_id)),
                    Err(Unreadable { result_of: None }) => {}
                }
            }
            if !refused.is_empty() {
                send(&down, refused).await?;
            }
            self.report(Event::Heard(self.id, serving, updates)).await;
        }
        Ok(())
    }
}

/// Says what comes in over the line, in frames.
async fn speak(mut said: mpsc::Receiver<Said>, down: mpsc::Sender<ExchangeTasksRequest>) -> Result<(), Status> {
    let mut waiting = Vec::with_capacity(FRAME);
    while said.recv_many(&mut waiting, FRAME).await > 0 {
        let (mut events, mut bytes) = (Vec::with_capacity(waiting.len()), 0);
        for said in waiting.drain(..) {
            let size = said.outgoing.size();
            if bytes > 0 && bytes + size > FRAME_BYTES {
                send(&down, std::mem::take(&mut events)).await?;
                bytes = 0;
            }
            bytes += size;
            events.push(wire::event(said));
        }
        send(&down, events).await?;
    }
    Err(Status::cancelled("it was given up"))
}

async fn send(down: &mpsc::Sender<ExchangeTasksRequest>, events: Vec<OrchestratorEvent>) -> Result<(), Status> {
    crash_point("orchestrator.frame.before");
    match down.send_timeout(ExchangeTasksRequest { events }, STALLED).await {
        Ok(()) => Ok(()),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Status::deadline_exceeded("communication takes nothing")),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Status::unavailable("closed by communication")),
    }
}
