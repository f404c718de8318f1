//! From the work queues to the sessions here: those that somebody takes from are consumed, as far as there is credit. The
//! broker is told of a task when it is over.

use std::{sync::Arc, time::Duration};

use lapin::options::BasicQosOptions;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    RabbitMq,
    consumers::{Arrived, Consumers, first_few},
    link::{self, Link, LinkError},
    properties,
    refused::Refused,
};
use crate::app::QueueKey;

/// How often it is seen to that the connection is alive, and what is left in queues that are crowded here.
const EVERY: Duration = Duration::from_millis(50);
/// Pause between connections.
const PAUSE: Duration = Duration::from_millis(500);

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
    let mut consuming = Consuming { transport, link, consumers: Consumers::new(), refused };
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

/// One connection's consumers.
struct Consuming<'a> {
    transport: &'a RabbitMq,
    link: Link<'a>,
    consumers: Consumers<Arc<QueueKey>, Allowed>,
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
            let found = match self.link.look_at(&link::work_queue(&key)).await {
                // Whoever has it shares it with nobody.
                Err(LinkError::Forbidden { .. }) => None,
                found => found?,
            };
            let has_left = found.is_some_and(|queue| queue.message_count() > 0);
            self.transport.work.looked(&key, has_left);
        }
        Ok(())
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
