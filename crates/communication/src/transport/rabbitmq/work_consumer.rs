//! From the work queues to the sessions here: those that somebody takes from are consumed, as far as there is credit. The
//! broker is told of a task when it is over.
//!
//! And what was put there is looked for: a queue that is empty at two looks has lost what nobody else has.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use lapin::options::BasicQosOptions;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    RabbitMq,
    consumers::{Arrived, Consumers, first_few},
    link::{self, Found, Link, LinkError, NO_ANSWER},
    properties,
    refused::Refused,
};
use crate::app::QueueKey;

/// How often it is seen to that the connection is alive, and what is left in queues that are crowded here.
const EVERY: Duration = Duration::from_millis(50);
/// Pause between connections.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two looks at a queue of which tasks are remembered: far longer than a task is on its way from there, so that by the
/// second whoever has it says so.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
/// Of such queues, how many are looked at at once.
const MOST_LOOKS: usize = 8;

/// Until `over` turns true.
pub(super) async fn run(transport: Arc<RabbitMq>, mut over: watch::Receiver<bool>) {
    let mut refused = Refused::new();
    loop {
        let ended = consume(&transport, &mut refused, &mut over).await;
        // The broker gives to others what is not acknowledged.
        if *over.borrow() {
            return;
        }
        transport.work.disconnected();
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "no tasks come from the broker now");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Cancel-safe.
async fn ended(over: &mut watch::Receiver<bool>) {
    // Without its sender it is over too.
    let _ = over.wait_for(|over| *over).await;
}

async fn consume(
    transport: &RabbitMq,
    refused: &mut Refused<Arc<QueueKey>>,
    over: &mut watch::Receiver<bool>,
) -> Result<(), LinkError> {
    let link = tokio::select! {
        link = Link::open(transport, "consumes tasks") => link?,
        () = ended(over) => return Ok(()),
    };
    let (consumers, looks) = (Consumers::new(), Looks::default());
    let mut consuming = Consuming { transport, link, consumers, looks, refused };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    consuming.follow().await?;
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            arrived = consuming.consumers.arrived() => consuming.receive(arrived?).await?,
            () = transport.work.changed.notified() => consuming.follow().await?,
            () = transport.work.settled.notified() => consuming.tell().await?,
            _ = ticks.tick() => consuming.look_after().await?,
            () = ended(over) => {
                consuming.tell().await?;
                return consuming.link.close().await;
            }
        }
    }
}

/// How much a consumer may have here.
struct Allowed {
    /// What was wanted.
    credit: u32,
    /// What the broker was told, which counts only what this consumer gets.
    window: u16,
}

/// Looks at the queues of which tasks are remembered, over one connection.
#[derive(Default)]
struct Looks {
    due: VecDeque<Arc<QueueKey>>,
    /// When the last round has begun.
    begun: Option<Instant>,
    /// Queues that were empty or not there, and when that was seen last.
    empty: HashMap<Arc<QueueKey>, Instant>,
}

impl Looks {
    /// Those that are to be looked at now: a few, in turn.
    fn next(&mut self, remembered: impl FnOnce() -> Vec<Arc<QueueKey>>) -> Vec<Arc<QueueKey>> {
        if self.due.is_empty() && self.begun.is_none_or(|begun| begun.elapsed() >= BETWEEN_LOOKS) {
            self.begun = Some(Instant::now());
            self.due = remembered().into();
            let due: HashSet<_> = self.due.iter().collect();
            self.empty.retain(|key, _| due.contains(key));
        }
        self.due.drain(..self.due.len().min(MOST_LOOKS)).collect()
    }

    /// Since when a queue is empty, where it was before.
    fn saw(&mut self, key: Arc<QueueKey>, at: Instant, is_empty: bool) -> Option<Instant> {
        if is_empty { self.empty.insert(key, at) } else { self.empty.remove(&key).and(None) }
    }
}

/// One connection's consumers.
struct Consuming<'a> {
    transport: &'a RabbitMq,
    link: Link<'a>,
    consumers: Consumers<Arc<QueueKey>, Allowed>,
    looks: Looks,
    refused: &'a mut Refused<Arc<QueueKey>>,
}

