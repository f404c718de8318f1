//! Does what is owed to steps and to other executions, and is no agent's work: starts and cancels children, tells the outside,
//! tells parents how their children ended, and executions that a lock may be theirs.
//!
//! Everything here may be done twice, since all of it has an id that says what it is: a child's, a message's, a signal's, a
//! task's. What is for a step is tried once, and its worker, which knows whether it is still wanted, has it tried again. What
//! is for another execution is tried a few times: what comes to nothing is found by whom it concerns, when it sweeps.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use contracts::{
    Link, Links,
    communication::v1::{
        Message, PublishRequest, SendMessageRequest, message::Recipient, message_service_client::MessageServiceClient,
        topic_service_client::TopicServiceClient,
    },
    orchestrator::v1::{
        CancelExecutionRequest, ReportChildRequest, ReviewLocksRequest, SignalExecutionRequest, StartExecutionRequest,
        execution_service_client::ExecutionServiceClient, report_child_request, start_execution_request,
    },
};
use domain::{ExecutionId, MessageId, Payload, SignalId, Timestamp};
use errors::Error;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use lifecycle::{Shutdown, crash_point};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use workflow::{ErrandKind, Failure, Parent, TaskKey, Telling};

use super::{Input, Workers};
use crate::{api, metrics, store::Store};

/// Chores that may wait for the runner; beyond it workers keep them.
pub(super) const QUEUE: usize = 1_024;
/// Chores that are under way, most of which wait for another try.
const UNDER_WAY: usize = 1_024;
/// Calls at once to executions: enough that those whose shard is moving, which wait for its owner, hold nobody else up.
const CALLS: usize = 512;
/// Calls at once to communication.
const MAILS: usize = 64;
/// Of what a sweep asks, calls at once, and how long each may take: none of it is urgent.
const ASKED_AT_ONCE: usize = 8;
const ASKED_FOR: Duration = Duration::from_secs(2);
/// How long a call may take: the owner of a shard may be looked for meanwhile.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Tries of what no worker has tried again, and the pause before the second, doubled each time.
const TRIES: u32 = 8;
/// Tries to cancel a child that is not there. It is about to start, or never will: those are many where a parent ends that was
/// about to start many. One that starts later than that asks whether it is wanted.
const TRIES_FOR_NOBODY: u32 = 3;
/// Events of earlier runs that are removed at once, and how often in a row: commits wait meanwhile.
const PORTION: u64 = 256;
const PORTIONS: u32 = 256;
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Something to do.
#[derive(Debug)]
pub(crate) enum Chore {
    /// For a step; answered with [`Input::Errand`].
    Errand { id: ExecutionId, namespace: String, task: TaskKey, task_id: String, traceparent: String, what: ErrandKind },
    /// Nobody wants this child any more.
    CancelChild { namespace: String, child: ExecutionId, reason: &'static str },
    /// This child has ended.
    Report { namespace: String, child: ExecutionId, parent: Parent, outcome: Result<Payload, Failure> },
    /// Are these children still wanted? Answered with [`Input::Unwanted`] for each that is not.
    Ask { asked: Vec<Asking> },
    /// Which of these children have ended? Answered with [`Input::Again`] for each.
    Look { children: Vec<(ExecutionId, TaskKey, ExecutionId)> },
    /// The execution may have got a lock.
    Review { id: ExecutionId },
    /// What happened before then in earlier runs of these executions may go; with the event with which the present run began.
    Prune { runs: Vec<(ExecutionId, u64)>, before: Timestamp },
}

/// A child that asks its parent whether it is still wanted.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(super) namespace: String,
    pub(super) child: ExecutionId,
    pub(super) parent: Parent,
}

/// What came of an errand.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is done, or cannot be.
    Done(Result<Payload, Failure>),
    /// The child goes on, and will report its end.
    Accepted,
    /// It may be done when it is tried again.
    Again { why: String },
}

