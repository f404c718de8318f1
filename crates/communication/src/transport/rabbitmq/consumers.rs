//! One connection's consumers, each of one queue, and what comes over them.

use std::{collections::HashMap, hash::Hash};

use futures::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream, SelectAll},
};
use lapin::{
    Channel,
    message::Delivery as Arrival,
    options::{BasicCancelOptions, BasicConsumeOptions},
    types::{FieldTable, ShortString},
};
use tokio::sync::Notify;

/// Deliveries that are taken in at once.
const BATCH: usize = 256;
/// Queues that are begun with at once, so that thousands of new ones do not hold up what comes.
const MOST_BEGUN: usize = 16;

/// What one consumer yields: its queue, its tag, and what was delivered, or that it has ended.
type Yield<K> = (K, ShortString, Option<lapin::Result<Arrival>>);

/// The consumers by what their queues are known by, with what else is known of each.
pub(super) struct Consumers<K, C> {
    known: HashMap<K, Consumer<C>>,
    arrivals: SelectAll<BoxStream<'static, Yield<K>>>,
    /// Numbers consumers: the tag of each is its own for as long as the connection lasts.
    next: u64,
}

struct Consumer<C> {
    tag: ShortString,
    about: C,
}

/// What has come.
pub(super) struct Arrived<K> {
    pub(super) deliveries: Vec<(K, Arrival)>,
    /// A consumer has ended that was not to end: its queue was deleted.
    pub(super) is_one_lost: bool,
}

impl<K: Clone + Eq + Hash + Send + 'static, C> Consumers<K, C> {
    pub(super) fn new() -> Self {
        Self { known: HashMap::new(), arrivals: SelectAll::new(), next: 0 }
    }

    /// What is known of the consumer of a queue, where there is one.
    pub(super) fn get(&self, key: &K) -> Option<&C> {
        self.known.get(key).map(|consumer| &consumer.about)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &C)> {
        self.known.iter().map(|(key, consumer)| (key, &consumer.about))
    }

    /// Begins to consume a queue, which is there.
    pub(super) async fn begin(&mut self, channel: &Channel, key: K, queue: String, about: C) -> lapin::Result<()> {
        self.next += 1;
        let tag = ShortString::from(self.next.to_string());
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue.into(), tag.clone(), options, FieldTable::default()).await?;
        self.known.insert(key.clone(), Consumer { tag: tag.clone(), about });
        let arrivals = consumer.map(Some).chain(stream::once(async { None }));
        self.arrivals.push(arrivals.map(move |arrival| (key.clone(), tag.clone(), arrival)).boxed());
        Ok(())
    }

    /// Ends the consumer of a queue, where there is one. What it has been delivered comes still.
    pub(super) async fn end(&mut self, channel: &Channel, key: &K) -> lapin::Result<()> {
        match self.known.remove(key) {
            Some(consumer) => channel.basic_cancel(consumer.tag, BasicCancelOptions::default()).await,
            None => Ok(()),
        }
    }

    /// Ends those whose queues are not wanted any more; answers with these.
    pub(super) async fn retain(&mut self, channel: &Channel, is_wanted: impl Fn(&K) -> bool) -> lapin::Result<Vec<K>> {
        let unwanted: Vec<_> = self.known.keys().filter(|key| !is_wanted(key)).cloned().collect();
        for key in &unwanted {
            self.end(channel, key).await?;
        }
        Ok(unwanted)
    }

    /// What has arrived: the first, as soon as there is one, and what else is there already. Cancel-safe: it waits for nothing
    /// once it has something.
    pub(super) async fn arrived(&mut self) -> lapin::Result<Arrived<K>> {
        let mut arrived = Arrived { deliveries: Vec::new(), is_one_lost: false };
        let mut next = match self.arrivals.next().await {
            Some(first) => Some(first),
            None => std::future::pending().await,
        };
        while let Some((key, tag, arrival)) = next {
            match arrival.transpose()? {
                Some(arrival) => arrived.deliveries.push((key, arrival)),
                None if self.known.get(&key).is_some_and(|known| known.tag == tag) => {
                    self.known.remove(&key);
                    arrived.is_one_lost = true;
                }
                // Ended by us.
                None => {}
            }
            let has_room = arrived.deliveries.len() < BATCH;
            next = if has_room { self.arrivals.next().now_or_never().flatten() } else { None };
        }
        Ok(arrived)
    }
}

/// As many as are begun with at once. Where there are more, whoever follows `changed` comes again for them.
pub(super) fn first_few<T>(mut new: Vec<T>, changed: &Notify) -> Vec<T> {
    if new.len() > MOST_BEGUN {
        new.truncate(MOST_BEGUN);
        changed.notify_one();
    }
    new
}
