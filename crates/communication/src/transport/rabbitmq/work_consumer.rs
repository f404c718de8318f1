//! From the work queues to the sessions here: those that somebody takes from are consumed, as far as there is credit. The
//! broker is told of a task when it is over.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream, SelectAll},
};
use lapin::{
    message::Delivery as Arrival,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    RabbitMq,
    link::{self, Link, LinkError},
    properties,
};
use crate::app::QueueKey;

/// Tasks that are handed on at once.
const BATCH: usize = 256;
/// Queues that are begun with at once.
const MOST_BEGUN: usize = 16;
/// How often it is seen to that the connection is alive, and who else takes from the queues.
const EVERY: Duration = Duration::from_millis(500);
/// Pause between connections.
const PAUSE: Duration = Duration::from_millis(500);

/// Until `over` turns true.
pub(super) async fn run(transport: Arc<RabbitMq>, mut over: watch::Receiver<bool>) {
    loop {
        let ended = consume(&transport, &mut over).await;
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

async fn consume(transport: &RabbitMq, over: &mut watch::Receiver<bool>) -> Result<(), LinkError> {
    let link = tokio::select! {
        link = Link::open(transport, "consumes tasks") => link?,
        () = ended(over) => return Ok(()),
    };
    let mut consuming = Consuming { transport, link, consumers: HashMap::new(), arrivals: SelectAll::new(), next: 0 };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    consuming.follow().await?;
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            Some(first) = consuming.arrivals.next(), if !consuming.arrivals.is_empty() => consuming.receive(first).await?,
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

/// What one consumer yields: its queue, its tag, and a task, or that it has ended.
type Yield = (Arc<QueueKey>, ShortString, Option<lapin::Result<Arrival>>);

struct Consumer {
    tag: ShortString,
    /// What was wanted.
    credit: u32,
    /// What the broker was told, which counts only what this consumer gets.
    window: u16,
}

/// One connection's consumers.
struct Consuming<'a> {
    transport: &'a RabbitMq,
    link: Link<'a>,
    consumers: HashMap<Arc<QueueKey>, Consumer>,
    arrivals: SelectAll<BoxStream<'static, Yield>>,
    /// Numbers consumers.
    next: u64,
}

impl Consuming<'_> {
    /// Consumes what is wanted, and no more: a few queues at a time, so that thousands of new ones do not hold up what comes.
    async fn follow(&mut self) -> Result<(), LinkError> {
        let wanted = self.transport.work.wanted();
        let is_off = |key: &&Arc<QueueKey>| !wanted.contains_key(*key);
        let off: Vec<_> = self.consumers.keys().filter(is_off).cloned().collect();
        for key in off {
            self.end(&key).await?;
        }
        let is_new =
            |key: &Arc<QueueKey>, credit: u32| self.consumers.get(key).is_none_or(|consumer| consumer.credit != credit);
        let mut new: Vec<_> = wanted.into_iter().filter(|(key, credit)| is_new(key, *credit)).collect();
        if new.len() > MOST_BEGUN {
            new.truncate(MOST_BEGUN);
            self.transport.work.changed.notify_one();
        }
        for (key, credit) in new {
            // What came over an earlier consumer counts too.
            let free = credit.saturating_sub(self.transport.work.unsettled(&key)).max(1);
            self.begin(key, credit, free).await?;
        }
        self.tell().await
    }

    async fn end(&mut self, key: &Arc<QueueKey>) -> Result<(), LinkError> {
        if let Some(consumer) = self.consumers.remove(key) {
            self.link.channel.basic_cancel(consumer.tag, BasicCancelOptions::default()).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, key: Arc<QueueKey>, credit: u32, window: u32) -> Result<(), LinkError> {
        self.end(&key).await?;
        self.link.declare_work_queue(&key).await?;
        self.next += 1;
        let queue = link::work_queue(&key);
        let tag: ShortString = format!("{}-{}", self.next, key.target).into();
        let window = u16::try_from(window).unwrap_or(u16::MAX);
        // Of the consumers that begin after it.
        self.link.channel.basic_qos(window, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let channel = &self.link.channel;
        let consumer = channel.basic_consume(queue.into(), tag.clone(), options, FieldTable::default()).await?;
        self.consumers.insert(Arc::clone(&key), Consumer { tag: tag.clone(), credit, window });
        let arrivals = consumer.map(Some).chain(stream::once(async { None }));
        self.arrivals.push(arrivals.map(move |arrival| (Arc::clone(&key), tag.clone(), arrival)).boxed());
        Ok(())
    }

    /// Hands on what has arrived: the first, and what else is there already.
    async fn receive(&mut self, first: Yield) -> Result<(), LinkError> {
        let mut arrived = vec![first];
        while arrived.len() < BATCH
            && let Some(Some(next)) = self.arrivals.next().now_or_never()
        {
            arrived.push(next);
        }
        let mut parcels = Vec::with_capacity(arrived.len());
        for (key, consumer, arrival) in arrived {
            let Some(mut arrival) = arrival.transpose()? else {
                // Ended by us, or its queue was deleted.
                if self.consumers.get(&key).is_some_and(|known| known.tag == consumer) {
                    self.consumers.remove(&key);
                    self.transport.work.changed.notify_one();
                }
                continue;
            };
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
        // Those that began while much was here may be given more now.
        let narrow: Vec<_> = self.consumers.iter().filter(|(key, one)| self.is_narrow(key, one)).collect();
        let narrow: Vec<_> = narrow.into_iter().map(|(key, one)| (Arc::clone(key), one.credit)).collect();
        for (key, credit) in narrow {
            self.begin(key, credit, credit).await?;
        }
        for key in self.transport.work.take_asked() {
            let others = self.link.consumers(&link::work_queue(&key)).await?;
            let ours = u32::from(self.consumers.contains_key(&key));
            self.transport.work.set_shared(key, others > ours);
        }
        Ok(())
    }

    fn is_narrow(&self, key: &QueueKey, consumer: &Consumer) -> bool {
        let here = self.transport.work.unsettled(key);
        let window = u32::from(consumer.window);
        window < consumer.credit && here >= window && here < consumer.credit
    }
}
