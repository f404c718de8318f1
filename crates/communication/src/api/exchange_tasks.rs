//! `ExchangeTasks`: one orchestrator's stream.

use std::{convert::Infallible, sync::Arc};

use contracts::communication::v1::{
    ExchangeTasksRequest, ExchangeTasksResponse, OrchestratorEvent, orchestrator_event::Event,
    task_service_server::TaskService,
};
use errors::Error;
use lifecycle::OnExit;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, Context, outgoing::Outgoing, wire};
use crate::{
    app::{Attachment, Hub, Outbox, Task, ToOrchestrator},
    error::CommunicationError,
    metrics::Stream,
    spans,
};

#[tonic::async_trait]
impl TaskService for Api {
    type ExchangeTasksStream = Outgoing<ToOrchestrator, ExchangeTasksResponse>;

    async fn exchange_tasks(
        &self,
        request: Request<Streaming<ExchangeTasksRequest>>,
    ) -> Result<Response<Self::ExchangeTasksStream>, Status> {
        let outbox = Outbox::new(self.0.limits.orchestrator_buffer);
        let outgoing = Outgoing::new(outbox.clone(), encode);
        let (context, requests) = (Arc::clone(&self.0), request.into_inner());
        let exchange = access::going_on(async move {
            let ended = run(&context, requests, &outbox).await;
            outbox.end(ended);
            Ok::<_, Infallible>(())
        });
        self.0.tasks.spawn("communication.orchestrator", OnExit::Continue, exchange);
        Ok(Response::new(outgoing))
    }
}

fn encode(batch: Vec<ToOrchestrator>) -> ExchangeTasksResponse {
    Stream::Orchestrators.frame_out();
    let mut response = ExchangeTasksResponse { updates: Vec::with_capacity(batch.len()), serving: Vec::new() };
    for said in batch {
        match said {
            ToOrchestrator::Serving(served) => response.serving.extend(served.into_iter().map(wire::serving)),
            ToOrchestrator::Update(update) => response.updates.push(wire::update(update)),
        }
    }
    response
}

/// Detaches when the task that reads the stream ends, however it ends.
struct Attached<'a> {
    hub: &'a Hub,
    attachment: Attachment,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.hub.broker().detach(&self.attachment);
    }
}

async fn run(
    context: &Context,
    mut requests: Streaming<ExchangeTasksRequest>,
    outbox: &Outbox<ToOrchestrator>,
) -> Result<(), Error> {
    // Both arms are cancel-safe.
    let first = tokio::select! {
        first = timeout(context.limits.session_lease, requests.message()) => {
            first.map_err(|_| CommunicationError::LeaseLost)??
        }
        () = context.tasks.shutdown().draining() => return Err(CommunicationError::Stopping.into()),
    };
    let Some(first) = first else { return Ok(()) };
    let mut events = first.events.into_iter();
    let replica = match events.next().and_then(|event| event.event) {
        Some(Event::Attach(attach)) => attach.replica_id,
        Some(_) | None => return Err(wire::missing("events[0].attach").into()),
    };
    wire::text("events[0].attach.replica_id", &replica)?;
    let attachment = context.hub.broker().attach(&replica, outbox.clone());
    let attached = Attached { hub: &context.hub, attachment };
    tracing::info!(orchestrator.replica = replica, "orchestrator attached");
    // Both arms are cancel-safe: a stream that has been ended is not read any more.
    let ended = tokio::select! {
        ended = read(&attached, events.collect(), requests) => ended,
        () = outbox.ended() => Ok(()),
    };
    tracing::info!(orchestrator.replica = replica, "orchestrator detached");
    ended
}

async fn read(
    attached: &Attached<'_>,
    first: Vec<OrchestratorEvent>,
    mut requests: Streaming<ExchangeTasksRequest>,
) -> Result<(), Error> {
    hear(attached, first, 1)?;
    while let Some(batch) = requests.message().await? {
        Stream::Orchestrators.frame_in();
        hear(attached, batch.events, 0)?;
    }
    Ok(())
}

/// One event, checked.
enum Said {
    Dispatch(Task),
    Cancel { task: String, reason: String, epoch: i64 },
    Ack { task: String, epoch: i64 },
    Locate { task: String, epoch: i64 },
    Disown { task: String },
}

/// A batch is one visit to the broker; up to a fault it is carried out.
fn hear(attached: &Attached<'_>, events: Vec<OrchestratorEvent>, offset: usize) -> Result<(), CommunicationError> {
    let mut said = Vec::with_capacity(events.len());
    let mut fault = Ok(());
    for (index, event) in events.into_iter().enumerate() {
        match read_event(event, index + offset) {
            Ok(one) => said.push(one),
            Err(error) => {
                fault = Err(error);
                break;
            }
        }
    }
    let mut broker = attached.hub.broker();
    // A stream that has been replaced speaks for nobody any more.
    if broker.is_current(&attached.attachment) {
        for one in said {
            match one {
                Said::Dispatch(task) => broker.dispatch(&attached.attachment, task),
                Said::Cancel { task, epoch, .. } | Said::Ack { task, epoch } if broker.is_outdated(&task, epoch) => {}
                Said::Cancel { task, reason, .. } => broker.cancel(&task, &reason),
                Said::Ack { task, .. } => broker.acknowledge(&task),
                Said::Locate { task, epoch } => broker.locate(&attached.attachment, &task, epoch),
                Said::Disown { task } => broker.disown(&attached.attachment, &task),
            }
        }
    }
    fault
}

fn read_event(event: OrchestratorEvent, index: usize) -> Result<Said, CommunicationError> {
    let at = |path| wire::At::event(index, path);
    let epoch = event.epoch;
    match event.event.ok_or_else(|| wire::missing(at("event")))? {
        Event::Attach(_) => {
            Err(CommunicationError::field(at("attach"), "unexpected", "only the first event is an attach"))
        }
        Event::Dispatch(task) => {
            let mut task = wire::task(at("dispatch"), task, epoch)?;
            spans::published(&mut task);
            Ok(Said::Dispatch(task))
        }
        Event::Cancel(cancel) => {
            wire::text(at("cancel.task_id"), &cancel.task_id)?;
            Ok(Said::Cancel { task: cancel.task_id, reason: cancel.reason, epoch })
        }
        Event::Ack(ack) => {
            wire::text(at("ack.task_id"), &ack.task_id)?;
            Ok(Said::Ack { task: ack.task_id, epoch })
        }
        Event::Locate(locate) => {
            wire::text(at("locate.task_id"), &locate.task_id)?;
            Ok(Said::Locate { task: locate.task_id, epoch })
        }
        Event::Disown(disown) => {
            wire::text(at("disown.task_id"), &disown.task_id)?;
            Ok(Said::Disown { task: disown.task_id })
        }
    }
}
