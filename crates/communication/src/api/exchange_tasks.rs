//! `ExchangeTasks`: an orchestrator's stream.

use std::{convert::Infallible, pin::Pin, time::Duration};

use contracts::communication::v1::{
    ExchangeTasksRequest, ExchangeTasksResponse, OrchestratorEvent, Task, TaskUpdate, orchestrator_event::Event,
    task::Target, task_result::Outcome, task_service_server::TaskService, task_update::Update,
};
use domain::{AgentId, check_name};
use errors::Error;
use futures::Stream;
use lifecycle::OnExit;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use crate::app::{
    letters,
    outgoing::{Outgoing, channel},
    record::Id,
};

/// From the opened stream to its `attach`.
const ATTACH_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) type Responses = Pin<Box<dyn Stream<Item = Result<ExchangeTasksResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TaskService for Api {
    type ExchangeTasksStream = Responses;

    async fn exchange_tasks(
        &self,
        request: Request<Streaming<ExchangeTasksRequest>>,
    ) -> Result<Response<Self::ExchangeTasksStream>, Status> {
        let incoming = request.into_inner();
        let (outgoing, frames) = channel(self.0.terms.stream_buffer);
        let api = self.clone();
        self.0.tasks.spawn("communication.exchange", OnExit::Continue, async move {
            api.exchange(incoming, outgoing).await;
            Ok::<(), Infallible>(())
        });
        Ok(Response::new(Box::pin(frames.responses(size, |updates| ExchangeTasksResponse { updates }))))
    }
}

/// Roughly what an update takes in a frame.
fn size(update: &TaskUpdate) -> usize {
    match &update.update {
        Some(Update::Result(result)) => match &result.outcome {
            Some(Outcome::Output(output)) => output.len(),
            Some(Outcome::Failure(failure)) => failure.message.len() + failure.details.len(),
            None => 0,
        },
        Some(Update::Shown(shown)) => shown.detail.len(),
        Some(
            Update::Waiting(_)
            | Update::HandedOver(_)
            | Update::Begun(_)
            | Update::Alive(_)
            | Update::DeadLettered(_)
            | Update::Refused(_)
            | Update::Requeued(_),
        )
        | None => 0,
    }
}

impl Api {
    async fn exchange(&self, mut incoming: Streaming<ExchangeTasksRequest>, outgoing: Outgoing<TaskUpdate>) {
        let gone = outgoing.gone();
        let shutdown = self.0.tasks.shutdown();
        // Nothing has begun yet, so every arm may be dropped.
        let first = tokio::select! {
            first = attach(&mut incoming) => first,
            () = gone.cancelled() => return,
            () = shutdown.draining() => return,
        };
        let (replica, rest) = match first {
            Ok(first) => first,
            Err(error) => return outgoing.fail(error),
        };
        let Some(generation) = self.0.hub.attach(&replica, outgoing) else { return };
        let mut batch = Ok(rest);
        loop {
            match batch {
                Ok(events) => self.0.hub.order(&replica, generation, events),
                Err(error) => {
                    self.0.hub.fail_exchange(&replica, generation, error);
                    break;
                }
            }
            // Both arms are cancel-safe: `message` keeps what it has read in the stream.
            let received = tokio::select! {
                received = incoming.message() => received,
                () = gone.cancelled() => break,
            };
            batch = match received {
                Ok(Some(request)) => check(request.events),
                Ok(None) => break,
                Err(status) => {
                    tracing::debug!(replica = &*replica, %status, "exchange lost");
                    break;
                }
            };
        }
        self.0.hub.detach(&replica, generation);
    }
}

async fn attach(incoming: &mut Streaming<ExchangeTasksRequest>) -> Result<(Id, Vec<Event>), Error> {
    let missing = || Error::invalid_field("events[0].attach", "missing_field", "the first event must be `attach`");
    let first = tokio::time::timeout(ATTACH_DEADLINE, incoming.message()).await.map_err(|_| missing())??;
    let mut events = first.ok_or_else(missing)?.events;
    if events.is_empty() {
        return Err(missing());
    }
    let rest = events.split_off(1);
    match events.pop().and_then(|first| first.event) {
        Some(Event::Attach(attach)) if attach.replica_id.is_empty() => {
            Err(Error::invalid_field("events[0].attach.replica_id", "missing_field", "must name the replica"))
        }
        Some(Event::Attach(attach)) => Ok((attach.replica_id.into(), check_from(1, rest)?)),
        Some(Event::Dispatch(_) | Event::Cancel(_) | Event::Ack(_)) | None => Err(missing()),
    }
}

fn check(events: Vec<OrchestratorEvent>) -> Result<Vec<Event>, Error> {
    if events.is_empty() {
        return Err(Error::invalid_field("events", "missing_field", "must hold at least one event"));
    }
    check_from(0, events)
}

fn check_from(first: usize, events: Vec<OrchestratorEvent>) -> Result<Vec<Event>, Error> {
    let checked = events.into_iter().enumerate().map(|(index, event)| {
        let at = |path: &str| format!("events[{}].{path}", first + index);
        let Some(event) = event.event else {
            return Err(Error::invalid_field(at("event"), "missing_field", "must say something"));
        };
        match &event {
            Event::Attach(_) => {
                let message = "must be the first event, and only the first";
                return Err(Error::invalid_field(at("attach"), "misplaced", message));
            }
            Event::Dispatch(task) => task_fault(task).map_or(Ok(()), |(field, message)| {
                Err(Error::invalid_field(at(&format!("dispatch.{field}")), "invalid_value", message))
            })?,
            Event::Cancel(cancel) if cancel.task_id.is_empty() => {
                return Err(Error::invalid_field(at("cancel.task_id"), "missing_field", "must name the task"));
            }
            Event::Ack(ack) if ack.task_id.is_empty() => {
                return Err(Error::invalid_field(at("ack.task_id"), "missing_field", "must name the task"));
            }
            Event::Cancel(_) | Event::Ack(_) => {}
        }
        Ok(event)
    });
    checked.collect()
}

/// The faulty field of a task, and what is wrong with it.
fn task_fault(task: &Task) -> Option<(&'static str, String)> {
    if task.id.is_empty() {
        return Some(("id", "must not be empty".to_owned()));
    }
    if let Err(error) = letters::namespace(&task.namespace) {
        return Some(("namespace", error.message));
    }
    if task.priority > 9 {
        return Some(("priority", "must be 0 to 9".to_owned()));
    }
    let named = |field, name: &str| check_name(name).err().map(|error| (field, error.to_string()));
    match &task.target {
        None => Some(("target", "must say who may do it".to_owned())),
        Some(Target::AgentType(name)) => named("agent_type", name),
        Some(Target::Capability(name)) => named("capability", name),
        Some(Target::AgentId(id)) => {
            let parsed: Result<AgentId, _> = id.parse();
            parsed.err().map(|error| ("agent_id", error.to_string()))
        }
    }
}
