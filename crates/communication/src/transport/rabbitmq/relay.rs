//! What nobody looks after any more: messages whose replica has ended before it published them, messages that expire in the
//! broker, where nobody sees the time pass, and, after each connection, messages that a broker has lost with its data.
//!
//! Every replica looks, and two may find the same: a message that is published twice is seen by whoever consumes it, and one
//! dies once in the record.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use domain::Timestamp;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    RabbitMq,
    link::{Link, LinkError, mailbox_queue},
};
use crate::{
    app::{Mailbox, Reason},
    store::Store,
    transport::{Delivery, Sink as _},
};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(2);
/// Messages that are read at once.
const PAGE: usize = 1_000;
/// How long a message may have expired before it is taken for one that nobody has fetched.
const LATE: Duration = Duration::from_secs(5);

/// Until `over` turns true.
pub(super) async fn run(transport: Arc<RabbitMq>, store: Arc<dyn Store>, mut over: watch::Receiver<bool>) {
    let clock = Arc::clone(&transport.clock);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What was accepted before this replica began is none of its own.
    let mut before = clock.now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = over.wait_for(|over| *over) => return,
        }
        if transport.has_connected.swap(false, Ordering::AcqRel)
            && let Err(error) = restore(&transport, &*store).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot compare what the broker has now");
            transport.has_connected.store(true, Ordering::Release);
        }
        match look(&transport, &*store, before, clock.now()).await {
            Ok(()) => before = clock.now() - transport.settings.relay_after,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for messages that were left");
            }
        }
    }
}

async fn look(transport: &RabbitMq, store: &dyn Store, before: Timestamp, now: Timestamp) -> sqlx::Result<()> {
    for (envelope, count) in store.expired(now - LATE, PAGE).await? {
        if !transport.held().knows(envelope.sequence)
            && let Some(inbound) = transport.inbound.get()
        {
            inbound.dead(Delivery { envelope: Arc::new(envelope), count }, Reason::Expired);
        }
    }
    let mut after = 0;
    // While the broker is away, they would only fill memory.
    while transport.outgoing.is_empty() {
        let page = store.unrelayed(before, after, PAGE).await?;
        for (envelope, _) in page.rows {
            after = envelope.sequence;
            transport.outgoing.push_again(Arc::new(envelope), false);
        }
        if page.is_last {
            break;
        }
    }
    Ok(())
}

/// Publishes what the record has and the broker does not: it has lost a queue, or its disk. A mailbox of which fewer messages
/// wait there than are unfinished and not here is published again as a whole, since nobody knows which are there; whoever
/// consumes it sees what comes twice. A mailbox that others consume is theirs to compare.
async fn restore(transport: &RabbitMq, store: &dyn Store) -> Result<(), LinkError> {
    let mut counts: HashMap<Mailbox, u32> = HashMap::new();
    let mut after = 0;
    loop {
        let page = store.unfinished(after, PAGE).await?;
        for (envelope, _) in &page.rows {
            after = envelope.sequence;
            if !transport.has(envelope.sequence) {
                *counts.entry(envelope.message.mailbox()).or_default() += 1;
            }
        }
        if page.is_last {
            break;
        }
    }
    let mut link = Link::open(transport, "compares").await?;
    for (mailbox, count) in counts {
        if lacks(transport, &mut link, &mailbox, count).await? {
            tracing::warn!(
                queue = mailbox_queue(&mailbox),
                count,
                "messages are not with the broker: publishing them again"
            );
            publish_again(transport, store, &mailbox).await?;
        }
    }
    link.close().await
}

/// Does the broker have fewer messages of a mailbox than that?
async fn lacks(transport: &RabbitMq, link: &mut Link<'_>, mailbox: &Mailbox, count: u32) -> Result<bool, LinkError> {
    let Some(queue) = link.look_at(&mailbox_queue(mailbox)).await? else { return Ok(true) };
    let ours = u32::from(transport.mailboxes().open.contains(mailbox));
    Ok(queue.consumer_count() <= ours && queue.message_count() < count)
}

async fn publish_again(transport: &RabbitMq, store: &dyn Store, mailbox: &Mailbox) -> Result<(), LinkError> {
    let mut after = 0;
    loop {
        let page = store.unfinished(after, PAGE).await?;
        for (envelope, _) in page.rows {
            after = envelope.sequence;
            if envelope.message.mailbox() == *mailbox && !transport.has(envelope.sequence) {
                transport.outgoing.push_again(Arc::new(envelope), false);
            }
        }
        if page.is_last {
            return Ok(());
        }
    }
}
