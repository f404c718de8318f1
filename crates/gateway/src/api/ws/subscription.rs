//! What one subscription tells: the events of an execution until it has ended.
//!
//! The stream of an orchestrator ends earlier, too: where the execution's shard moves to another one, and where it stops. Then it is
//! asked for again, from where it was.

use std::{sync::Arc, time::Duration};

use access::{Principal, acting_as};
use contracts::orchestrator::v1 as wire;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::{
    api::events::{self, Event},
    app::App,
    context::Context,
    problem::Problem,
    words::ExecutionId,
};

/// Before a stream is asked for again: as long as a shard is nobody's in the usual case.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it is asked for without an event in between.
const MOST_TRIES: u32 = 20;

/// What is told next.
pub(super) enum Step {
    Event(Box<Event>),
    /// The last: it cannot be told.
    Broken(Box<Problem>),
    /// The last: the execution has ended.
    Ended,
}

struct Follower {
    app: Arc<App>,
    context: Context,
    id: ExecutionId,
    /// The last event that was told.
    last: u64,
    events: BoxStream<'static, Result<Event, Problem>>,
    tries: u32,
}

/// Follows an execution after an event. Takes room for one stream until it is dropped.
pub(super) async fn open(
    app: Arc<App>,
    principal: Arc<Principal>,
    context: Context,
    id: ExecutionId,
    after: u64,
) -> Result<BoxStream<'static, Step>, Problem> {
    let events = events::open(&app, &context, &id, after).await?.boxed();
    let follower = Follower { app, context, id, last: after, events, tries: 0 };
    // While a client does not read nobody looks at its subscriptions, and in one process what they ask has a connection to the
    // database: so each is followed apart, one event ahead. The task ends with the subscription, which owns it.
    let (sender, receiver) = mpsc::channel(1);
    let mut following = JoinSet::new();
    following.spawn(acting_as(principal, follower.follow(sender)));
    let steps = stream::unfold((receiver, following), async |(mut receiver, following)| {
        let step = receiver.recv().await?;
        Some((step, (receiver, following)))
    });
    Ok(steps.boxed())
}

impl Follower {
    async fn follow(mut self, steps: mpsc::Sender<Step>) {
        loop {
            let step = match self.next().await {
                Ok(Some(event)) => Step::Event(Box::new(event)),
                Ok(None) => Step::Ended,
                Err(problem) => Step::Broken(Box::new(problem)),
            };
            let is_last = !matches!(step, Step::Event(_));
            if steps.send(step).await.is_err() || is_last {
                return;
            }
        }
    }

    /// The next event; none where the execution has ended.
    async fn next(&mut self) -> Result<Option<Event>, Problem> {
        loop {
            match self.events.next().await.transpose()? {
                Some(event) => {
                    self.last = event.sequence();
                    self.tries = 0;
                    return Ok(Some(event));
                }
                None if self.has_ended().await? => return Ok(None),
                None => self.reopen().await?,
            }
        }
    }

    /// Has it ended, and was all of it told?
    async fn has_ended(&mut self) -> Result<bool, Problem> {
        let request =
            wire::GetExecutionRequest { namespace: self.context.namespace.clone(), execution_id: self.id.to_string() };
        let asked = self.app.call(self.app.executions().get_execution(self.context.request(request))).await;
        match asked.map_err(Problem::from) {
            Ok(answer) => {
                let ended = answer.execution.filter(|execution| execution.ended_at.is_some());
                Ok(ended.is_some_and(|execution| execution.last_sequence <= self.last))
            }
            // It can be asked again when there is a stream.
            Err(problem) if problem.retry_after().is_some() => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    async fn reopen(&mut self) -> Result<(), Problem> {
        // The room of the one that has ended is free for the next.
        self.events = stream::empty().boxed();
        loop {
            self.tries += 1;
            sleep(PAUSE).await;
            match events::open(&self.app, &self.context, &self.id, self.last).await {
                Ok(events) => {
                    self.events = events.boxed();
                    return Ok(());
                }
                Err(problem) if problem.retry_after().is_some() && self.tries < MOST_TRIES => {}
                Err(problem) => return Err(problem),
            }
        }
    }
}