/// Whom the runner calls.
pub(crate) struct Outside {
    /// This orchestrator, which passes on what concerns another.
    pub(crate) executions: Link,
    pub(crate) communication: Links,
    pub(crate) store: Arc<dyn Store>,
}

/// Does chores until the service ends.
pub(crate) async fn run(
    workers: Workers,
    outside: Outside,
    chores: mpsc::Receiver<Chore>,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let Outside { executions, communication, store } = outside;
    let executions = ExecutionServiceClient::new(executions)
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    let runner = Arc::new(Runner {
        workers,
        executions,
        communication,
        store,
        calls: Semaphore::new(CALLS),
        mails: Semaphore::new(MAILS),
        turn: AtomicUsize::new(0),
    });
    let chores = ReceiverStream::new(chores).map(|chore| {
        let runner = Arc::clone(&runner);
        async move { runner.perform(chore).await }.boxed()
    });
    // What is under way when the service ends is owed still, and found by whoever goes on.
    tokio::select! {
        biased;
        () = shutdown.draining() => {}
        () = chores.buffer_unordered(UNDER_WAY).collect::<()>() => {}
    }
    Ok(())
}

type Client = ExecutionServiceClient<Link>;

struct Runner {
    workers: Workers,
    executions: Client,
    communication: Links,
    store: Arc<dyn Store>,
    calls: Semaphore,
    mails: Semaphore,
    /// Of the replicas of communication, whose turn it is.
    turn: AtomicUsize,
}

impl Runner {
    async fn perform(&self, chore: Chore) {
        match chore {
            Chore::Errand { id, namespace, task, task_id, traceparent, what } => {
                crash_point("orchestrator.errand.before");
                let answer = self.errand(id, namespace, &task_id, traceparent, what).await;
                crash_point("orchestrator.errand.after");
                self.workers.tell(id, Input::Errand { id, task, answer }).await;
            }
            Chore::CancelChild { namespace, child, reason } => self.cancel(namespace, child, reason).await,
            Chore::Report { namespace, child, parent, outcome } => {
                let request = report(namespace, &parent, Some(outcome));
                crash_point("orchestrator.child.report");
                let tell = |mut client: Client| {
                    let request = request.clone();
                    async move { client.report_child(request).await }.boxed()
                };
                if self.insist(tries, tell).await.is_none() {
                    tracing::debug!(execution.id = %child, "a parent was not told of the end of its child; it looks by itself");
                }
            }
            Chore::Ask { asked } => {
                stream::iter(asked).for_each_concurrent(ASKED_AT_ONCE, |asking| self.ask(asking)).await;
            }
            Chore::Look { children } => self.look(children).await,
            Chore::Prune { runs, before } => self.prune(runs, before).await,
            Chore::Review { id } => {
                let request = ReviewLocksRequest { execution_id: id.to_string() };
                let tell = |mut client: Client| {
                    let request = request.clone();
                    async move { client.review_locks(request).await }.boxed()
                };
                self.insist(tries, tell).await;
            }
        }
    }

    async fn cancel(&self, namespace: String, child: ExecutionId, reason: &'static str) {
        let request = CancelExecutionRequest { namespace, execution_id: child.to_string(), reason: reason.to_owned() };
        crash_point("orchestrator.child.cancel");
        let is_nobody = |error: &Error| error.reason == "execution_not_found";
        let tries = |error: &Error| if is_nobody(error) { TRIES_FOR_NOBODY } else { tries(error) };
        let cancel = |mut client: Client| {
            let request = request.clone();
            async move { client.cancel_execution(request).await }.boxed()
        };
        self.insist(tries, cancel).await;
    }

    async fn ask(&self, Asking { namespace, child, parent }: Asking) {
        let request = report(namespace, &parent, None);
        let mut client = self.executions.clone();
        // Where nobody answers it asks again with another sweep.
        let Ok(answer) = contracts::deadline::within(ASKED_FOR, client.report_child(request)).await else { return };
        let is_unwanted = match answer.map_err(Error::from) {
            Ok(answer) => !answer.into_inner().wanted,
            Err(error) => error.reason == "execution_not_found",
        };
        if is_unwanted {
            self.workers.tell(child, Input::Unwanted { id: child }).await;
        }
    }

