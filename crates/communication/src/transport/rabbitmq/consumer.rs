//! From the broker to the mailboxes here: those that somebody takes from are consumed, as far ahead as the prefetch.
//!
//! What the broker delivers is looked up in the record, which knows whether it is over, and how often it was handed over. The
//! broker is told of a message when its end is recorded.
//!
//! What its agent has sent away for a while counts against the prefetch. Where a consumer has nothing else, another follows it, as
//! long as the mailbox has less than it may hold: what is delayed lets others pass.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use lapin::options::{BasicQosOptions, QueueDeleteOptions};
use lifecycle::crash_point;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    RabbitMq,
    consumers::{Arrived, Consumers, first_few},
    held::{Life, Verdict},
    link::{Link, LinkError, consumed, mailbox_queue},
    properties,
    refused::Refused,
};
use crate::{
    app::{Mailbox, Reason, Status},
    store::{Store, in_time},
    transport::{Delivery, Sink as _, Transport as _},
};

/// How often it is seen to that the connection is alive, and that the mailboxes of deleted agents are empty.
const EVERY: Duration = Duration::from_secs(1);
/// Pause between connections.
const PAUSE: Duration = Duration::from_millis(500);

/// Until `over` turns true.
pub(super) async fn run(transport: Arc<RabbitMq>, store: Arc<dyn Store>, mut over: watch::Receiver<bool>) {
    let mut refused = Refused::new();
    loop {
        let ended = tokio::select! {
            ended = consume(&transport, &*store, &mut refused) => ended,
            // The broker gives to others what is not acknowledged.
            _ = over.wait_for(|over| *over) => return,
        };
        transport.disconnected();
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "no messages come from the broker now");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn consume(transport: &RabbitMq, store: &dyn Store, refused: &mut Refused<Mailbox>) -> Result<(), LinkError> {
    let settings = &transport.settings;
    let link = Link::open(transport, "consumes").await?;
    link.channel.basic_qos(settings.prefetch, BasicQosOptions::default()).await?;
    let mut consuming = Consuming { transport, store, link, consumers: Consumers::new(), newest: 0, refused };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    consuming.follow().await?;
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            arrived = consuming.consumers.arrived() => consuming.receive(arrived?).await?,
            () = transport.changed.notified() => consuming.follow().await?,
            () = transport.settled.notified() => consuming.tell().await?,
            _ = ticks.tick() => consuming.look_after().await?,
        }
    }
}

/// What has arrived and is not here yet.
struct Unknown {
    mailbox: Mailbox,
    sequence: i64,
    tag: u64,
    life: Life,
}

/// One connection's consumers.
struct Consuming<'a> {
    transport: &'a RabbitMq,
    store: &'a dyn Store,
    link: Link<'a>,
    /// Each with the newest delivery when it began.
    consumers: Consumers<Mailbox, u64>,
    /// The newest delivery.
    newest: u64,
    refused: &'a mut Refused<Mailbox>,
}

