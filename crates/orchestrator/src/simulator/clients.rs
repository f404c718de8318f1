//! Those who start executions, signal and cancel them, ask about them, and remember what they were told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use domain::{ExecutionId, Namespace, Payload};
use futures::{FutureExt as _, future::BoxFuture};
use rand::Rng;
use workflow::{Command, Plan, Rejected, Status, invariant::shown_is_committed};

use super::{workflows, world::World};
use crate::{
    app::{App, Snapshot, StartCall},
    error::OrchestratorError,
    store::WorkflowRef,
};

/// An execution, as its client sees it.
pub(super) struct Run {
    pub(super) id: ExecutionId,
    pub(super) workflow: usize,
    pub(super) plan: Arc<Plan>,
    pub(super) input: Payload,
    /// How it is to end, where that is certain.
    pub(super) expected: Option<(Status, Option<Payload>)>,
    pub(super) is_accepted: AtomicBool,
    /// Has its client nothing more to say?
    pub(super) is_done: AtomicBool,
}

/// What an answer means for its caller.
enum Meaning {
    Done,
    Again,
}

impl Run {
    /// Everything that a client does with one execution.
    pub(super) async fn live(self: Arc<Self>, world: Arc<World>) {
        let pause = |most| world.ground.while_of(1..most);
        tokio::time::sleep(pause(8_000)).await;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let call = self.start_call(&world, attempts == 1);
            let answer = world.call(move |app: Arc<App>| async move { app.start(call).await }.boxed()).await;
            if let Meaning::Done = self.hear(&world, "start", answer) {
                break;
            }
            tokio::time::sleep(pause(500)).await;
        }
        self.is_accepted.store(true, Ordering::SeqCst);
        self.signal(&world, 0).await;
        let which = world.ground.dice().random_range(0..10);
        match which {
            0 => {
                self.say(&world, "pause", &Command::Pause).await;
                self.say(&world, "resume", &Command::Resume).await;
            }
            1 if self.expected.is_none() => {
                self.say(&world, "cancel", &Command::Cancel { reason: "it is not wanted".to_owned() }).await;
            }
            2 if self.expected.is_none() => {
                tokio::time::sleep(pause(6_000)).await;
                self.say(&world, "retry", &Command::Retry { lost: None }).await;
                // Those before may have been used up.
                self.signal(&world, 1_000).await;
            }
            2..5 => {
                tokio::time::sleep(pause(3_000)).await;
                let (namespace, id) = (Namespace::default(), self.id);
                let get = move |app: Arc<App>| async move { app.get(&namespace, id, true).await }.boxed();
                let answer = world.call(get).await;
                let _ = self.hear(&world, "get", answer);
            }
            5 => {
                let (namespace, id) = (Namespace::default(), self.id);
                let explain = move |app: Arc<App>| async move { app.explain(namespace, id).await }.boxed();
                let answer: Option<Result<_, OrchestratorError>> = world.call(explain).await;
                if let Some(Err(error)) = answer {
                    let _ = self.mean(&world, "explain", &error);
                }
            }
            _ => {}
        }
        self.is_done.store(true, Ordering::SeqCst);
    }

    /// Gives it all the signals that it may wait for, with ids from here on.
    async fn signal(&self, world: &World, from: u128) {
        for number in 0..workflows::signals(&self.plan) as u128 {
            self.say(world, "signal", &workflows::signal_command(from + number)).await;
        }
    }

    fn start_call(&self, world: &World, is_first: bool) -> StartCall {
        StartCall {
            namespace: Namespace::default(),
            id: self.id,
            is_fresh: is_first && world.ground.chance(0.5),
            workflow: WorkflowRef::Id(World::workflow_id(self.workflow)),
            version: None,
            input: self.input.clone(),
            wait: if world.ground.chance(0.3) { world.ground.while_of(1..5_000) } else { Duration::ZERO },
            traceparent: String::new(),
            parent: None,
        }
    }

    /// Says something until it is heard.
    async fn say(&self, world: &World, what: &str, command: &Command) {
        loop {
            tokio::time::sleep(world.ground.while_of(1..1_500)).await;
            let (namespace, id, command) = (Namespace::default(), self.id, command.clone());
            let call = move |app: Arc<App>| -> BoxFuture<'static, _> {
                async move { app.command(namespace, id, command).await }.boxed()
            };
            let answer = world.call(call).await;
            if let Meaning::Done = self.hear(world, what, answer) {
                return;
            }
        }
    }

    /// What is shown to a caller is committed (I1).
    fn hear(&self, world: &World, what: &str, answer: Option<Result<Snapshot, OrchestratorError>>) -> Meaning {
        match answer {
            Some(Ok(snapshot)) => {
                let shown = &snapshot.summary;
                world.ground.tell("client", || {
                    format!("hears that {} is {:?} at {}, upon {what}", self.id, shown.status, shown.last_sequence)
                });
                let committed = world.database.tables().committed(shown);
                if let Err(breach) = shown_is_committed(shown.last_sequence, committed) {
                    world.ground.breach(|| format!("{breach}, upon {what} of {}", self.id));
                }
                Meaning::Done
            }
            Some(Err(error)) => self.mean(world, what, &error),
            None => Meaning::Again,
        }
    }

    fn mean(&self, world: &World, what: &str, error: &OrchestratorError) -> Meaning {
        use OrchestratorError as E;
        world.ground.tell("client", || format!("hears upon {what} of {}: {error}", self.id));
        match error {
            E::Moved | E::NotCommitted | E::TimedOut | E::Overloaded | E::Stopping | E::Database(_) | E::Unread(_) => {
                Meaning::Again
            }
            // It has ended meanwhile, or is about to; or it cannot be retried.
            E::Rejected(Rejected::Ended | Rejected::NotFailed | Rejected::Compensated) => Meaning::Done,
            E::ExecutionNotFound(_) if self.is_accepted.load(Ordering::SeqCst) => {
                world.ground.breach(|| format!("I1: {} was accepted, and {what} does not find it", self.id));
                Meaning::Done
            }
            other => {
                world.ground.breach(|| format!("{what} of {} is refused: {other}", self.id));
                Meaning::Done
            }
        }
    }
}
