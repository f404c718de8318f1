//! Does what is owed to steps and to other executions, and is no agent's work: starts and cancels children, tells the outside,
//! tells parents how their children ended, and executions that a lock may be theirs.
//!
//! Everything here may be done twice, since all of it has an id that says what it is: a child's, a message's, a signal's, a
//! task's. What is for a step is tried once, and its worker, which knows whether it is still wanted, has it tried again. What
//! is for another execution is tried a few times: what comes to nothing is found by whom it concerns, when it sweeps.
//!
//! Nobody waits here for a shard that moves, and what waits for another try takes nobody's place.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use contracts::{
    Link, Links,
    orchestrator::v1::{
        CancelExecutionRequest, ReportChildRequest, ReviewLocksRequest,
        execution_service_client::ExecutionServiceClient, report_child_request,
    },
};
use domain::{ExecutionId, Payload, Timestamp};
use errors::Error;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::FuturesUnordered};
use lifecycle::{Shutdown, crash_point};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use workflow::{Failure, Parent, TaskKey};

use super::{
    Chore, Input, Lanes, Workers,
    chores::Asking,
    outside::{TIMEOUT, bytes, once},
};
use crate::{api, metrics, store::Store};

/// Calls at once to executions, to communication, and to executions that may have got a lock.
const CALLS: usize = 512;
const MAILS: usize = 64;
const LOCKS: usize = 64;
/// Of what a sweep asks, calls at once, and how long each may take: none of it is urgent.
const ASKED_AT_ONCE: usize = 8;
const ASKED_FOR: Duration = Duration::from_secs(2);
/// Tries of what no worker has tried again, and the pause before the second, doubled each time.
const TRIES: u32 = 8;
/// Tries to cancel a child that is not there. It is about to start, or never will: those are many where a parent ends that was
/// about to start many. One that starts later than that asks whether it is wanted.
const TRIES_FOR_NOBODY: u32 = 3;
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// What waits for another try; beyond it whom it concerns finds it by itself.
const MOST_LATER: usize = 16_384;
/// Rows of earlier runs that are removed at once: commits wait meanwhile, and come in between.
const PORTION: u64 = 64;

/// What came of an errand.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is done, or cannot be.
    Done(Result<Payload, Failure>),
    /// The child goes on, and will report its end.
    Accepted,
    /// It may be done when it is tried again, so much later at most.
    Again { why: String, at_most: Duration },
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
    chores: Lanes<mpsc::Receiver<Chore>>,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let Outside { executions, communication, store } = outside;
    let executions = ExecutionServiceClient::new(executions)
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    let runner = Runner { workers, executions, communication, store, turn: AtomicUsize::new(0) };
    let Lanes { calls, mails, locks } = chores;
    let all = async {
        tokio::join!(lane(&runner, calls, CALLS), lane(&runner, mails, MAILS), lane(&runner, locks, LOCKS));
    };
    // What is under way when the service ends is owed still, and found by whoever goes on.
    tokio::select! {
        biased;
        () = shutdown.draining() => {}
        () = all => {}
    }
    Ok(())
}

/// A chore that is to be tried again, how often it was, and when.
type Later = (Chore, u32, Instant);