impl Consuming<'_> {
    /// Consumes the mailboxes that are open, and no others.
    async fn follow(&mut self) -> Result<(), LinkError> {
        let wanted = self.transport.wanted();
        let ended = self.consumers.retain(&self.link.channel, |mailbox| wanted.contains(mailbox)).await?;
        for mailbox in &ended {
            // What was looked up while the mailbox was closed has come after that.
            self.transport.give_back(mailbox);
        }
        let is_new = |mailbox: &Mailbox| self.consumers.get(mailbox).is_none() && !self.refused.has(mailbox);
        let new = wanted.into_iter().filter(is_new).collect();
        for mailbox in first_few(new, &self.transport.changed) {
            self.begin(mailbox).await?;
        }
        self.tell().await
    }

    async fn begin(&mut self, mailbox: Mailbox) -> Result<(), LinkError> {
        let queue = mailbox_queue(&mailbox);
        match self.link.declare_mailbox(&mailbox, i64::MAX).await {
            Err(error @ LinkError::Forbidden { .. }) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a mailbox is left alone for a while");
                self.refused.add(mailbox);
                return Ok(());
            }
            declared => declared?,
        }
        let begun = self.consumers.begin(&self.link.channel, mailbox.clone(), queue.clone(), self.newest).await;
        consumed(&queue, begun).inspect_err(|error| {
            // That has closed the channel of all; over the next they go on without it.
            if matches!(error, LinkError::Forbidden { .. }) {
                self.refused.add(mailbox);
            }
        })
    }

    /// Takes in what has arrived.
    async fn receive(&mut self, arrived: Arrived<Mailbox>) -> Result<(), LinkError> {
        if arrived.is_one_lost {
            self.transport.doubt();
            self.transport.changed.notify_one();
        }
        let mut unknown = Vec::new();
        for (mailbox, arrival) in arrived.deliveries {
            let tag = arrival.delivery_tag;
            self.newest = self.newest.max(tag);
            let Some(sequence) = properties::sequence_of(&arrival.properties) else {
                // Somebody else has put it there.
                self.transport.verdict(tag, Verdict::DeadLetter);
                continue;
            };
            let life = properties::life_of(&arrival.properties);
            if self.consumers.get(&mailbox).is_none() {
                self.transport.verdict(tag, Verdict::Requeue);
            } else if !self.transport.held().attach(sequence, tag, life) {
                unknown.push(Unknown { mailbox, sequence, tag, life });
            }
        }
        self.look_up(&unknown).await?;
        self.tell().await
    }

    async fn look_up(&mut self, arrivals: &[Unknown]) -> Result<(), LinkError> {
        if arrivals.is_empty() {
            return Ok(());
        }
        let sequences: Vec<_> = arrivals.iter().map(|arrival| arrival.sequence).collect();
        let patience = self.transport.settings.timeout;
        let found = in_time(patience, self.store.by_sequence(&sequences)).await?;
        let mut found: HashMap<_, _> =
            found.into_iter().map(|(envelope, count, status)| (envelope.sequence, (envelope, count, status))).collect();
        for Unknown { mailbox, sequence, tag, life } in arrivals {
            let handed = self.transport.held().take_handed(*sequence, *life);
            match found.remove(sequence) {
                Some((_, _, Status::Dead)) => self.transport.verdict(*tag, Verdict::DeadLetter),
                Some((mut envelope, count, Status::Accepted | Status::Queued | Status::Delivered)) => {
                    // An answer may have been left in the mailbox of its instance for long, and be in its agent's.
                    envelope.message.instance = mailbox.instance;
                    let count = count.max(handed);
                    self.transport.admit(Delivery { envelope: Arc::new(envelope), count }, *tag, *life);
                }
                // One of this batch that comes twice, or nothing that anybody still knows of.
                Some((_, _, Status::Acked)) | None => {
                    if !self.transport.held().attach(*sequence, *tag, *life) {
                        self.transport.verdict(*tag, Verdict::Ack);
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells the broker what has become of its deliveries.
    async fn tell(&mut self) -> Result<(), LinkError> {
        let verdicts = self.transport.held().take_verdicts();
        if !verdicts.is_empty() {
            crash_point("communication.rabbitmq.ack.before");
        }
        self.link.tell(verdicts).await
    }

    async fn look_after(&mut self) -> Result<(), LinkError> {
        if !self.link.channel.status().connected() {
            return Err(LinkError::Closed);
        }
        if self.refused.forgive() {
            self.follow().await?;
        }
        self.fetch_past_delayed().await?;
        for mailbox in self.transport.abandoned() {
            // What others have of it is lost with the queue: where it has not ended by then nobody would see its end.
            if self.consumers.get(&mailbox).is_some()
                && !self.transport.held().has(&mailbox)
                && self.link.is_empty(&mailbox).await?
                && self.transport.has_ended(self.store, &mailbox).await
            {
                self.transport.forget(&mailbox);
                self.follow().await?;
                let delete = QueueDeleteOptions::default();
                self.link.channel.queue_delete(mailbox_queue(&mailbox).into(), delete).await?;
            }
        }
        Ok(())
    }
}

impl Consuming<'_> {
    /// Fetches more where all that a consumer may have is delayed. Nothing is under way over such a one, so the order holds.
    async fn fetch_past_delayed(&mut self) -> Result<(), LinkError> {
        let most = usize::from(self.transport.settings.prefetch);
        for (mailbox, sequences) in self.transport.local.delayed() {
            let Some(began) = self.consumers.get(&mailbox) else { continue };
            let is_full = self.transport.held().delivered_after(&sequences, *began) >= most;
            if is_full && self.transport.local.has_room(&mailbox) {
                self.consumers.end(&self.link.channel, &mailbox).await?;
                self.begin(mailbox).await?;
            }
        }
        Ok(())
    }
}

impl RabbitMq {
    /// A message is here: it waits to be taken, unless nobody may take it any more.
    fn admit(&self, delivery: Delivery, tag: u64, life: Life) {
        self.held().admit(&delivery.envelope, tag, life);
        let is_deleted = self.is_deleted(&delivery.envelope.message.mailbox());
        let reason = match delivery.count >= self.limits.deliveries {
            _ if is_deleted => Reason::AgentDeleted,
            true => Reason::DeliveryLimit,
            false => return self.local.readmit(delivery.envelope, delivery.count),
        };
        if let Some(inbound) = self.inbound.get() {
            inbound.dead(delivery, reason);
        }
    }

    /// Has everything ended that was sent to an agent, as is recorded?
    async fn has_ended(&self, store: &dyn Store, mailbox: &Mailbox) -> bool {
        let unfinished = in_time(self.settings.timeout, store.unfinished_of(mailbox, 1)).await;
        unfinished.is_ok_and(|unfinished| unfinished.is_empty())
    }

    /// Mailboxes to consume.
    fn wanted(&self) -> HashSet<Mailbox> {
        let mailboxes = self.mailboxes();
        mailboxes.open.iter().chain(mailboxes.deleted.keys()).cloned().collect()
    }
}
