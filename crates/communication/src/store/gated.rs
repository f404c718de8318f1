//! A store that can be made to wait, for tests of what happens meanwhile.

use std::{collections::HashSet, sync::Arc};

use ::store::Page;
use async_trait::async_trait;
use domain::{DeadLetterId, Namespace, Timestamp};
use tokio::sync::watch;

use super::{Batch, LetterFilter, MessageFilter, Record, Span, Store};
use crate::app::{DeadLetter, Envelope, Mailbox, Status};

/// What calls of one kind pass.
pub(crate) struct Gate {
    is_open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { is_open: watch::channel(true).0, waiting: watch::channel(0).0 }
    }
}

impl Gate {
    pub(crate) fn shut(&self) {
        self.is_open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Until a call waits before it.
    pub(crate) async fn reached(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.unwrap();
    }

    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
        self.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

/// Another store behind gates.
pub(crate) struct Gated {
    store: Arc<dyn Store>,
    /// Before messages are looked up.
    pub(crate) lookups: Gate,
    /// Before something is written.
    pub(crate) writes: Gate,
    /// After that.
    pub(crate) written: Gate,
}

impl Gated {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, lookups: Gate::default(), writes: Gate::default(), written: Gate::default() }
    }
}

#[async_trait]
impl Store for Gated {
    async fn write(&self, batch: &Batch) -> sqlx::Result<HashSet<i64>> {
        self.writes.pass().await;
        let inserted = self.store.write(batch).await;
        self.written.pass().await;
        inserted
    }

    async fn next_sequences(&self, count: usize) -> sqlx::Result<Vec<i64>> {
        self.store.next_sequences(count).await
    }

    async fn unfinished(&self, after: i64, limit: usize) -> sqlx::Result<Page<(Envelope, u32, Status)>> {
        self.store.unfinished(after, limit).await
    }

    async fn unfinished_of(&self, mailbox: &Mailbox, limit: usize) -> sqlx::Result<Vec<(Envelope, u32, Status)>> {
        self.store.unfinished_of(mailbox, limit).await
    }

    async fn unrelayed(
        &self,
        before: Timestamp,
        after: i64,
        limit: usize,
    ) -> sqlx::Result<Page<(Envelope, Option<Timestamp>)>> {
        self.store.unrelayed(before, after, limit).await
    }

    async fn unheard(&self, before: Timestamp, since: Timestamp, limit: usize) -> sqlx::Result<Vec<(Envelope, u32)>> {
        self.store.unheard(before, since, limit).await
    }

    async fn hold(&self, sequences: &[i64], now: Timestamp) -> sqlx::Result<()> {
        self.store.hold(sequences, now).await
    }

    async fn expired(&self, before: Timestamp, limit: usize) -> sqlx::Result<Vec<(Envelope, u32)>> {
        self.store.expired(before, limit).await
    }

    async fn by_sequence(&self, sequences: &[i64]) -> sqlx::Result<Vec<(Envelope, u32, Status)>> {
        self.lookups.pass().await;
        self.store.by_sequence(sequences).await
    }

    async fn message(&self, namespace: &Namespace, id: &str) -> sqlx::Result<Option<Record>> {
        self.store.message(namespace, id).await
    }

    async fn messages(&self, filter: &MessageFilter, limit: usize) -> sqlx::Result<Page<Record>> {
        self.store.messages(filter, limit).await
    }

    async fn letter(&self, namespace: &Namespace, id: &str) -> sqlx::Result<Option<DeadLetter>> {
        self.store.letter(namespace, id).await
    }

    async fn letters(&self, filter: &LetterFilter, span: Span, limit: usize) -> sqlx::Result<Page<DeadLetter>> {
        self.store.letters(filter, span, limit).await
    }

    async fn replay(
        &self,
        namespace: &Namespace,
        ids: &[DeadLetterId],
        now: Timestamp,
    ) -> sqlx::Result<Vec<(DeadLetterId, Envelope)>> {
        self.store.replay(namespace, ids, now).await
    }

    async fn mark_replayed(&self, namespace: &Namespace, id: &str, now: Timestamp) -> sqlx::Result<()> {
        self.store.mark_replayed(namespace, id, now).await
    }

    async fn purge(&self, namespace: &Namespace, ids: &[DeadLetterId], now: Timestamp) -> sqlx::Result<u64> {
        self.store.purge(namespace, ids, now).await
    }

    async fn clean(&self, messages: Timestamp, letters: Timestamp, limit: i64) -> sqlx::Result<u64> {
        self.store.clean(messages, letters, limit).await
    }

    async fn ping(&self) -> sqlx::Result<()> {
        self.store.ping().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
