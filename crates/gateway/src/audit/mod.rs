//! The audit log: every mutation and every denied attempt, chained by hash, in the order in which they were written.
//!
//! One task writes, and takes everything that waits into one transaction: the busier the gateway, the larger the batch. A mutation
//! has two entries: that it has begun, committed before anything is done, and how it has ended, which nobody waits for. So nothing is
//! done that is not noted, what cannot be noted is not done, and where a crash comes in between the log says what is known: that it
//! may have been done. Denied attempts are nobody's to wait for either, and anybody can make many: they are written when there is
//! room, of strangers and of what is not found only [so many](Bound), and those that were left out are counted. A mutation takes none of
//! their places.

mod chain;
mod store;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::access::Sieve;
use domain::{Clock, Timestamp};
use errors::Error;
use lifecycle::Shutdown;
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::{
    chain::{Known, Verification},
    store::{AuditStore, Filter, Row},
};
use crate::rate::Caller;

/// Entries that wait for the writer; what comes then waits, or is left out.
const MOST_WAITING: usize = 4_096;
/// Entries of one transaction.
const MOST_AT_ONCE: usize = 256;
/// How long a request waits for its entry.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters that are kept of each text of an entry that the database refuses.
const MOST_OF_REFUSED: usize = 255;
/// Between two tries to write.
const AGAIN: Duration = Duration::from_millis(200);
/// The status of what has no answer yet.
pub(crate) const BEGUN: u16 = 0;

/// Entries, by `outcome`: `written`, or `omitted` where a flood was cut short.
const ENTRIES: &str = "gateway_audit_entries_total";
/// Entries of one transaction.
const BATCH: &str = "gateway_audit_batch_entries";

/// What is noted of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: Timestamp,
    /// As `key:key_…`; empty where nobody known came.
    pub(crate) actor: String,
    pub(crate) role: String,
    /// A permission's name; empty where the path is none of ours.
    pub(crate) action: String,
    /// Method and template of the path.
    pub(crate) route: String,
    pub(crate) target: String,
    /// The path of what was made; empty where nothing was.
    pub(crate) resource: String,
    /// Of a key, what it may and where; empty elsewhere.
    pub(crate) details: String,
    /// Empty where it is of none: then it is for those alone who reach all.
    pub(crate) namespace: String,
    pub(crate) address: String,
    pub(crate) status: u16,
    /// Of the failure, where it is one.
    pub(crate) code: String,
    pub(crate) correlation_id: String,
    pub(crate) request_id: String,
}

/// The period of the entries about what is not found.
const MISSING_EVERY: Duration = Duration::from_mins(1);

/// How many entries of its kind are written: a flood of them must not fill the disk. At most 50 of each kind, and 5 of one caller, a
/// second, or a minute of what is not found: whoever polls for what is not there yet, or not any more, means no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// All.
    None,
    /// Of strangers, by their address.
    Stranger(Caller),
    /// Of what is not found, by who asks.
    Missing(Caller),
}

/// An entry on its way, and whoever waits for it.
struct Waiting {
    entry: Entry,
    written: Option<oneshot::Sender<()>>,
}

/// Takes entries, and reads them. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Log(Arc<Inner>);

struct Inner {
    store: Arc<dyn AuditStore>,
    clock: Arc<dyn Clock>,
    sender: mpsc::Sender<Waiting>,
    is_failing: AtomicBool,
    /// Drains when nothing more will be noted.
    closed: Shutdown,
    strangers: Sieve<Caller>,
    missing: Sieve<Caller>,
}

/// Writes what the [`Log`] takes.
pub(crate) struct Writer {
    log: Log,
    receiver: mpsc::Receiver<Waiting>,
}

