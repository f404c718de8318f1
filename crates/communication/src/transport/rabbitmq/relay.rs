//! What nobody looks after any more: messages whose replica has ended before it published them, messages that expire in the
//! broker, or in the hands of somebody who is gone, where nobody sees the time pass, and, after each connection, messages that a
//! broker has lost with its data.
//!
//! Every replica looks, and two may find the same: a message that is published twice is seen by whoever consumes it, and one
//! dies once in the record.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use domain::Timestamp;
use lifecycle::crash_point;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    RabbitMq,
    link::{Link, LinkError, mailbox_queue},
};
use crate::{
    app::{Envelope, Mailbox, Reason, Status},
    store::{Batch, HistoryEvent, MessageUpdate, Store, in_time},
    transport::{Delivery, Sink as _},
};

/// How often it is looked, and how long it is waited for what was found to be published before more is looked for.
const EVERY: Duration = Duration::from_secs(2);
/// Messages that are read at once.
const PAGE: usize = 1_000;
/// How often it is looked after a connection what the broker has lost, until that is certain. Of a mailbox that is never quiet it
/// never is.
const COMPARISONS: u32 = 5;
/// How long a message may have expired before it is taken for one that nobody has fetched.
const LATE: Duration = Duration::from_secs(5);

/// After how long whoever holds a message past its expiry says so again, and after how long it is taken for gone. Its
/// connection to the broker, which has its deliveries, does not last as long where it stands still.
const HELD_FOR: [Duration; 2] = [Duration::from_secs(20), Duration::from_mins(1)];

/// Until `over` turns true.
pub(super) async fn run(transport: Arc<RabbitMq>, store: Arc<dyn Store>, mut over: watch::Receiver<bool>) {
    let mut relay = Relay::new(&transport, &*store);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // What is left undone in the middle is found by whoever looks next.
        let round = async {
            ticks.tick().await;
            relay.round().await;
        };
        tokio::select! {
            () = round => {}
            _ = over.wait_for(|over| *over) => return,
        }
    }
}

/// What one replica looks after.
struct Relay<'a> {
    transport: &'a RabbitMq,
    store: &'a dyn Store,
    /// What was accepted before and is not with the broker was left.
    before: Timestamp,
    /// Expired messages whose end is being recorded, with their hand-overs: one that lived on meanwhile has more.
    burying: HashSet<(i64, u32)>,
    /// How often it may still be looked what the broker has lost.
    comparisons: u32,
    /// What was found to be lost since the last connection: it is on its way again.
    found_lost: HashSet<Mailbox>,
}

/// Unfinished messages that are not here.
#[derive(Default)]
struct Unfinished {
    counts: HashMap<Mailbox, Count>,
    /// Theirs, ascending.
    sequences: Vec<i64>,
}

/// How many of a mailbox.
#[derive(Clone, Copy, Default)]
struct Count {
    /// That were there, and not here, when it was looked first.
    old: u32,
    new: u32,
}

/// What waits with the broker, and in which mailboxes.
struct Waiting {
    count: u32,
    mailboxes: Vec<Mailbox>,
}

impl<'a> Relay<'a> {
    fn new(transport: &'a RabbitMq, store: &'a dyn Store) -> Self {
        // What was accepted before this replica began is none of its own.
        Self {
            transport,
            store,
            before: transport.began,
            burying: HashSet::new(),
            comparisons: 0,
            found_lost: HashSet::new(),
        }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = sqlx::Result<T>> + Send) -> sqlx::Result<T> {
        in_time(self.transport.settings.timeout, answer).await
    }

