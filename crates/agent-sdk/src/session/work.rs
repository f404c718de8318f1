//! Running handlers: their panics, their cancellation, their outcomes.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use contracts::communication::v1::{self as proto, agent_event::Event, task_result::Outcome};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Shared, spans};
use crate::{
    Agent, Context, Failure, Message, Outgoing, Output, Refusal, SendError, Task,
    message::{REPLY, REQUEST},
};

/// What does not fit into a message of the session cannot be an output.
const MOST_OUTPUT: usize = contracts::MAX_MESSAGE_BYTES / 2;

/// The largest answer to a request, in bytes: what communication takes as a message's payload.
const MOST_ANSWER: usize = 4 << 20;

/// A run of a task, from hand-over to result.
pub(super) async fn run_task(
    agent: Arc<Agent>,
    shared: Arc<Shared>,
    task: proto::Task,
    run: u64,
    cancelled: CancellationToken,
) {
    let task_id = task.id.clone();
    let span = spans::task(&agent, &task);
    let mut task = Task::from_proto(task, Context::new(Arc::clone(&shared)), cancelled.clone());
    spans::go_on(&span, &mut task.traceparent);
    let traceparent = task.traceparent.clone();
    let mut outcome = pin!(perform(&agent, task).instrument(span.clone()));
    // Most tasks end at once; those are not announced as begun, which saves an event each.
    let outcome = match futures::poll!(outcome.as_mut()) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => {
            shared.hint(Event::Started(proto::TaskStarted { task_id: task_id.clone() }));
            tokio::select! {
                biased;
                // Dropping the handler where it stands is what cancelling means.
                () = cancelled.cancelled() => return,
                outcome = outcome => outcome,
            }
        }
    };
    let outcome = match outcome {
        Ok(output) => Outcome::Output(output.into_bytes()),
        Err(failure) => {
            spans::fail(&span, &failure.code);
            Outcome::Failure(failure.into_proto())
        }
    };
    shared.finish(run, proto::TaskResult { task_id, outcome: Some(outcome), traceparent });
}

async fn perform(agent: &Agent, task: Task) -> Result<Output, Failure> {
    let action = task.action.clone();
    let ended = AssertUnwindSafe(agent.perform(task)).catch_unwind().await;
    let output = ended.unwrap_or_else(|panic| {
        let failure = Failure::panic(panic.as_ref());
        tracing::error!(agent = agent.label(), action, reason = failure.message, "handler panicked");
        Err(failure)
    })?;
    match output.as_bytes().len() {
        length if length > MOST_OUTPUT => {
            let message = format!("the output has {length} bytes; at most {MOST_OUTPUT} fit");
            Err(Failure::fatal("output_too_large", message))
        }
        _ => Ok(output),
    }
}

/// A message, from delivery to its end.
pub(super) async fn run_message(agent: Arc<Agent>, shared: Arc<Shared>, mut message: Message) {
    let id = message.id.clone();
    let span = spans::message(&agent, &message);
    spans::go_on(&span, &mut message.traceparent);
    let handled = AssertUnwindSafe(handle(&agent, &shared, message)).catch_unwind().instrument(span.clone()).await;
    let handled = handled.unwrap_or_else(|panic| {
        let failure = Failure::panic(panic.as_ref());
        tracing::error!(agent = agent.label(), reason = failure.message, "message handler panicked");
        Err(failure.into())
    });
    let end = match handled {
        Ok(()) => Event::MessageAck(proto::MessageAck { message_id: id.clone() }),
        Err(Refusal::Retry { reason, delay }) => {
            spans::fail(&span, "retry");
            let delay_ms = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
            Event::Nack(proto::Nack { delivery_id: id.clone(), reason, delay_ms })
        }
        Err(Refusal::Reject { reason }) => {
            spans::fail(&span, "reject");
            Event::Reject(proto::Reject { delivery_id: id.clone(), reason })
        }
    };
    shared.finish_message(id, end);
}

async fn handle(agent: &Agent, shared: &Arc<Shared>, message: Message) -> Result<(), Refusal> {
    if message.kind == REPLY {
        // Nobody waits for an answer that comes late; it has been dealt with all the same.
        if !shared.resolve(&message.correlation_id, message.payload_bytes()) {
            tracing::debug!(agent = agent.label(), message.id, "a reply came that nobody waits for");
        }
        return Ok(());
    }
    let context = Context::new(Arc::clone(shared));
    if agent.answers_requests
        && message.kind == REQUEST
        && let Some((action, input)) = request(&message)
    {
        return answer(agent, context, message, action, input).await;
    }
    match &agent.on_message {
        Some(handler) => handler(context, message).await,
        None => Err(Refusal::Reject { reason: format!("the agent takes no messages of the type {:?}", message.kind) }),
    }
}

/// The action and input that a message asks for, if it does.
fn request(message: &Message) -> Option<(String, Bytes)> {
    #[derive(Deserialize)]
    struct Request<'a> {
        action: String,
        #[serde(borrow, default)]
        input: Option<&'a RawValue>,
    }
    let request: Request<'_> = message.payload().ok()?;
    let input = request.input.map_or(&b"null"[..], |input| input.get().as_bytes());
    Some((request.action, Bytes::copy_from_slice(input)))
}

/// Does an action that was asked for by message, and sends the outcome back.
async fn answer(
    agent: &Agent,
    context: Context,
    message: Message,
    action: String,
    input: Bytes,
) -> Result<(), Refusal> {
    #[derive(Serialize)]
    struct Answer<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<&'a Failure>,
    }
    let task = Task::from_request(&message, action, input, context.clone());
    let outcome = perform(agent, task).await;
    let output = match &outcome {
        Ok(output) => Some(serde_json::from_slice::<&RawValue>(output.as_bytes())),
        Err(_) => None,
    };
    let output =
        output.transpose().map_err(|error| Refusal::from(Failure::fatal("invalid_output", error.to_string())))?;
    let encode = |answer: Answer<'_>| {
        serde_json::to_vec(&answer).map_err(|error| Refusal::from(Failure::fatal("invalid_output", error.to_string())))
    };
    let mut answer = encode(Answer { output, failure: outcome.as_ref().err() })?;
    if answer.len() > MOST_ANSWER {
        let message = format!("the answer has {} bytes; at most {MOST_ANSWER} fit a message", answer.len());
        let failure = Failure::fatal("output_too_large", message);
        answer = encode(Answer { output: None, failure: Some(&failure) })?;
    }
    let Some(reply) = Outgoing::reply(&message, answer.into()) else { return Ok(()) };
    context.send(reply).await.map(drop).map_err(|error| unsent(&error))
}

/// What becomes of a request whose answer could not be sent. The action was done: doing it again is right only where the
/// answer may get through then.
fn unsent(error: &SendError) -> Refusal {
    /// Reasons of the server that pass.
    const PASSING: [&str; 5] =
        ["mailbox_full", "database_unavailable", "registry_unavailable", "stopping", "no_live_agent"];
    let reason = format!("the answer could not be sent: {error}");
    match error {
        SendError::Refused(why) if !PASSING.iter().any(|reason| why.starts_with(reason)) => Refusal::Reject { reason },
        SendError::Refused(_) | SendError::Deadline | SendError::Busy | SendError::Closed => {
            Refusal::Retry { reason, delay: Duration::from_secs(1) }
        }
    }
}