    /// One call to an execution.
    async fn call<T>(&self, call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Error> {
        once(&self.calls, call).await
    }

    /// The same again and again, for a while; nothing where that was in vain. `tries`: how many, where it ends with this.
    async fn insist<T>(
        &self,
        tries: impl Fn(&Error) -> u32,
        call: impl Fn(Client) -> BoxFuture<'static, Result<T, tonic::Status>>,
    ) -> Option<T> {
        let mut tried = 0;
        loop {
            let error = match self.call(call(self.executions.clone())).await {
                Ok(answer) => return Some(answer),
                Err(error) => error,
            };
            tried += 1;
            if tried >= tries(&error) {
                return None;
            }
            tokio::time::sleep(TRY_AGAIN * 2_u32.pow(tried - 1)).await;
        }
    }

    async fn errand(
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
            ErrandKind::Tell { to, payload } => {
                self.tell(id, namespace, task_id, traceparent, to, bytes(&payload)).await
            }
        };
        match done {
            Ok(answer) => answer,
            Err(error) if error.code.is_transient() => {
                tracing::debug!(task.id = task_id, error = errors::chain(&error), "an errand is to be tried again");
                Answer::Again { why: error.to_string() }
            }
            Err(error) => Answer::Done(Err(Failure::fatal(error.reason, error.message))),
        }
    }