impl Log {
    /// A log over a store, and what has to run for it.
    pub(crate) fn new(store: Arc<dyn AuditStore>, clock: Arc<dyn Clock>) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        let (strangers, missing) = (Sieve::default(), Sieve::of_periods(MISSING_EVERY));
        let is_failing = AtomicBool::new(false);
        let closed = Shutdown::new();
        let log = Self(Arc::new(Inner { store, clock, sender, is_failing, closed, strangers, missing }));
        (log.clone(), Writer { log, receiver })
    }

    /// Nothing more will be noted: nobody is served any more.
    pub(crate) fn close(&self) {
        self.0.closed.drain();
    }

    /// Notes what is about to be done, and comes back when that is on disk. An error: it must not be done. A stranger's too, as a
    /// token's renewal or revocation is: how many of these there are is bounded by the rate limit that has let them in.
    pub(crate) async fn note(&self, entry: Entry) -> Result<(), Error> {
        // Nobody waits for what is known to fail.
        if self.0.is_failing.load(Ordering::Relaxed) {
            return Err(unavailable());
        }
        let (sender, written) = oneshot::channel();
        let noted = async {
            self.0.sender.send(Waiting { entry, written: Some(sender) }).await.map_err(|_| unavailable())?;
            written.await.map_err(|_| unavailable())
        };
        tokio::time::timeout(PATIENCE, noted).await.unwrap_or_else(|_| Err(unavailable()))
    }

    /// Notes how something has ended, which is not to be lost while there is a way.
    pub(crate) async fn note_end(&self, entry: Entry) {
        let sent = self.0.sender.send_timeout(Waiting { entry, written: None }, PATIENCE).await;
        if let Err(error) = sent {
            let Waiting { entry, .. } = error.into_inner();
            tracing::error!(?entry, "how a mutation has ended is not in the audit log, which cannot be written");
            metrics::counter!(ENTRIES, "outcome" => "omitted").increment(1);
        }
    }

    /// Notes what nobody waits for, where there is room.
    pub(crate) fn note_later(&self, entry: Entry, bound: Bound) {
        let has_room = match bound {
            Bound::None => true,
            Bound::Stranger(caller) => self.0.strangers.takes(entry.at, caller),
            Bound::Missing(caller) => self.0.missing.takes(entry.at, caller),
        };
        let waiting = Waiting { entry, written: None };
        if !has_room || self.0.sender.try_send(waiting).is_err() {
            metrics::counter!(ENTRIES, "outcome" => "omitted").increment(1);
        }
    }

    /// Entries, the newest first, or the oldest.
    pub(crate) async fn read(&self, filter: &Filter) -> Result<Vec<Row>, Error> {
        self.0.store.read(filter).await.map_err(::store::error)
    }

    /// Is it what it was when it was written? Reads all of it, some at a time.
    pub(crate) async fn verify(&self, known: Option<Known>) -> Result<Verification, Error> {
        let mut walk = chain::Walk::new(known);
        let mut filter = Filter { limit: 1_000, is_ascending: true, ..Filter::default() };
        loop {
            let rows = self.read(&filter).await?;
            let Some(last) = rows.last() else { return Ok(walk.end()) };
            filter.after = Some(last.seq);
            for row in &rows {
                walk.step(row);
            }
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

impl Writer {
    /// Writes until the log is closed and nothing waits any more, or until the shutdown cuts.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let closed = self.log.0.closed.clone();
        let mut batch = Vec::new();
        loop {
            // All arms are cancel-safe.
            tokio::select! {
                _ = self.receiver.recv_many(&mut batch, MOST_AT_ONCE) => {
                    if batch.is_empty() {
                        return;
                    }
                }
                () = closed.draining(), if !self.receiver.is_closed() => {
                    self.receiver.close();
                    continue;
                }
                () = shutdown.cutting() => return,
            }
            // Whoever has given up was told that nothing is done.
            batch.retain(|waiting| !waiting.written.as_ref().is_some_and(oneshot::Sender::is_closed));
            if batch.is_empty() {
                continue;
            }
            let entries: Vec<_> = batch.iter().map(|waiting| &waiting.entry).collect();
            let is_written = self.write(&entries, &shutdown).await;
            for waiting in batch.drain(..) {
                // Whose sender is dropped hears that it is not written.
                if let Some(written) = waiting.written.filter(|_| is_written) {
                    // Whoever has given up waiting needs no answer.
                    let _ = written.send(());
                }
            }
        }
    }

    /// Tries until it is written: what was done stays done, and must be noted. False where that was cut.
    ///
    /// Each is written once: what is in the log already is not written again, also where the database has written it and its
    /// answer was lost.
    async fn write(&self, entries: &[&Entry], shutdown: &Shutdown) -> bool {
        let inner = &*self.log.0;
        let mut is_again = false;
        while let Err(error) = self.append(entries, is_again).await {
            is_again = true;
            if !inner.is_failing.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    error = errors::chain(&error),
                    "the audit log cannot be written, mutations are refused"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = shutdown.cutting() => return false,
            }
        }
        if inner.is_failing.swap(false, Ordering::Relaxed) {
            tracing::warn!("the audit log is written again");
        }
        metrics::counter!(ENTRIES, "outcome" => "written").increment(entries.len() as u64);
        metrics::histogram!(BATCH).record(entries.len() as f64);
        true
    }

    /// Appends entries. Where the database refuses one of them, it has a substitute, and the others go on.
    async fn append(&self, entries: &[&Entry], is_again: bool) -> sqlx::Result<()> {
        let store = &*self.log.0.store;
        match store.append(entries, is_again).await {
            Err(error) if ::store::is_refused(&error) => {}
            appended => return appended,
        }
        for entry in entries {
            match store.append(&[entry], is_again).await {
                Err(error) if ::store::is_refused(&error) => {
                    tracing::error!(
                        error = errors::chain(&error),
                        ?entry,
                        "the database refuses an entry of the audit log"
                    );
                    store.append(&[&entry.substitute()], is_again).await?;
                }
                appended => appended?,
            }
        }
        Ok(())
    }
}

impl Entry {
    /// What stands for it where the database refuses it: whoever gets an entry refused must not become nobody by that.
    fn substitute(&self) -> Self {
        let plain = |text: &str| {
            let visible = text.chars().filter(|character| character.is_ascii_graphic() || *character == ' ');
            visible.take(MOST_OF_REFUSED).collect::<String>()
        };
        Self {
            at: self.at,
            actor: plain(&self.actor),
            role: plain(&self.role),
            action: plain(&self.action),
            route: plain(&self.route),
            target: plain(&self.target),
            resource: plain(&self.resource),
            details: plain(&self.details),
            namespace: plain(&self.namespace),
            address: plain(&self.address),
            status: self.status,
            code: "refused_entry".to_owned(),
            correlation_id: plain(&self.correlation_id),
            request_id: plain(&self.request_id),
        }
    }
}

fn unavailable() -> Error {
    let message = "the audit log cannot be written now, and nothing is done that it would not hold";
    Error::unavailable("audit_unavailable", message)
}
