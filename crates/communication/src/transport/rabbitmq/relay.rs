//! What nobody looks after any more: messages whose replica has ended before it published them, and messages that expire in
//! the broker, where nobody sees the time pass.
//!
//! Every replica looks, and two may find the same: a message that is published twice is seen by whoever consumes it, and one
//! dies once in the record.

use std::{sync::Arc, time::Duration};

use domain::Timestamp;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::RabbitMq;
use crate::{
    app::Reason,
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
