//! The generated types of the exchange, which stop here.

use bytes::Bytes;
use contracts::communication::v1::{
    AckResult, Attach, CancelDispatch, DisownTask, ExchangeTasksRequest, LocateTask, OrchestratorEvent,
    Serving as WireServing, Task, TaskUpdate as Wire, orchestrator_event::Event, serving, task, task_result::Outcome,
    task_update::Update,
};
use domain::Payload;
use workflow::{Failure, Target};

use super::{Delivery, News, Outgoing, Said, Serving, TaskUpdate};

/// News that makes no sense.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// The task whose result it would be: without an acknowledgement it would come for ever.
    pub(super) result_of: Option<String>,
}

/// The first frame of a stream.
pub(super) fn attach(replica_id: &str) -> ExchangeTasksRequest {
    let attach = Event::Attach(Attach { replica_id: replica_id.to_owned() });
    ExchangeTasksRequest { events: vec![OrchestratorEvent { event: Some(attach), epoch: 0 }] }
}

/// An acknowledgement of what is nobody's, whatever the epoch.
pub(super) fn refusal(task_id: String) -> OrchestratorEvent {
    event(Said { epoch: i64::MAX, outgoing: Outgoing::Ack { task_id } })
}

pub(super) fn event(Said { epoch, outgoing }: Said) -> OrchestratorEvent {
    let event = match outgoing {
        Outgoing::Dispatch { task_id, execution, namespace, step_id, traceparent, order } => Event::Dispatch(Task {
            id: task_id,
            namespace,
            execution_id: execution.to_string(),
            step_id,
            index: order.task.unit.index,
            attempt: order.task.attempt,
            target: Some(target(order.target)),
            action: order.action,
            input: Bytes::copy_from_slice(order.input.as_bytes()),
            priority: u32::from(order.priority),
            timeout_ms: millis(order.timeout),
            heartbeat_timeout_ms: millis(order.heartbeat_timeout),
            traceparent,
        }),
        Outgoing::Locate { task_id, .. } => Event::Locate(LocateTask { task_id }),
        Outgoing::Cancel { task_id, reason } => Event::Cancel(CancelDispatch { task_id, reason: reason.to_owned() }),
        Outgoing::Ack { task_id } => Event::Ack(AckResult { task_id }),
        Outgoing::Disown { task_id } => Event::Disown(DisownTask { task_id }),
    };
    OrchestratorEvent { event: Some(event), epoch }
}

fn target(target: Target) -> task::Target {
    match target {
        Target::AgentType(name) => task::Target::AgentType(name),
        Target::Capability(name) => task::Target::Capability(name),
        Target::AgentId(id) => task::Target::AgentId(id.to_string()),
    }
}

fn millis(duration: Option<std::time::Duration>) -> u64 {
    duration.map_or(0, |duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn update(wire: Wire) -> Result<TaskUpdate, Unreadable> {
    const NOTHING: Unreadable = Unreadable { result_of: None };
    let Some(execution) = wire.task_id.split('/').next().and_then(|id| id.parse().ok()) else {
        tracing::warn!(task.id = wire.task_id, "news of something that is no task");
        let is_result = matches!(wire.update, Some(Update::Result(_)));
        return Err(Unreadable { result_of: is_result.then_some(wire.task_id) });
    };
    let (mut needs_ack, mut traceparent) = (false, String::new());
    let news = match wire.update.ok_or(NOTHING)? {
        Update::Waiting(_) => News::Waiting,
        Update::HandedOver(held) => News::HandedOver(Delivery { session_id: held.session_id, number: held.delivery }),
        Update::Begun(_) => News::Begun,
        Update::Alive(_) => News::Alive,
        Update::Shown(shown) => News::Shown(Payload::from_slice(&shown.detail).map_err(|_| NOTHING)?),
        Update::Result(result) => {
            needs_ack = true;
            traceparent = result.traceparent;
            News::Ended(outcome(result.outcome))
        }
        Update::DeadLettered(dead) => {
            let message = format!("{}; the dead letter {} tells more", dead.reason, dead.dead_letter_id);
            News::Ended(Err(Failure::fatal("dead_lettered", message)))
        }
        Update::Refused(_) => News::Refused,
        Update::Requeued(_) => News::Requeued,
        Update::Enqueued(_) => News::Enqueued,
        Update::Unknown(_) => News::Unknown,
    };
    let agent_id = wire.agent_id.parse().ok();
    Ok(TaskUpdate {
        execution,
        task_id: wire.task_id,
        agent_id,
        namespace: wire.namespace,
        news,
        needs_ack,
        traceparent,
    })
}

/// None where it makes no sense.
pub(super) fn serving(wire: WireServing) -> Option<Serving> {
    let target = match wire.target? {
        serving::Target::AgentType(name) => Target::AgentType(name),
        serving::Target::Capability(name) => Target::Capability(name),
        serving::Target::AgentId(id) => Target::AgentId(id.parse().ok()?),
    };
    Some(Serving { namespace: wire.namespace, target, capacity: wire.capacity })
}

fn outcome(outcome: Option<Outcome>) -> Result<Payload, Failure> {
    match outcome {
        Some(Outcome::Output(output)) => Payload::from_field(&output, Payload::null)
            .map_err(|_| Failure::fatal("invalid_output", "the agent's output is not a JSON value")),
        Some(Outcome::Failure(failure)) => Err(Failure {
            code: failure.code,
            message: failure.message,
            retryable: failure.retryable,
            details: Payload::from_slice(&failure.details).ok(),
            step_id: None,
        }),
        None => Err(Failure::fatal("invalid_output", "the agent gave neither an output nor a failure")),
    }
}
