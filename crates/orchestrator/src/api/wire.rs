//! Between the contract's types and ours.

use bytes::Bytes;
use contracts::orchestrator::v1 as wire;
use domain::{ExecutionId, Namespace, Payload, Timestamp, WorkflowId};
use errors::Error;
use workflow::{Counts, Explanation, Failure, Parent, Plan, Status, StepState, StepView, TaskPlace};

use crate::{
    app::{Snapshot, Verification},
    store::{EventRow, Summary, WorkflowRow},
    workers::{cancelled_child, failed_child},
};

/// Whoever it is asked for has to reach there.
pub(super) fn namespace(field: &str) -> Result<Namespace, Error> {
    let namespace = Namespace::from_field(field);
    let namespace = namespace.map_err(|error| Error::invalid_field("namespace", "invalid_name", error))?;
    access::fence(&namespace)?;
    Ok(namespace)
}

/// Which execution a call is about, and where. Asked before a call is passed on too: whoever gets it then sees this replica, not
/// who asked it.
pub(super) fn execution_of(namespace_field: &str, id: &str) -> Result<(Namespace, ExecutionId), Error> {
    Ok((namespace(namespace_field)?, execution_id(id)?))
}

/// The same where a call names no namespace, and so may be about any.
pub(super) fn execution_of_any(id: &str) -> Result<ExecutionId, Error> {
    access::fence_everything()?;
    execution_id(id)
}

fn execution_id(field: &str) -> Result<ExecutionId, Error> {
    field.parse().map_err(|error| Error::invalid_field("execution_id", "invalid_id", error))
}

pub(super) fn workflow_id(field: &str) -> Result<WorkflowId, Error> {
    field.parse().map_err(|error| Error::invalid_field("workflow_id", "invalid_id", error))
}

pub(super) fn payload(name: &str, field: &[u8], absent: impl FnOnce() -> Payload) -> Result<Payload, Error> {
    Payload::from_field(field, absent)
        .map_err(|error| Error::invalid_field(name, "invalid_json", errors::chain(&error)))
}

/// Absent where empty: protobuf does not tell an empty text from none.
pub(super) fn non_empty(field: &str) -> Option<&str> {
    if field.is_empty() { None } else { Some(field) }
}

/// Absent where zero.
pub(super) const fn non_zero(field: u32) -> Option<u32> {
    if field == 0 { None } else { Some(field) }
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = at.to_seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
}

