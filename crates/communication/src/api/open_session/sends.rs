//! Messages that an agent sends: taken in order, answered as they are recorded.

use contracts::communication::v1::{Receipt, Send, server_event::Event};
use domain::SessionId;
use errors::Error;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::Api;
use crate::error::CommunicationError;

/// Messages that wait for their record; with more, none is taken.
const MOST_PENDING: usize = 256;

impl Api {
    /// Takes the messages of a session until it has ended.
    pub(super) async fn accept_sends(
        &self,
        session: SessionId,
        namespace: String,
        agent_id: String,
        mut sends: mpsc::Receiver<Send>,
    ) {
        let mut pending = FuturesUnordered::new();
        loop {
            // All arms are cancel-safe.
            tokio::select! {
                send = sends.recv(), if pending.len() < MOST_PENDING => {
                    let Some(Send { r#ref: reference, message }) = send else { break };
                    let mut message = message.unwrap_or_default();
                    message.namespace.clone_from(&namespace);
                    // One after the other up to here, so that messages keep their order.
                    match self.0.letters.send(message, Some(&agent_id)).await {
                        Ok(sent) => pending.push(async move { (reference, self.0.letters.recorded(sent).await) }),
                        Err(error) => self.answer(session, reference, Err(error)),
                    }
                }
                Some((reference, recorded)) = pending.next() => {
                    self.answer(session, reference, recorded.map(|(id, _)| id));
                }
            }
        }
        while let Some((reference, recorded)) = pending.next().await {
            self.answer(session, reference, recorded.map(|(id, _)| id));
        }
    }

    fn answer(&self, session: SessionId, reference: u64, outcome: Result<String, CommunicationError>) {
        let (message_id, error) = match outcome {
            Ok(id) => (id, String::new()),
            Err(error) => {
                let error = Error::from(error);
                (String::new(), format!("{}: {}", error.reason, error.message))
            }
        };
        self.0.hub.tell(session, Event::Receipt(Receipt { r#ref: reference, message_id, error }));
    }
}
