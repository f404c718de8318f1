//! What nobody looks after any more: messages whose replica has ended before it published them, messages that expire in the
//! broker, or in the hands of somebody who is gone, where nobody sees the time pass, mail of deleted agents, and, after each
//! connection, and where a queue was deleted, messages that a broker has lost with that or with all its data.
//!
//! Every replica looks, and two may find the same: a message that is published twice is seen by whoever consumes it, and one
//! dies once in the record.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use domain::Timestamp;
use lifecycle::crash_point;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    Doubts, RabbitMq,
    link::{Found, Link, LinkError, NO_ANSWER, mailbox_queue},
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
/// How often a mailbox is found to have lost something after one doubt: again since what has arrived may be recorded late, and no
/// more since it may be that others hold it.
const LOSSES: u32 = 2;
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
    /// Messages whose end is being recorded, with their hand-overs: one that lived on meanwhile has more.
    burying: HashSet<(i64, u32)>,
    /// How often it may still be looked what the broker has lost.
    comparisons: u32,
    /// How often mailboxes were found to have lost something since the last doubt.
    losses: HashMap<Mailbox, u32>,
}

/// Unfinished messages that are not here. Sequences are ascending.
#[derive(Default)]
struct Unfinished {
    counts: HashMap<Mailbox, Count>,
    sequences: Vec<i64>,
    /// Those that have come to the broker, as far as is recorded.
    arrived: Vec<i64>,
}

/// How many of a mailbox the broker has.
#[derive(Clone, Copy, Default)]
struct Count {
    at_least: u32,
    /// These come to what was counted so when it was looked before.
    at_most: u32,
}

/// What waits with the broker, and in which mailboxes.
struct Waiting {
    count: u32,
    mailboxes: Vec<Mailbox>,
}

impl<'a> Relay<'a> {
    fn new(transport: &'a RabbitMq, store: &'a dyn Store) -> Self {
        // What was accepted before this replica began is none of its own.
        let (burying, losses) = (HashSet::new(), HashMap::new());
        Self { transport, store, before: transport.began, burying, comparisons: 0, losses }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = sqlx::Result<T>> + Send) -> sqlx::Result<T> {
        in_time(self.transport.settings.timeout, answer).await
    }

