//! What errands come to outside: calls to executions and to communication.

use std::{sync::atomic::Ordering, time::Duration};

use contracts::{
    Link,
    communication::v1::{
        Message, PublishRequest, SendMessageRequest, message::Recipient, message_service_client::MessageServiceClient,
        topic_service_client::TopicServiceClient,
    },
    orchestrator::v1::{SignalExecutionRequest, StartExecutionRequest, start_execution_request},
};
use domain::{ExecutionId, MessageId, Payload, SignalId, Timestamp};
use errors::Error;
use serde_json::json;
use workflow::{ErrandKind, Failure, Parent, Telling};

use super::runner::{Answer, Runner, impatient};
use crate::api;

/// How long a call may take: whoever does not answer may be stopped, and another has its shards soon.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// The same of communication. What is published has no id: where it is not answered, and is told again, some hear it twice.
const MAIL_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest pause before an errand is tried again; and where its shard moves, which is soon over.
const TRY_AGAIN_AT_MOST: Duration = Duration::from_secs(30);
const WHILE_IT_MOVES: Duration = Duration::from_secs(1);

/// What somebody is told for.
struct Tell<'a> {
    id: ExecutionId,
    namespace: String,
    task_id: &'a str,
    traceparent: String,
    at: Timestamp,
}

impl Runner {
    pub(super) async fn errand(
        &self,
        id: ExecutionId,
        namespace: String,
        task_id: &str,
        traceparent: String,
        what: ErrandKind,
    ) -> Answer {
        let done = match what {
            ErrandKind::Start { child, name, version, input, parent } => {
                let request = StartExecutionRequest {
                    namespace,
                    execution_id: child.to_string(),
                    workflow: Some(start_execution_request::Workflow::WorkflowName(name)),
                    version: version.unwrap_or(0),
                    input: bytes(&input),
                    traceparent,
                    parent: Some(api::of_parent(parent.clone())),
                    ..StartExecutionRequest::default()
                };
                self.start(child, &parent, request).await
            }
            ErrandKind::Tell { to, payload, at } => {
                let telling = Tell { id, namespace, task_id, traceparent, at };
                self.tell(telling, to, bytes(&payload)).await
            }
        };
        match done {
            Ok(answer) => answer,
            Err(error) if error.code.is_transient() => {
                tracing::debug!(task.id = task_id, error = errors::chain(&error), "an errand is to be tried again");
                let is_moving = error.reason == "shard_moving";
                let at_most = if is_moving { WHILE_IT_MOVES } else { TRY_AGAIN_AT_MOST };
                Answer::Again { why: error.to_string(), at_most }
            }
            Err(error) => Answer::Done(Err(Failure::fatal(error.reason, error.message))),
        }
    }

    async fn tell(&self, telling: Tell<'_>, to: Telling, payload: bytes::Bytes) -> Result<Answer, Error> {
        let Tell { id, namespace, task_id, traceparent, at } = telling;
        // Its age is that of the telling, not of the teller: who remembers ids forgets the oldest first.
        let millis = u64::try_from(at.as_micros() / 1_000).unwrap_or(0);
        match to {
            Telling::Signal { execution, name } => {
                let signal_id = SignalId::from_parts(millis, random(task_id)).to_string();
                let output = Payload::from_value(&json!({ "signal_id": signal_id }));
                let sender = task_id.to_owned();
                let request =
                    SignalExecutionRequest { namespace, execution_id: execution, name, payload, sender, signal_id };
                once(TIMEOUT, self.executions.clone().signal_execution(impatient(request))).await?;
                Ok(Answer::Done(Ok(output)))
            }
            Telling::Agent(agent_id) => {
                let message = Message {
                    id: MessageId::from_parts(millis, random(task_id)).to_string(),
                    namespace,
                    recipient: Some(Recipient::AgentId(agent_id)),
                    payload,
                    correlation_id: id.to_string(),
                    traceparent,
                    ..Message::default()
                };
                self.send(message).await
            }
            Telling::Topic(topic) => self.publish(PublishRequest { namespace, topic, payload }).await,
        }
    }

