//! The response side of a stream: what its outbox holds, in batches.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _, stream};
use tonic::Status;

use crate::app::{Outbox, Weigh};

/// Responses of a stream. Dropping it ends the outbox: who reads the other direction notices that nobody listens any more.
pub(crate) struct Outgoing<T: Weigh, R> {
    responses: Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>,
    outbox: Outbox<T>,
}

impl<T: Weigh + Send + 'static, R: Send + 'static> Outgoing<T, R> {
    /// `encode` makes one response of each batch.
    pub(super) fn new(outbox: Outbox<T>, encode: impl Fn(Vec<T>) -> R + Send + 'static) -> Self {
        let batches = stream::unfold(outbox.clone(), async |outbox| Some((outbox.next().await?, outbox)));
        let responses = batches.map(move |batch| batch.map(&encode).map_err(Status::from)).boxed();
        Self { responses, outbox }
    }
}

impl<T: Weigh, R> Stream for Outgoing<T, R> {
    type Item = Result<R, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.responses.poll_next_unpin(context)
    }
}

impl<T: Weigh, R> Drop for Outgoing<T, R> {
    fn drop(&mut self) {
        self.outbox.end(Ok(()));
    }
}