pub(super) fn time(name: &str, field: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, Error> {
    let read = |at: prost_types::Timestamp| {
        Timestamp::from_seconds_and_nanos(at.seconds, at.nanos)
            .map_err(|error| Error::invalid_field(name, "invalid_time", error))
    };
    field.map(read).transpose()
}

fn bytes(payload: &Payload) -> Bytes {
    Bytes::copy_from_slice(payload.as_bytes())
}

fn bytes_or_empty(payload: Option<&Payload>) -> Bytes {
    payload.map(bytes).unwrap_or_default()
}

pub(super) fn status(status: Status) -> wire::ExecutionStatus {
    match status {
        Status::Queued => wire::ExecutionStatus::Queued,
        Status::Running => wire::ExecutionStatus::Running,
        Status::Paused => wire::ExecutionStatus::Paused,
        Status::Compensating => wire::ExecutionStatus::Compensating,
        Status::Completed => wire::ExecutionStatus::Completed,
        Status::Failed => wire::ExecutionStatus::Failed,
        Status::Cancelled => wire::ExecutionStatus::Cancelled,
    }
}

pub(super) fn status_of(field: i32) -> Result<Status, Error> {
    let invalid = || Error::invalid_field("statuses", "unknown_value", format!("{field} is not a status"));
    match wire::ExecutionStatus::try_from(field).map_err(|_| invalid())? {
        wire::ExecutionStatus::Unspecified => Err(invalid()),
        wire::ExecutionStatus::Queued => Ok(Status::Queued),
        wire::ExecutionStatus::Running => Ok(Status::Running),
        wire::ExecutionStatus::Paused => Ok(Status::Paused),
        wire::ExecutionStatus::Compensating => Ok(Status::Compensating),
        wire::ExecutionStatus::Completed => Ok(Status::Completed),
        wire::ExecutionStatus::Failed => Ok(Status::Failed),
        wire::ExecutionStatus::Cancelled => Ok(Status::Cancelled),
    }
}

fn counts(counts: Counts) -> wire::StepCounts {
    let Counts { pending, scheduled, running, retrying, waiting, completed, failed, skipped, cancelled, compensated } =
        counts;
    wire::StepCounts {
        pending,
        scheduled,
        running,
        retrying,
        waiting,
        completed,
        failed,
        skipped,
        cancelled,
        compensated,
        waiting_for_agent: None,
    }
}

pub(crate) fn failure(failure: &Failure) -> wire::Failure {
    wire::Failure {
        code: failure.code.clone(),
        message: failure.message.clone(),
        details: bytes_or_empty(failure.details.as_ref()),
        step_id: failure.step_id.clone().unwrap_or_default(),
    }
}

/// What a failure was made of; a child's is its parent's as it is.
pub(super) fn failure_of(field: wire::Failure) -> Result<Failure, Error> {
    let details = (!field.details.is_empty()).then(|| payload("failure.details", &field.details, Payload::null));
    let step_id = non_empty(&field.step_id).map(str::to_owned);
    let wire::Failure { code, message, .. } = field;
    Ok(Failure { details: details.transpose()?, step_id, ..Failure::fatal(code, message) })
}

pub(super) fn parent(field: wire::Parent) -> Result<Parent, Error> {
    let execution_id = execution_id(&field.execution_id)?;
    let wire::Parent { task_id, detached, depth, .. } = field;
    Ok(Parent { execution_id, task_id, detached, depth })
}

pub(crate) fn of_parent(parent: Parent) -> wire::Parent {
    let Parent { execution_id, task_id, detached, depth } = parent;
    wire::Parent { execution_id: execution_id.to_string(), task_id, detached, depth }
}

pub(super) fn summary(summary: &Summary) -> wire::Execution {
    wire::Execution {
        id: summary.id.to_string(),
        namespace: summary.namespace.to_string(),
        workflow_id: summary.workflow_id.to_string(),
        workflow_name: summary.workflow_name.to_string(),
        workflow_version: summary.workflow_version,
        status: status(summary.status).into(),
        step_counts: Some(counts(summary.counts)),
        input: Bytes::new(),
        output: Bytes::new(),
        failure: summary.failure.as_ref().map(failure),
        created_at: Some(timestamp(summary.created_at)),
        ended_at: summary.ended_at.map(timestamp),
        last_sequence: summary.last_sequence,
        steps: Vec::new(),
        parent: None,
        queued_before: None,
    }
}

/// How a child has ended, as its parent sees it; nothing while it goes on.
pub(crate) fn outcome(child: &wire::Execution) -> Result<Option<Result<Payload, Failure>>, Error> {
    let id = execution_id(&child.id)?;
    Ok(match status_of(child.status().into())? {
        Status::Completed => Some(Ok(payload("output", &child.output, Payload::null)?)),
        Status::Failed => Some(Err(failed_child(id, child.failure.clone().map(failure_of).transpose()?))),
        Status::Cancelled => {
            let reason = child.failure.as_ref().map_or("", |failure| failure.message.as_str());
            Some(Err(cancelled_child(id, reason)))
        }
        Status::Queued | Status::Running | Status::Paused | Status::Compensating => None,
    })
}

/// Bytes of the outputs of steps in one answer: what else is in it fits beside them.
const MOST_OUTPUTS: usize = contracts::MAX_MESSAGE_BYTES / 4;

/// With input and output, and with steps where the snapshot has them.
pub(super) fn execution(snapshot: &Snapshot) -> wire::Execution {
    let mut room = MOST_OUTPUTS;
    let steps: Vec<_> = snapshot.steps.iter().map(|view| step(view, snapshot, &mut room)).collect();
    let mut counts = counts(snapshot.summary.counts);
    if !steps.is_empty() {
        counts.waiting_for_agent = Some(steps.iter().filter(|step| waits_for_agent(step)).count() as u32);
    }
    wire::Execution {
        input: bytes_or_empty(snapshot.input.as_ref()),
        output: bytes_or_empty(snapshot.output.as_ref()),
        step_counts: Some(counts),
        steps,
        parent: snapshot.parent.clone().map(of_parent),
        queued_before: snapshot.queued_before,
        ..summary(&snapshot.summary)
    }
}

/// The step itself, or one of its instances.
fn waits_for_agent(step: &wire::StepRun) -> bool {
    step.state() == wire::StepState::WaitingForAgent || step.instances.iter().chain(&step.steps).any(waits_for_agent)
}

/// A step; its output takes from the room for outputs, and is left out where there is none any more.
fn step(view: &StepView, snapshot: &Snapshot, room: &mut usize) -> wire::StepRun {
    let shown = view.task.and_then(|task| snapshot.tasks.get(&task));
    let place = shown.map(|shown| &shown.place);
    let state = match (view.state, place) {
        (StepState::Scheduled, Some(TaskPlace::HandedOver { .. })) => wire::StepState::Running,
        (StepState::Scheduled, Some(TaskPlace::WaitingForAgent { .. })) => wire::StepState::WaitingForAgent,
        (StepState::Running, _) if snapshot.seeking.contains(&view.step_id) && view.unit.index.is_none() => {
            wire::StepState::WaitingForAgent
        }
        (state, _) => step_state(state),
    };
    let output = bytes_or_empty(view.output.as_ref());
    let output_omitted = output.len() > *room;
    let output = if output_omitted { Bytes::new() } else { output };
    *room -= output.len();
    let agent_id = shown.and_then(|shown| shown.agent_id).or(view.agent_id);
    wire::StepRun {
        step_id: view.step_id.clone(),
        index: view.unit.index,
        state: state.into(),
        attempt: view.attempt,
        agent_id: agent_id.map(|id| id.to_string()).unwrap_or_default(),
        started_at: view.started_at.map(timestamp),
        ended_at: view.ended_at.map(timestamp),
        output,
        output_omitted,
        failure: view.failure.as_ref().map(failure),
        instances: view.instances.iter().map(|view| step(view, snapshot, room)).collect(),
        steps: view.steps.iter().map(|view| step(view, snapshot, room)).collect(),
        iteration: view.iteration,
        child_id: view.child.map(|id| id.to_string()).unwrap_or_default(),
        progress: bytes_or_empty(shown.and_then(|shown| shown.progress.as_ref())),
    }
}

fn step_state(state: StepState) -> wire::StepState {
    match state {
        StepState::Pending => wire::StepState::Pending,
        StepState::Scheduled => wire::StepState::Scheduled,
        StepState::Running => wire::StepState::Running,
        StepState::Retrying => wire::StepState::Retrying,
        StepState::Waiting => wire::StepState::Waiting,
        StepState::Completed => wire::StepState::Completed,
        StepState::Failed => wire::StepState::Failed,
        StepState::Skipped => wire::StepState::Skipped,
        StepState::Cancelled => wire::StepState::Cancelled,
        StepState::Compensating => wire::StepState::Compensating,
        StepState::Compensated => wire::StepState::Compensated,
    }
}

/// A row that is no event is shown without fields; `VerifyExecution` says what is wrong with it.
pub(super) fn event(row: EventRow, plan: &Plan) -> wire::Event {
    let event = workflow::Event::decode(&row.data).ok();
    wire::Event {
        sequence: row.sequence,
        r#type: event.as_ref().map_or("unreadable", workflow::Event::kind).to_owned(),
        at: Some(timestamp(row.at)),
        data: event.map_or_else(|| b"{}".to_vec(), |event| event.to_api_json(plan)).into(),
        hash: row.hash.into(),
    }
}

pub(super) fn explanation(at: Status, explanation: Explanation) -> wire::ExplainExecutionResponse {
    let wait = |wait: workflow::Wait| wire::Wait {
        step_id: wait.step_id,
        index: wait.unit.and_then(|unit| unit.index),
        kind: wait.kind.as_str().to_owned(),
        text: wait.text,
        since: wait.since.map(timestamp),
        until: wait.until.map(timestamp),
    };
    wire::ExplainExecutionResponse {
        status: status(at).into(),
        summary: explanation.summary,
        waits: explanation.waits.into_iter().map(wait).collect(),
    }
}

pub(super) fn verification(found: Verification) -> wire::VerifyExecutionResponse {
    wire::VerifyExecutionResponse {
        events: found.events,
        faults: found.faults.into_iter().map(|breach| breach.what).collect(),
    }
}

pub(super) fn workflow(row: WorkflowRow) -> wire::Workflow {
    let status = if row.is_archived { wire::WorkflowStatus::Archived } else { wire::WorkflowStatus::Active };
    wire::Workflow {
        id: row.id.to_string(),
        namespace: row.namespace.to_string(),
        name: row.name,
        version: row.version,
        status: status.into(),
        definition: row.definition.into_bytes().into(),
        description: row.description,
        created_at: Some(timestamp(row.created_at)),
        updated_at: Some(timestamp(row.updated_at)),
        step_count: row.step_count,
    }
}