    async fn tell(
        &self,
        id: ExecutionId,
        namespace: String,
        task_id: &str,
        traceparent: String,
        to: Telling,
        payload: bytes::Bytes,
    ) -> Result<Answer, Error> {
        match to {
            Telling::Signal { execution, name } => {
                let signal_id = SignalId::from_parts(millis(id), random(task_id)).to_string();
                let output = Payload::from_value(&json!({ "signal_id": signal_id }));
                let sender = task_id.to_owned();
                let request =
                    SignalExecutionRequest { namespace, execution_id: execution, name, payload, sender, signal_id };
                self.call(self.executions.clone().signal_execution(request)).await?;
                Ok(Answer::Done(Ok(output)))
            }
            Telling::Agent(agent_id) => {
                let message = Message {
                    id: MessageId::from_parts(millis(id), random(task_id)).to_string(),
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
        let answer = self.call(self.executions.clone().start_execution(request)).await?.into_inner();
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
        let sent = once(&self.mails, client.send_message(SendMessageRequest { message: Some(message) })).await?;
        Ok(Answer::Done(Ok(Payload::from_value(&json!({ "message_id": sent.into_inner().message_id })))))
    }

    async fn publish(&self, request: PublishRequest) -> Result<Answer, Error> {
        let mut client = TopicServiceClient::new(self.communication()?);
        once(&self.mails, client.publish(request)).await?;
        Ok(Answer::Done(Ok(Payload::null())))
    }

    /// Any replica of communication, another each time.
    fn communication(&self) -> Result<Link, Error> {
        let replicas = self.communication.clone().now();
        let any = replicas.get(self.turn.fetch_add(1, Ordering::Relaxed) % replicas.len().max(1));
        let any = any.map(|replica| replica.link.clone());
        any.ok_or_else(|| tonic::Status::unavailable("there is no communication").into())
    }

    async fn prune(&self, runs: Vec<(ExecutionId, u64)>, before: Timestamp) {
        for (id, run) in runs {
            for _ in 0..PORTIONS {
                crash_point("orchestrator.prune.before");
                let pruned = self.store.prune(id, run, before, PORTION).await;
                crash_point("orchestrator.prune.after");
                match pruned {
                    Ok(0) => break,
                    Ok(rows) => metrics::pruned(rows),
                    // A later sweep has it tried again.
                    Err(error) => {
                        return tracing::warn!(error = errors::chain(&error), "earlier runs cannot be removed");
                    }
                }
            }
        }
    }

    async fn look(&self, children: Vec<(ExecutionId, TaskKey, ExecutionId)>) {
        let ids: Vec<_> = children.iter().map(|(_, _, child)| *child).collect();
        let ended = match self.store.ended(&ids).await {
            Ok(ended) => ended,
            // The next sweep looks again.
            Err(error) => {
                return tracing::warn!(error = errors::chain(&error), "cannot look which children have ended");
            }
        };
        for (id, task, child) in children {
            if ended.contains(&child) {
                self.workers.tell(id, Input::Again { id, task }).await;
            }
        }
    }
}

/// One call, where so many are allowed at once.
async fn once<T>(allowed: &Semaphore, call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Error> {
    // It is never closed.
    let _permit = allowed.acquire().await;
    match contracts::deadline::within(TIMEOUT, call).await {
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

fn tries(error: &Error) -> u32 {
    if error.code.is_transient() { TRIES } else { 1 }
}

fn report(namespace: String, parent: &Parent, outcome: Option<Result<Payload, Failure>>) -> ReportChildRequest {
    use report_child_request::Outcome;
    let outcome = outcome.map(|outcome| match outcome {
        Ok(output) => Outcome::Output(bytes(&output)),
        Err(failure) => Outcome::Failure(api::failure(&failure)),
    });
    let (execution_id, task_id) = (parent.execution_id.to_string(), parent.task_id.clone());
    ReportChildRequest { namespace, execution_id, task_id, outcome }
}

fn bytes(payload: &Payload) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(payload.as_bytes())
}

/// When the execution with this id was made, as the id says.
fn millis(id: ExecutionId) -> u64 {
    id.to_bytes()[..6].iter().fold(0, |millis, byte| (millis << 8) | u64::from(*byte))
}

/// What stands for a task in the ids that are made for it: the same each time.
fn random(task_id: &str) -> u128 {
    let hash = blake3::hash(task_id.as_bytes());
    hash.as_bytes()[..10].iter().fold(0, |random, byte| (random << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use tokio::{sync::watch, time::Instant};
    use tonic::{body::Body, codegen::http};

    use super::*;
    use crate::workers::bench;

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

    #[tokio::test]
    async fn children_that_never_were_hold_up_nothing_else_when_they_are_cancelled() {
        let directory = tempfile::tempdir().unwrap();
        let (shared, shutdown) = (bench::shared(directory.path()).await, Shutdown::new());
        let store = Arc::clone(&shared.store);
        let workers = Workers { shared, inputs: vec![mpsc::channel(1).0].into(), shutdown: shutdown.clone() };
        let (asked, mut was_asked) = watch::channel(false);
        let executions = Link::new(tower::service_fn(move |request: http::Request<Body>| {
            if request.uri().path().ends_with("/ReviewLocks") {
                asked.send_replace(true);
            }
            let nobody = tonic::Status::from(Error::not_found("execution_not_found", "there is no such execution"));
            async move { Err::<http::Response<Body>, _>(nobody) }
        }));
        let communication = Links::watched(watch::channel(Arc::from([])).1);
        let (chores, queue) = mpsc::channel(QUEUE);
        let id = |number: usize| ExecutionId::from_parts(1, number as u128);
        // From here on time goes by where all wait, and only there.
        tokio::time::pause();
        let begun = Instant::now();
        let orders = async {
            for number in 0..2 * UNDER_WAY {
                let (namespace, child) = ("default".to_owned(), id(number));
                chores.send(Chore::CancelChild { namespace, child, reason: "it is not wanted" }).await.unwrap();
            }
            chores.send(Chore::Review { id: id(1) }).await.unwrap();
            was_asked.wait_for(|asked| *asked).await.unwrap();
        };
        tokio::select! {
            _ = run(workers, Outside { executions, communication, store }, queue, shutdown) => panic!("it ends"),
            () = orders => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "after {:?}", begun.elapsed());
    }
}
