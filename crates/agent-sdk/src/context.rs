//! What a handler can do besides answering: know its agent, and talk to others.

use std::{sync::Arc, time::Duration};

use domain::Payload;
use serde::{Deserialize, Serialize};

use crate::{
    Failure, Outgoing, Recipient,
    message::REQUEST,
    session::{Reply, Shared},
};

/// How long to wait until a message that was sent is accepted.
const RECEIPT_DEADLINE: Duration = Duration::from_secs(30);

/// Why a message was not sent, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The server refused it.
    #[error("the message was refused: {0}")]
    Refused(String),
    /// No receipt within 30 s; it may have been accepted all the same.
    #[error("no receipt for the message within {}s; it may have been accepted all the same", RECEIPT_DEADLINE.as_secs())]
    Deadline,
    /// Too many messages wait for their receipts.
    #[error("too many messages wait for their receipts")]
    Busy,
    /// The session has ended.
    #[error("the agent's session has ended")]
    Closed,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// The request could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The answer is not JSON.
    #[error("the answer is not a JSON value")]
    Garbled,
}

/// The agent behind a handler. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Context(Arc<Shared>);

impl Context {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// The agent's id; empty before its first session.
    pub fn agent_id(&self) -> String {
        self.0.agent_id()
    }

    /// The agent's configuration as registered, a JSON object; `{}` before its first session.
    pub fn config(&self) -> Payload {
        self.0.config()
    }

    /// Tasks and messages that the agent works on now.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// Is the session open?
    pub fn is_connected(&self) -> bool {
        self.0.is_connected()
    }

    /// Sends a message, and waits until it is recorded; answers with its id. At least once: when the connection is lost
    /// before the receipt, it is sent again.
    pub async fn send(&self, message: Outgoing) -> Result<String, SendError> {
        let receipt = self.0.send(message)?;
        match tokio::time::timeout(RECEIPT_DEADLINE, receipt.received()).await {
            Ok(Ok(id)) => Ok(id),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SendError::Deadline),
        }
    }

    /// Sends a message and waits for the answer: the payload of the first message of the type `reply` with its correlation id.
    pub async fn request(&self, message: Outgoing, deadline: Duration) -> Result<Payload, RequestError> {
        let expected = self.0.expect_reply();
        let message = message.correlation_id(expected.correlation_id()).reply_to(self.agent_id());
        let answered = async {
            self.send(message).await?;
            expected.received().await.map_err(RequestError::Send)
        };
        let Reply { payload } =
            tokio::time::timeout(deadline, answered).await.map_err(|_| RequestError::Deadline(deadline))??;
        Payload::from_slice(&payload).map_err(|_| RequestError::Garbled)
    }

    /// Asks another agent to do an action, by message, and waits for its outcome. Failures: the other agent's own, or
    /// `request_deadline` and `request_failed`, both retryable.
    pub async fn call(
        &self,
        to: Recipient,
        action: &str,
        input: &impl Serialize,
        deadline: Duration,
    ) -> Result<Payload, Failure> {
        #[derive(Serialize)]
        struct Call<'a, T> {
            action: &'a str,
            input: &'a T,
        }
        #[derive(Deserialize)]
        struct Answer {
            output: Option<Payload>,
            failure: Option<Failure>,
        }
        let message = Outgoing::new(to, &Call { action, input })?.kind(REQUEST);
        let answer = self.request(message, deadline).await.map_err(|error| match &error {
            RequestError::Deadline(_) => Failure::transient("request_deadline", error.to_string()),
            RequestError::Send(_) | RequestError::Garbled => Failure::transient("request_failed", error.to_string()),
        })?;
        let garbled = || Failure::fatal("request_failed", "the answer has neither `output` nor `failure`");
        match answer.parse::<Answer>() {
            Ok(Answer { failure: Some(failure), .. }) => Err(failure),
            Ok(Answer { output: Some(output), failure: None }) => Ok(output),
            // `"output": null` reads as absent.
            Ok(Answer { output: None, failure: None }) => Ok(Payload::null()),
            Err(_) => Err(garbled()),
        }
    }
}