    async fn round(&mut self) {
        let transport = self.transport;
        if self.has_doubts().await {
            self.comparisons = COMPARISONS;
            self.losses.clear();
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
            self.bury_unseen(now).await?;
            self.publish_left().await
        };
        match looked.await {
            Ok(()) => self.before = now - transport.settings.relay_after,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for messages that were left");
            }
        }
    }

    /// May the broker have lost something since that was asked last? What was recorded to be in a mailbox whose queue had to be
    /// made since is.
    async fn has_doubts(&self) -> bool {
        let Doubts { is_any, made } = self.transport.take_doubts();
        if is_any {
            return true;
        }
        for (mailbox, before) in made {
            let was_there = |(envelope, _, status): &(Envelope, u32, Status)| {
                envelope.sequence < before && *status != Status::Accepted
            };
            // Where the record does not answer, it is compared when it does.
            if self.left_of(&mailbox).await.map_or(true, |left| left.iter().any(was_there)) {
                return true;
            }
        }
        false
    }

    /// Unfinished messages of an agent that are not here.
    async fn left_of(&self, mailbox: &Mailbox) -> sqlx::Result<Vec<(Envelope, u32, Status)>> {
        let mut left = self.in_time(self.store.unfinished_of(mailbox, PAGE)).await?;
        left.retain(|(envelope, ..)| !self.transport.has(envelope.sequence));
        Ok(left)
    }

    /// Says what has died where nobody sees it: each once, and none while more waits to be recorded than there is room for, since
    /// until then the record has them as they were.
    async fn bury_unseen(&mut self, now: Timestamp) -> sqlx::Result<()> {
        let Some(inbound) = self.transport.inbound.get().filter(|inbound| inbound.has_room()) else { return Ok(()) };
        let expired = self.in_time(self.store.expired(now - LATE, PAGE)).await?.into_iter();
        let expired =
            expired.chain(self.left_held(now).await?).map(|(envelope, count)| (envelope, count, Reason::Expired));
        let mut dead: Vec<_> =
            expired.filter(|(envelope, ..)| !self.transport.held().knows(envelope.sequence)).collect();
        for mailbox in self.transport.abandoned() {
            // Another replica that has some of it may have ended, or the broker have lost it; an agent that deals with it
            // still is none any more.
            let left = self.left_of(&mailbox).await?.into_iter();
            dead.extend(left.map(|(envelope, count, _)| (envelope, count, Reason::AgentDeleted)));
        }
        let mut buried = HashSet::new();
        for (envelope, count, reason) in dead {
            let is_new = buried.insert((envelope.sequence, count));
            if is_new && !self.burying.contains(&(envelope.sequence, count)) {
                inbound.dead(Delivery { envelope: Arc::new(envelope), count }, reason);
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
            for (envelope, life) in page.rows {
                after = envelope.sequence;
                let mailbox = envelope.message.mailbox();
                if outgoing.is_outcast(&envelope) || left.contains(&mailbox) {
                    continue;
                }
                if outgoing.may_take(&mailbox) {
                    outgoing.push_again(Arc::new(envelope), life);
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
    /// Meanwhile messages come and go, so the record is read before and after: what had arrived with the broker both times must be
    /// there, and what was on its way, or came or went in between, may be. False where there is so much of that that some of the
    /// first may be missing all the same; and where something was, as what has arrived may be recorded late: of what was
    /// confirmed before it was lost, and of what is published again.
    async fn compare(&mut self) -> Result<bool, LinkError> {
        let before = self.unfinished(&Unfinished::default()).await?;
        if before.counts.is_empty() {
            return Ok(true);
        }
        let mut link = Link::open(self.transport, "compares").await?;
        let mut waiting = Vec::new();
        for (place, mailboxes) in self.gathered(before.counts.keys()) {
            waiting.extend(self.waiting(&mut link, &place, mailboxes).await?);
        }
        link.close().await?;
        let after = self.unfinished(&before).await?;
        let (mut lost, mut is_certain) = (HashSet::new(), true);
        for Waiting { count, mailboxes } in waiting {
            let sum = |unfinished: &Unfinished, of: fn(&Count) -> u32| -> u32 {
                mailboxes.iter().filter_map(|mailbox| unfinished.counts.get(mailbox)).map(of).sum()
            };
            let at_least = sum(&after, |count| count.at_least);
            let at_most = sum(&before, |count| count.at_most) + sum(&after, |count| count.at_most);
            if count < at_least {
                lost.extend(mailboxes);
            }
            is_certain &= count >= at_most;
        }
        lost.retain(|mailbox| self.losses.get(mailbox).is_none_or(|losses| *losses < LOSSES));
        if !lost.is_empty() {
            tracing::warn!(mailboxes = ?lost, "messages are not with the broker: publishing them again");
            crash_point("communication.rabbitmq.lost.found");
            self.accept_again(&lost).await?;
            self.comparisons = COMPARISONS;
            for mailbox in lost {
                *self.losses.entry(mailbox).or_default() += 1;
            }
        }
        Ok(is_certain)
    }

    /// The unfinished messages that are not here, of which some were so when it was looked before.
    async fn unfinished(&self, before: &Unfinished) -> sqlx::Result<Unfinished> {
        let mut found = Unfinished::default();
        let mut after = 0;
        loop {
            let page = self.in_time(self.store.unfinished(after, PAGE)).await?;
            for (Envelope { sequence, message }, _, status) in &page.rows {
                after = *sequence;
                if self.transport.has(*sequence) {
                    continue;
                }
                let has_arrived = *status != Status::Accepted;
                let is_among = |sequences: &[i64]| sequences.binary_search(sequence).is_ok();
                let count = found.counts.entry(message.mailbox()).or_default();
                count.at_least += u32::from(has_arrived && is_among(&before.arrived));
                count.at_most += u32::from(!is_among(&before.sequences));
                found.sequences.push(*sequence);
                if has_arrived {
                    found.arrived.push(*sequence);
                }
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
            let found = match link.count(&mailbox_queue(&mailbox)).await {
                Err(error @ LinkError::Forbidden { .. }) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a mailbox cannot be compared");
                    return Ok(None);
                }
                found => found?,
            };
            let is_ours = self.transport.mailboxes().open.contains(&mailbox);
            match found {
                Found::Queue { consumers: 1.., .. } if !is_ours && mailbox == *place => return Ok(None),
                Found::Queue { consumers: 1.., .. } if !is_ours => {}
                // It is compared when the broker can say.
                Found::Unsure => return Err(LinkError::Silent(NO_ANSWER)),
                Found::Queue { messages, .. } => {
                    waiting.count += messages;
                    waiting.mailboxes.push(mailbox);
                }
                Found::None => waiting.mailboxes.push(mailbox),
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
            let found = page.rows.iter().filter(|(envelope, ..)| is_lost(envelope));
            let updates = found.map(|(envelope, count, _)| accepted_again(envelope, *count, now)).collect();
            let batch = Batch { updates, ..Batch::default() };
            self.in_time(self.store.write(&batch)).await?;
            crash_point("communication.rabbitmq.lost.recorded");
            match page.rows.last() {
                Some((last, ..)) if !page.is_last => after = last.sequence,
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