    async fn round(&mut self) {
        let transport = self.transport;
        if transport.has_connected.swap(false, Ordering::AcqRel) {
            self.comparisons = COMPARISONS;
            self.found_lost.clear();
        }
        if self.comparisons > 0 {
            match self.compare().await {
                Ok(is_certain) => self.comparisons = if is_certain { 0 } else { self.comparisons - 1 },
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot compare what the broker has now");
                }
            }
        }
        let now = transport.clock.now();
        let looked = async {
            self.bury_expired(now).await?;
            self.publish_left().await
        };
        match looked.await {
            Ok(()) => self.before = now - transport.settings.relay_after,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for messages that were left");
            }
        }
    }

    /// Says what has expired in the broker: each once, and none while more waits to be recorded than there is room for, since
    /// until then the record has them as they were.
    async fn bury_expired(&mut self, now: Timestamp) -> sqlx::Result<()> {
        let Some(inbound) = self.transport.inbound.get().filter(|inbound| inbound.has_room()) else { return Ok(()) };
        let mut buried = HashSet::new();
        let unheld = self.in_time(self.store.expired(now - LATE, PAGE)).await?;
        for (envelope, count) in unheld.into_iter().chain(self.left_held(now).await?) {
            if self.transport.held().knows(envelope.sequence) {
                continue;
            }
            buried.insert((envelope.sequence, count));
            if !self.burying.contains(&(envelope.sequence, count)) {
                inbound.dead(Delivery { envelope: Arc::new(envelope), count }, Reason::Expired);
            }
        }
        self.burying = buried;
        Ok(())
    }

    /// What had expired when its holder was lost, or has since. Of what is held here that is said first.
    async fn left_held(&self, now: Timestamp) -> sqlx::Result<Vec<(Envelope, u32)>> {
        let [said_again, gone] = HELD_FOR;
        let quiet = self.in_time(self.store.unheard(now - LATE, now - said_again, PAGE)).await?;
        let sequences = quiet.iter().map(|(envelope, _)| envelope.sequence);
        let ours: Vec<_> = sequences.filter(|sequence| self.transport.held().knows(*sequence)).collect();
        if !ours.is_empty() {
            self.in_time(self.store.hold(&ours, now)).await?;
        }
        if quiet.len() == ours.len() {
            return Ok(Vec::new());
        }
        self.in_time(self.store.unheard(now - LATE, now - gone, PAGE)).await
    }

    async fn publish_left(&self) -> sqlx::Result<()> {
        let outgoing = &self.transport.outgoing;
        // What comes behind one that is left is left too, for the sake of the order.
        let (mut after, mut left) = (0, HashSet::new());
        // While the broker is away, they would only fill memory.
        while outgoing.is_empty_within(EVERY).await {
            let page = self.in_time(self.store.unrelayed(self.before, after, PAGE)).await?;
            for (envelope, is_revived) in page.rows {
                after = envelope.sequence;
                let mailbox = envelope.message.mailbox();
                if outgoing.is_outcast(&envelope) || left.contains(&mailbox) {
                    continue;
                }
                if outgoing.may_take(&mailbox) {
                    outgoing.push_again(Arc::new(envelope), is_revived);
                } else {
                    left.insert(mailbox);
                }
            }
            if page.is_last {
                break;
            }
        }
        Ok(())
    }

    /// Finds what the record has and the broker does not: it has lost a queue, or its disk. Of a mailbox of which fewer messages
    /// wait there than are unfinished and not here all is published again, since nobody knows which are there; whoever consumes
    /// it sees what comes twice. A mailbox that only others consume is theirs to compare; one that is consumed here too is compared
    /// here, since each would leave it to the other.
    ///
    /// Meanwhile messages come and go, so the record is read before and after: what was with the broker both times must be there,
    /// and what was at one time may be. False where there is so much that the first may be missing all the same.
    async fn compare(&mut self) -> Result<bool, LinkError> {
        let before = self.unfinished(&[]).await?;
        if before.counts.is_empty() {
            return Ok(true);
        }
        let mut link = Link::open(self.transport, "compares").await?;
        let mut waiting = Vec::new();
        for (place, mailboxes) in self.gathered(before.counts.keys()) {
            waiting.extend(self.waiting(&mut link, &place, mailboxes).await?);
        }
        link.close().await?;
        let after = self.unfinished(&before.sequences).await?;
        let (mut lost, mut is_certain) = (HashSet::new(), true);
        for Waiting { count, mailboxes } in waiting {
            let sum = |unfinished: &Unfinished, of: fn(&Count) -> u32| -> u32 {
                mailboxes.iter().filter_map(|mailbox| unfinished.counts.get(mailbox)).map(of).sum()
            };
            let at_least = sum(&after, |count| count.old);
            let at_most = sum(&before, |count| count.new) + sum(&after, |count| count.new);
            if count < at_least {
                lost.extend(mailboxes.into_iter().filter(|mailbox| !self.found_lost.contains(mailbox)));
            } else if count < at_most {
                is_certain = false;
            }
        }
        if !lost.is_empty() {
            tracing::warn!(mailboxes = ?lost, "messages are not with the broker: publishing them again");
            crash_point("communication.rabbitmq.lost.found");
            self.accept_again(&lost).await?;
            self.found_lost.extend(lost);
        }
        Ok(is_certain)
    }

    /// The unfinished messages that are not here; those that are not `known`, ascending, are new.
    async fn unfinished(&self, known: &[i64]) -> sqlx::Result<Unfinished> {
        let mut found = Unfinished::default();
        let mut after = 0;
        loop {
            let page = self.in_time(self.store.unfinished(after, PAGE)).await?;
            for (envelope, _) in &page.rows {
                after = envelope.sequence;
                if self.transport.has(envelope.sequence) {
                    continue;
                }
                found.sequences.push(envelope.sequence);
                let count = found.counts.entry(envelope.message.mailbox()).or_default();
                let is_old = known.binary_search(&envelope.sequence).is_ok();
                *(if is_old { &mut count.old } else { &mut count.new }) += 1;
            }
            if page.is_last {
                return Ok(found);
            }
        }
    }

    /// What was for an instance from which nobody takes here may be in its agent's mailbox: it is compared together with that.
    fn gathered<'b>(&self, mailboxes: impl Iterator<Item = &'b Mailbox>) -> HashMap<Mailbox, Vec<Mailbox>> {
        let mut gathered: HashMap<Mailbox, Vec<Mailbox>> = HashMap::new();
        let open = &self.transport.mailboxes().open;
        for mailbox in mailboxes {
            let place = if open.contains(mailbox) { mailbox.clone() } else { mailbox.agents() };
            gathered.entry(place).or_default().push(mailbox.clone());
        }
        gathered
    }

    /// What the broker has in a mailbox and those whose messages may be there; nothing where others look after it. What only
    /// others consume does not count.
    async fn waiting(
        &self,
        link: &mut Link<'_>,
        place: &Mailbox,
        mut mailboxes: Vec<Mailbox>,
    ) -> Result<Option<Waiting>, LinkError> {
        mailboxes.retain(|mailbox| mailbox != place);
        mailboxes.push(place.clone());
        let mut waiting = Waiting { count: 0, mailboxes: Vec::with_capacity(mailboxes.len()) };
        for mailbox in mailboxes {
            let found = match link.look_at(&mailbox_queue(&mailbox)).await {
                Err(error @ LinkError::Forbidden { .. }) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a mailbox cannot be compared");
                    return Ok(None);
                }
                found => found?.map(|queue| (queue.consumer_count(), queue.message_count())),
            };
            let is_ours = self.transport.mailboxes().open.contains(&mailbox);
            match found {
                Some((1.., _)) if !is_ours && mailbox == *place => return Ok(None),
                Some((1.., _)) if !is_ours => {}
                found => {
                    waiting.count += found.map_or(0, |(_, messages)| messages);
                    waiting.mailboxes.push(mailbox);
                }
            }
        }
        Ok(Some(waiting))
    }

    /// Records that what is unfinished of mailboxes has to be published again: then it is, like everything else that was left,
    /// as fast as the broker takes it, and whatever ends meanwhile.
    async fn accept_again(&self, lost: &HashSet<Mailbox>) -> sqlx::Result<()> {
        let now = self.transport.clock.now();
        let mut after = 0;
        loop {
            let page = self.in_time(self.store.unfinished(after, PAGE)).await?;
            let is_lost = |envelope: &Envelope| {
                lost.contains(&envelope.message.mailbox()) && !self.transport.has(envelope.sequence)
            };
            let found = page.rows.iter().filter(|(envelope, _)| is_lost(envelope));
            let updates = found.map(|(envelope, count)| accepted_again(envelope, *count, now)).collect();
            let batch = Batch { updates, ..Batch::default() };
            self.in_time(self.store.write(&batch)).await?;
            crash_point("communication.rabbitmq.lost.recorded");
            match page.rows.last() {
                Some((last, _)) if !page.is_last => after = last.sequence,
                Some(_) | None => return Ok(()),
            }
        }
    }
}

fn accepted_again(envelope: &Envelope, deliveries: u32, at: Timestamp) -> MessageUpdate {
    let detail = "the broker had lost it".to_owned();
    MessageUpdate {
        sequence: envelope.sequence,
        created_at: envelope.message.created_at,
        status: Status::Accepted,
        deliveries,
        is_final: false,
        delivered_at: None,
        acked_at: None,
        letter: None,
        history: vec![HistoryEvent { status: Status::Accepted, at, detail }],
    }
}