    async fn start(
        &self,
        child: ExecutionId,
        parent: &Parent,
        request: StartExecutionRequest,
    ) -> Result<Answer, Error> {
        let answer = once(TIMEOUT, self.executions.clone().start_execution(impatient(request))).await?.into_inner();
        let execution = answer.execution.unwrap_or_default();
        // Whatever else has this id is nobody's child, or another's.
        if execution.parent.as_ref().is_none_or(|found| found.task_id != parent.task_id) {
            return Err(Error::new(
                errors::Code::Exists,
                "id_taken",
                format!("the id {child} belongs to something else"),
            ));
        }
        if parent.detached {
            return Ok(Answer::Done(Ok(Payload::from_value(&json!({ "execution_id": child.to_string() })))));
        }
        Ok(match api::outcome(&execution)? {
            Some(outcome) => Answer::Done(outcome),
            None => Answer::Accepted,
        })
    }

    async fn send(&self, message: Message) -> Result<Answer, Error> {
        let mut client =
            MessageServiceClient::new(self.communication()?).max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
        let sent = once(MAIL_TIMEOUT, client.send_message(SendMessageRequest { message: Some(message) })).await?;
        Ok(Answer::Done(Ok(Payload::from_value(&json!({ "message_id": sent.into_inner().message_id })))))
    }

    async fn publish(&self, request: PublishRequest) -> Result<Answer, Error> {
        let mut client = TopicServiceClient::new(self.communication()?);
        once(MAIL_TIMEOUT, client.publish(request)).await?;
        Ok(Answer::Done(Ok(Payload::null())))
    }

    /// Any replica of communication, another each time.
    fn communication(&self) -> Result<Link, Error> {
        let replicas = self.communication.clone().now();
        let any = replicas.get(self.turn.fetch_add(1, Ordering::Relaxed) % replicas.len().max(1));
        let any = any.map(|replica| replica.link.clone());
        any.ok_or_else(|| tonic::Status::unavailable("there is no communication").into())
    }
}

/// One call.
pub(super) async fn once<T>(limit: Duration, call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Error> {
    match contracts::deadline::within(limit, call).await {
        Ok(answer) => answer.map_err(refusal),
        Err(_) => Err(Error::new(errors::Code::Timeout, "timeout", "no answer in time")),
    }
}

/// Why a call came to nothing. Whoever refuses it says so with details. A connection that breaks within an answer says no more than
/// that it does not know, and a replica of an older release that it does not know the call: both may be mended by another try.
fn refusal(status: tonic::Status) -> Error {
    use tonic::Code;
    let is_unanswered = matches!(status.code(), Code::Unknown | Code::Internal | Code::Unimplemented);
    let is_unanswered = is_unanswered && status.details().is_empty();
    let mut error = Error::from(status);
    if is_unanswered {
        error.code = errors::Code::Unavailable;
    }
    error
}

pub(super) fn bytes(payload: &Payload) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(payload.as_bytes())
}

/// What stands for a task in the ids that are made for it: the same each time.
fn random(task_id: &str) -> u128 {
    let hash = blake3::hash(task_id.as_bytes());
    hash.as_bytes()[..10].iter().fold(0, |random, byte| (random << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_breaks_off_is_no_refusal() {
        let is_final = |status| !refusal(status).code.is_transient();
        assert!(!is_final(tonic::Status::unknown("error reading a body from connection")));
        assert!(!is_final(tonic::Status::unimplemented("")));
        assert!(!is_final(tonic::Status::unavailable("the connection broke")));
        assert!(is_final(Error::internal(std::io::Error::other("a bug")).into()));
        assert!(is_final(Error::not_found("agent_not_found", "there is no such agent").into()));
        assert!(is_final(tonic::Status::out_of_range("the message is too large")));
    }
}
