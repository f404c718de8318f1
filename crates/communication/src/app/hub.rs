//! The broker behind its lock, and what has to be known about it outside: how many sessions are open, and which of them the
//! registry has to hear about at once.
//!
//! The lock is held for microseconds and never across a wait. Order of locks: broker, then transport or journal or outbox.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use domain::SessionId;
use tokio::sync::{Notify, watch};

use super::{
    broker::{Broker, Opening, QueueKey, Report},
    model::{Envelope, Mailbox, Reason, TaskId, ToAgent},
    outbox::Outbox,
};
use crate::{
    metrics,
    transport::{Delivery, Lot, Parcel, Sink, WorkSink},
};

/// Ended sessions that wait to be reported; beyond, the registry learns it when their lease passes.
const MOST_UNREPORTED: usize = 10_000;

/// The broker, shared.
pub(crate) struct Hub {
    broker: Mutex<Broker>,
    open: watch::Sender<usize>,
    unreported: Mutex<Vec<Report>>,
    changed: Notify,
    /// It is known of tasks that were on their way to the message broker whether they are there.
    arrived: Notify,
}

impl Hub {
    pub(crate) fn new(broker: Broker) -> Self {
        let (open, _) = watch::channel(0);
        Self {
            broker: Mutex::new(broker),
            open,
            unreported: Mutex::default(),
            changed: Notify::new(),
            arrived: Notify::new(),
        }
    }

    /// The broker, for one or a batch of calls; never held across a wait.
    pub(crate) fn broker(&self) -> MutexGuard<'_, Broker> {
        // A panic in mid-change stops the service, so nobody works on with a broken state.
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session.
    pub(crate) fn open(&self, opening: Opening, outbox: Outbox<ToAgent>) {
        let id = opening.session;
        let report = {
            let mut broker = self.broker();
            broker.open(opening, outbox);
            broker.report(id)
        };
        self.open.send_modify(|open| *open += 1);
        ::metrics::gauge!(metrics::SESSIONS).increment(1.0);
        self.report_soon(report);
    }

    /// Ends a session; `reason` is a label of [`metrics::SESSIONS_ENDED`].
    pub(crate) fn close(&self, id: SessionId, reason: &'static str) {
        let report = self.broker().close(id, "the session that held it is gone");
        if report.is_some() {
            self.open.send_modify(|open| *open -= 1);
            ::metrics::gauge!(metrics::SESSIONS).decrement(1.0);
            ::metrics::counter!(metrics::SESSIONS_ENDED, "reason" => reason).increment(1);
        }
        self.report_soon(report);
    }

    /// Waits until no session is open. Cancel-safe.
    pub(crate) async fn no_sessions(&self) {
        // The sender lives as long as `self`.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Puts no more tasks into work queues, and waits until it is known of those on their way whether they are there. For one
    /// waiter; cancel-safe.
    pub(crate) async fn nothing_leaves(&self) {
        self.broker().enqueue_nothing();
        loop {
            let arrived = self.arrived.notified();
            if !self.broker().is_anything_leaving() {
                return;
            }
            arrived.await;
        }
    }

    fn report_soon(&self, report: Option<Report>) {
        let mut unreported = self.unreported.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = report
            && unreported.len() < MOST_UNREPORTED
        {
            unreported.push(report);
        }
        drop(unreported);
        self.changed.notify_one();
    }

    /// Waits until a session has opened or ended. For one waiter; cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the registry has not heard of yet.
    pub(crate) fn take_unreported(&self) -> Vec<Report> {
        std::mem::take(&mut *self.unreported.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Offers again what nobody has taken, and forgets what nobody will ask for.
    pub(crate) fn tidy(&self, now: Instant) {
        let mut broker = self.broker();
        broker.offer_again(now);
        broker.tidy(now);
    }

    /// Time has passed.
    pub(crate) fn advance(&self, now: Instant) {
        let mut broker = self.broker();
        broker.advance(now);
        broker.wake_all_mailboxes();
        ::metrics::gauge!(metrics::TASKS_QUEUED).set(broker.queued() as f64);
    }
}

impl Sink for Hub {
    fn queued(&self, envelope: &Arc<Envelope>) {
        self.broker().queued_message(envelope);
    }

    fn arrived(&self, mailbox: &Mailbox) {
        self.broker().wake_mailbox(mailbox);
    }

    fn has_room(&self) -> bool {
        self.broker().has_room()
    }

    fn dead(&self, delivery: Delivery, reason: Reason) {
        self.broker().bury_message(&delivery, reason, "");
    }
}

impl WorkSink for Hub {
    fn enqueued(&self, tasks: &[TaskId]) {
        self.broker().enqueued(tasks);
        self.arrived.notify_one();
    }

    fn not_enqueued(&self, tasks: &[TaskId]) {
        self.broker().not_enqueued(tasks);
        self.arrived.notify_one();
    }

    fn delivered(&self, parcels: Vec<(Parcel, Lot)>) {
        let mut broker = self.broker();
        for (parcel, lot) in parcels {
            broker.delivered(parcel, lot);
        }
    }

    fn spare(&self, queue: &QueueKey) -> u32 {
        self.broker().spare(queue)
    }

    fn remembered(&self) -> Vec<Arc<QueueKey>> {
        self.broker().remembered()
    }

    fn emptied(&self, queue: &QueueKey, before: Instant) {
        self.broker().emptied(queue, before);
    }

    fn disconnected(&self) {
        self.broker().disconnected();
    }
}
