//! The way down of one stream: a bounded queue of events, drained into as few frames as there are moments to send.
//!
//! Nobody ever waits here: where the buffer is full the stream is given up, so that one slow reader blocks no other.

use std::sync::{Arc, OnceLock};

use errors::Error;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events in one frame, at most.
const FRAME_EVENTS: usize = 512;
/// A frame ends when its events pass this many bytes.
const FRAME_BYTES: usize = 1024 * 1024;

/// Why a queue takes no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

#[derive(Debug, Default)]
struct End {
    error: OnceLock<Error>,
    gone: CancellationToken,
}

/// The writing end, owned by the hub; dropping it ends the stream after what waits.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    events: mpsc::Sender<T>,
    end: Arc<End>,
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Frames<T> {
    events: mpsc::Receiver<T>,
    end: Arc<End>,
}

/// A queue of at most `capacity` events.
pub(crate) fn channel<T>(capacity: usize) -> (Outgoing<T>, Frames<T>) {
    let (sender, receiver) = mpsc::channel(capacity);
    let end = Arc::new(End::default());
    (Outgoing { events: sender, end: Arc::clone(&end) }, Frames { events: receiver, end })
}

impl<T> Outgoing<T> {
    /// Queues an event.
    pub(crate) fn push(&self, event: T) -> Result<(), Lost> {
        self.events.try_send(event).map_err(|_| Lost)
    }

    /// Queues an event that may be lost, unless there is a jam.
    pub(crate) fn hint(&self, event: T) {
        if self.events.capacity() > self.events.max_capacity() / 2 {
            // It may be lost.
            let _ = self.events.try_send(event);
        }
    }

    /// Cancelled when either end is gone.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.end.gone.clone()
    }

    /// Ends the stream with an error, after what waits. The first error counts.
    pub(crate) fn fail(self, error: Error) {
        self.end.error.get_or_init(|| error);
    }
}

impl<T> Drop for Outgoing<T> {
    fn drop(&mut self) {
        self.end.gone.cancel();
    }
}

impl<T> Drop for Frames<T> {
    fn drop(&mut self) {
        self.end.gone.cancel();
    }
}

impl<T> Frames<T> {
    /// Everything that waits, as far as it fits into a frame; an empty frame at the end.
    pub(crate) async fn next(&mut self, bytes: impl Fn(&T) -> usize) -> Result<Vec<T>, Error> {
        let Some(first) = self.events.recv().await else {
            return self.end.error.get().map_or_else(|| Ok(Vec::new()), |error| Err(error.clone()));
        };
        let mut size = bytes(&first);
        let mut frame = vec![first];
        while frame.len() < FRAME_EVENTS && size < FRAME_BYTES {
            let Ok(event) = self.events.try_recv() else { break };
            size += bytes(&event);
            frame.push(event);
        }
        Ok(frame)
    }

    /// The frames as a stream of responses; an error is its last item.
    pub(crate) fn responses<R, E: From<Error>>(
        self,
        bytes: impl Fn(&T) -> usize + Copy,
        respond: impl Fn(Vec<T>) -> R + Copy,
    ) -> impl Stream<Item = Result<R, E>> {
        futures::stream::unfold(Some(self), move |frames| async move {
            let mut frames = frames?;
            match frames.next(bytes).await {
                Ok(events) if events.is_empty() => None,
                Ok(events) => Some((Ok(respond(events)), Some(frames))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }
}
