//! The only one that records: one transaction for everything that waits (group commit).
//!
//! Messages are answered, and put into their mailboxes, after their commit and in the order in which they came. What became
//! of messages is kept until it is written; deliveries pause where too much of it waits.

use std::{convert::Infallible, sync::Arc, time::Duration};

use lifecycle::Shutdown;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    app::{
        hub::Hub,
        record::{Kind, Letter, Record},
    },
    error::CommunicationError,
    metrics,
    store::Store,
};

/// Messages that one transaction takes.
const MOST: usize = 2048;
/// After a transaction that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// At the end: how often what became of messages is tried again. What is lost comes again after the restart.
const LAST_TRIES: usize = 3;

/// A message to record.
#[derive(Debug)]
pub(crate) struct Accept {
    pub(crate) letter: Letter,
    pub(crate) done: oneshot::Sender<Result<bool, CommunicationError>>,
}

/// Owns the way into the database.
pub(crate) struct Writer {
    pub(crate) hub: Arc<Hub>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) accepts: mpsc::Receiver<Accept>,
    pub(crate) backlog: Vec<Record>,
}

impl Writer {
    /// Records until a drain; then ends the streams, and records what is left.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut waiting = Vec::with_capacity(MOST);
        loop {
            // All arms are cancel-safe.
            tokio::select! {
                // None: nobody is left who could send.
                taken = self.accepts.recv_many(&mut waiting, MOST) => if taken == 0 { break },
                () = self.hub.unwritten(), if self.backlog.is_empty() => {}
                () = tokio::time::sleep(PAUSE), if !self.backlog.is_empty() => {}
                () = shutdown.draining() => break,
            }
            self.write(&mut waiting).await;
        }
        self.hub.stop();
        self.accepts.close();
        while self.accepts.recv_many(&mut waiting, MOST).await > 0 {
            self.write(&mut waiting).await;
        }
        for _ in 0..LAST_TRIES {
            self.write(&mut waiting).await;
        }
        Ok(())
    }

    async fn write(&mut self, waiting: &mut Vec<Accept>) {
        self.backlog.extend(self.hub.take_journal());
        if waiting.is_empty() && self.backlog.is_empty() {
            return;
        }
        let begun = Instant::now();
        let letters: Vec<&Letter> = waiting.iter().map(|accept| &accept.letter).collect();
        let written = self.store.write(&letters, &self.backlog).await;
        ::metrics::histogram!(metrics::COMMIT_WRITES).record((letters.len() + self.backlog.len()) as f64);
        ::metrics::histogram!(metrics::COMMIT_SECONDS).record(begun.elapsed());
        match written {
            Ok(new) => {
                self.note_dead();
                self.hub.recorded(&self.backlog);
                self.backlog.clear();
                self.accepted(std::mem::take(waiting), &new);
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a commit failed");
                ::metrics::counter!(metrics::COMMIT_FAILURES).increment(1);
                for accept in waiting.drain(..) {
                    self.hub.release(&accept.letter.agent_id);
                    // Whoever waited may have given up; the same below.
                    let _ = accept.done.send(Err(CommunicationError::NotRecorded));
                }
            }
        }
    }

    fn accepted(&self, accepts: Vec<Accept>, new: &[bool]) {
        let mut letters = Vec::with_capacity(accepts.len());
        let mut answers = Vec::with_capacity(accepts.len());
        for (accept, new) in accepts.into_iter().zip(new) {
            if *new {
                letters.push(accept.letter);
            } else {
                self.hub.release(&accept.letter.agent_id);
            }
            answers.push((accept.done, *new));
        }
        ::metrics::counter!(metrics::MESSAGES_ACCEPTED).increment(letters.len() as u64);
        if !letters.is_empty() {
            self.hub.post(letters);
        }
        for (done, new) in answers {
            let _ = done.send(Ok(new));
        }
    }

    fn note_dead(&self) {
        for record in &self.backlog {
            if let Record::Died(letter, _) = record {
                let kind = match letter.kind {
                    Kind::Message => "message",
                    Kind::Task => "task",
                };
                ::metrics::counter!(metrics::DEAD_LETTERS, "kind" => kind, "reason" => letter.reason.clone())
                    .increment(1);
            }
        }
    }
}