/// Does the chores of one lane, so many at once.
async fn lane(runner: &Runner, mut chores: mpsc::Receiver<Chore>, at_once: usize) {
    let mut under_way = FuturesUnordered::<BoxFuture<'_, Option<Later>>>::new();
    let mut later = BTreeMap::<(Instant, u64), (Chore, u32)>::new();
    let mut number = 0_u64;
    loop {
        let has_room = under_way.len() < at_once;
        let due = later.first_key_value().map(|((at, _), _)| *at);
        // All arms are cancel-safe.
        tokio::select! {
            biased;
            Some(undone) = under_way.next(), if !under_way.is_empty() => {
                if let Some((chore, tried, at)) = undone.filter(|_| later.len() < MOST_LATER) {
                    number += 1;
                    later.insert((at, number), (chore, tried));
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if has_room && due.is_some() => {
                if let Some((_, (chore, tried))) = later.pop_first() {
                    under_way.push(runner.perform(chore, tried).boxed());
                }
            }
            Some(chore) = chores.recv(), if has_room => under_way.push(runner.perform(chore, 0).boxed()),
            else => return,
        }
    }
}

pub(super) type Client = ExecutionServiceClient<Link>;

pub(super) struct Runner {
    workers: Workers,
    pub(super) executions: Client,
    pub(super) communication: Links,
    store: Arc<dyn Store>,
    /// Of the replicas of communication, whose turn it is.
    pub(super) turn: AtomicUsize,
}

impl Runner {
    /// `tried`: how often before this. Answers with what is to be tried again.
    async fn perform(&self, chore: Chore, tried: u32) -> Option<Later> {
        let done = match &chore {
            Chore::Errand { .. } => return self.errand_of(chore).await,
            Chore::Ask { .. } => return self.ask_all(chore).await,
            Chore::Look { children } => return self.look(children).await,
            Chore::Prune { runs, before } => return self.prune(runs, *before).await,
            Chore::CancelChild { namespace, child, reason, .. } => self.cancel(namespace, *child, reason).await,
            Chore::Report { namespace, parent, outcome, .. } => {
                crash_point("orchestrator.child.report");
                let request = report(namespace.clone(), parent, Some(outcome.clone()));
                once(TIMEOUT, self.executions.clone().report_child(impatient(request))).await.map(drop)
            }
            Chore::Review { id } => {
                let request = ReviewLocksRequest { execution_id: id.to_string() };
                once(TIMEOUT, self.executions.clone().review_locks(impatient(request))).await.map(drop)
            }
        };
        let error = done.err()?;
        if tried + 1 < tries(&chore, &error) {
            return Some((chore, tried + 1, Instant::now() + TRY_AGAIN * 2_u32.pow(tried)));
        }
        if let Chore::Report { child, .. } = chore {
            tracing::debug!(execution.id = %child, "a parent was not told of the end of its child; it looks by itself");
        }
        None
    }

    async fn errand_of(&self, chore: Chore) -> Option<Later> {
        let Chore::Errand { id, namespace, task, task_id, traceparent, what } = chore else { return None };
        crash_point("orchestrator.errand.before");
        let answer = self.errand(id, namespace, &task_id, traceparent, what).await;
        crash_point("orchestrator.errand.after");
        self.workers.tell(id, Input::Errand { id, task, answer }).await;
        None
    }

    async fn cancel(&self, namespace: &str, child: ExecutionId, reason: &str) -> Result<(), Error> {
        let (namespace, execution_id, reason) = (namespace.to_owned(), child.to_string(), reason.to_owned());
        let request = CancelExecutionRequest { namespace, execution_id, reason };
        crash_point("orchestrator.child.cancel");
        once(TIMEOUT, self.executions.clone().cancel_execution(impatient(request))).await.map(drop)
    }

    async fn ask_all(&self, chore: Chore) -> Option<Later> {
        let Chore::Ask { asked } = chore else { return None };
        stream::iter(asked).for_each_concurrent(ASKED_AT_ONCE, |asking| self.ask(asking)).await;
        None
    }

    async fn ask(&self, Asking { namespace, child, parent }: Asking) {
        let request = report(namespace, &parent, None);
        let mut client = self.executions.clone();
        // Where nobody answers it asks again with another sweep.
        let Ok(answer) = contracts::deadline::within(ASKED_FOR, client.report_child(impatient(request))).await else {
            return;
        };
        let is_unwanted = match answer.map_err(Error::from) {
            Ok(answer) => !answer.into_inner().wanted,
            Err(error) => error.reason == "execution_not_found",
        };
        if is_unwanted {
            self.workers.tell(child, Input::Unwanted { id: child }).await;
        }
    }

    async fn prune(&self, runs: &[(ExecutionId, u64)], before: Timestamp) -> Option<Later> {
        for &(id, run) in runs {
            loop {
                crash_point("orchestrator.prune.before");
                let pruned = self.store.prune(id, run, before, PORTION).await;
                if matches!(pruned, Ok(1..)) {
                    crash_point("orchestrator.prune.after");
                }
                match pruned {
                    Ok(rows) => {
                        metrics::pruned(rows);
                        if rows < PORTION {
                            break;
                        }
                    }
                    // A later sweep has it tried again.
                    Err(error) => {
                        tracing::warn!(error = errors::chain(&error), "earlier runs cannot be removed");
                        return None;
                    }
                }
            }
        }
        None
    }

    async fn look(&self, children: &[(ExecutionId, TaskKey, ExecutionId)]) -> Option<Later> {
        let ids: Vec<_> = children.iter().map(|(_, _, child)| *child).collect();
        let ended = match self.store.ended(&ids).await {
            Ok(ended) => ended,
            // The next sweep looks again.
            Err(error) => {
                tracing::warn!(error = errors::chain(&error), "cannot look which children have ended");
                return None;
            }
        };
        for &(id, task, child) in children {
            if ended.contains(&child) {
                self.workers.tell(id, Input::Again { id, task }).await;
            }
        }
        None
    }
}

/// A request that is answered at once where its shard moves.
pub(super) fn impatient<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(api::IMPATIENT, tonic::metadata::MetadataValue::from_static("1"));
    request
}

/// How often something is tried that ends with this.
fn tries(chore: &Chore, error: &Error) -> u32 {
    match chore {
        Chore::CancelChild { .. } if error.reason == "execution_not_found" => TRIES_FOR_NOBODY,
        _ if error.code.is_transient() => TRIES,
        _ => 1,
    }
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

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tonic::{body::Body, codegen::http};

    use super::*;
    use crate::workers::{bench, chores};

    /// A runner whose calls to executions are refused with this reason, but those whose path ends so, which are noted.
    async fn while_refused(
        refused: fn() -> Error,
        noted: &'static str,
        orders: impl AsyncFnOnce(&Lanes<mpsc::Sender<Chore>>),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (shared, shutdown) = (bench::shared(directory.path()).await, Shutdown::new());
        let store = Arc::clone(&shared.store);
        let workers = Workers { shared, inputs: vec![mpsc::channel(1).0].into(), shutdown: shutdown.clone() };
        let (note, mut was_noted) = watch::channel(false);
        let executions = Link::new(tower::service_fn(move |request: http::Request<Body>| {
            assert!(request.headers().contains_key(api::IMPATIENT), "it waits for a shard that moves");
            if request.uri().path().ends_with(noted) {
                note.send_replace(true);
            }
            let refused = tonic::Status::from(refused());
            async move { Err::<http::Response<Body>, _>(refused) }
        }));
        let communication = Links::watched(watch::channel(Arc::from([])).1);
        let (sender, receiver) = chores::lanes();
        // From here on time goes by where all wait, and only there.
        tokio::time::pause();
        let begun = Instant::now();
        let done = async {
            orders(&sender).await;
            was_noted.wait_for(|noted| *noted).await.unwrap();
        };
        tokio::select! {
            _ = run(workers, Outside { executions, communication, store }, receiver, shutdown) => panic!("it ends"),
            () = done => {}
        }
        assert!(begun.elapsed() < TRY_AGAIN, "after {:?}", begun.elapsed());
    }

    async fn cancel_many(lanes: &Lanes<mpsc::Sender<Chore>>) {
        for number in 0..4 * CALLS {
            let (namespace, child) = ("default".to_owned(), ExecutionId::from_parts(1, number as u128));
            let chore = Chore::CancelChild { id: child, namespace, child, reason: "it is not wanted" };
            lanes.calls.send(chore).await.unwrap();
        }
    }

    async fn report_one(lanes: &Lanes<mpsc::Sender<Chore>>) {
        let parent =
            Parent { execution_id: ExecutionId::from_parts(1, 1), task_id: String::new(), detached: false, depth: 1 };
        let child = ExecutionId::from_parts(1, 2);
        let outcome = Ok(Payload::null());
        lanes.calls.send(Chore::Report { namespace: "default".to_owned(), child, parent, outcome }).await.unwrap();
    }

    #[tokio::test]
    async fn children_that_never_were_hold_up_nothing_else_when_they_are_cancelled() {
        let nobody = || Error::not_found("execution_not_found", "there is no such execution");
        while_refused(nobody, "/ReportChild", async |lanes| {
            cancel_many(lanes).await;
            report_one(lanes).await;
        })
        .await;
    }

    #[tokio::test]
    async fn shards_that_move_hold_up_nothing_else() {
        let moving = || Error::from(crate::error::OrchestratorError::Moved);
        while_refused(moving, "/ReportChild", async |lanes| {
            cancel_many(lanes).await;
            report_one(lanes).await;
        })
        .await;
    }
}