impl Consuming<'_> {
    /// Consumes what is wanted, and no more.
    async fn follow(&mut self) -> Result<(), LinkError> {
        let wanted = self.transport.work.wanted();
        self.consumers.retain(&self.link.channel, |key| wanted.contains_key(key)).await?;
        let is_new = |(key, credit): &(_, u32)| !self.has(key, *credit) && !self.refused.has(key);
        let new = wanted.into_iter().filter(is_new).collect();
        for (key, credit) in first_few(new, &self.transport.work.changed) {
            // What came over an earlier consumer counts too.
            let free = credit.saturating_sub(self.transport.work.unsettled(&key)).max(1);
            self.begin(key, credit, free).await?;
        }
        self.tell().await
    }

    async fn begin(&mut self, key: Arc<QueueKey>, credit: u32, window: u32) -> Result<(), LinkError> {
        self.consumers.end(&self.link.channel, &key).await?;
        match self.link.declare_work_queue(&key).await {
            Err(error @ LinkError::Forbidden { .. }) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a work queue is left alone for a while");
                self.refused.add(key);
                return Ok(());
            }
            declared => declared?,
        }
        let window = u16::try_from(window).unwrap_or(u16::MAX);
        // Of the consumers that begin after it.
        self.link.channel.basic_qos(window, BasicQosOptions::default()).await?;
        let queue = link::work_queue(&key);
        let allowed = Allowed { credit, window };
        let begun = self.consumers.begin(&self.link.channel, Arc::clone(&key), queue.clone(), allowed).await;
        link::consumed(&queue, begun).inspect_err(|error| {
            // That has closed the channel of all; over the next they go on without it.
            if matches!(error, LinkError::Forbidden { .. }) {
                self.refused.add(key);
            }
        })
    }

    /// Hands on what has arrived.
    async fn receive(&mut self, arrived: Arrived<Arc<QueueKey>>) -> Result<(), LinkError> {
        if arrived.is_one_lost {
            self.transport.work.changed.notify_one();
        }
        let mut parcels = Vec::with_capacity(arrived.deliveries.len());
        for (key, mut arrival) in arrived.deliveries {
            let tag = arrival.delivery_tag;
            match properties::parcel_of(&mut arrival) {
                Some(parcel) => parcels.push((key, tag, parcel)),
                // Somebody else has put it there.
                None => self.transport.work.reject(tag),
            }
        }
        self.transport.work.delivered(parcels);
        self.tell().await
    }

    /// Tells the broker what has become of its deliveries.
    async fn tell(&mut self) -> Result<(), LinkError> {
        self.link.tell(self.transport.work.take_verdicts()).await
    }

    async fn look_after(&mut self) -> Result<(), LinkError> {
        if !self.link.channel.status().connected() {
            return Err(LinkError::Closed);
        }
        if self.refused.forgive() {
            self.follow().await?;
        }
        // Those that began while much was here may be given more now.
        let narrow: Vec<_> = self.consumers.iter().filter(|(key, one)| self.is_narrow(key, one)).collect();
        let narrow: Vec<_> = narrow.into_iter().map(|(key, one)| (Arc::clone(key), one.credit)).collect();
        for (key, credit) in narrow {
            self.begin(key, credit, credit).await?;
        }
        for key in self.transport.work.next_looks() {
            let waiting = self.waiting(&key).await?;
            self.transport.work.looked(&key, waiting.is_some_and(|waiting| waiting > 0));
        }
        for key in self.looks.next(|| self.transport.work.remembered()) {
            let at = Instant::now();
            let waiting = self.waiting(&key).await?;
            if at.elapsed() >= NO_ANSWER {
                // The others wait for another time, so that what comes does not.
                break;
            }
            let Some(waiting) = waiting else { continue };
            if let Some(before) = self.looks.saw(Arc::clone(&key), at, waiting == 0) {
                self.transport.work.emptied(&key, before);
            }
        }
        Ok(())
    }

    /// How much waits in a queue, in nobody's hands; none where the broker cannot say, or whoever has it shares it with nobody.
    async fn waiting(&mut self, key: &QueueKey) -> Result<Option<u32>, LinkError> {
        Ok(match self.link.count(&link::work_queue(key)).await {
            Err(LinkError::Forbidden { .. }) => None,
            found => match found? {
                Found::Queue { messages, .. } => Some(messages),
                Found::None => Some(0),
                Found::Unsure => None,
            },
        })
    }

    fn has(&self, key: &Arc<QueueKey>, credit: u32) -> bool {
        self.consumers.get(key).is_some_and(|allowed| allowed.credit == credit)
    }

    fn is_narrow(&self, key: &QueueKey, allowed: &Allowed) -> bool {
        let here = self.transport.work.unsettled(key);
        let window = u32::from(allowed.window);
        window < allowed.credit && here >= window && here < allowed.credit
    }
}
