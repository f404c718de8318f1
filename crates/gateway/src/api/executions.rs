//! Executions: look at, explain, verify.

use std::sync::Arc;

use axum::extract::State;
use contracts::orchestrator::v1 as wire_api;
use domain::Payload;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Page, Sort,
    wire::{self, ExecutionStatus, StepState},
};
use crate::{
    app::{self, App},
    context::Context,
    etag::IfNoneMatch,
    extract::Path,
    fields::Fields,
    problem::Problem,
    query::{Query, Several},
    reply::Reply,
    words::{Cursor, ExecutionId, Instant, Limit, Moment, Title, WorkflowId},
};

/// Why a step or an execution failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// Stable and machine-readable.
    code: String,
    /// For people.
    message: String,
    /// Any JSON value.
    #[schema(value_type = Option<serde_json::Value>)]
    details: Option<Payload>,
    /// The step that caused it.
    step_id: Option<String>,
}

impl Failure {
    pub(super) fn from_wire(failure: Option<wire_api::Failure>) -> Result<Option<Self>, Problem> {
        let Some(failure) = failure else { return Ok(None) };
        Ok(Some(Self {
            code: failure.code,
            message: failure.message,
            details: wire::payload(&failure.details)?,
            step_id: wire::text(failure.step_id),
        }))
    }
}

/// How many steps are in which state.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct StepCounts {
    pending: u32,
    scheduled: u32,
    running: u32,
    retrying: u32,
    waiting: u32,
    completed: u32,
    failed: u32,
    skipped: u32,
    cancelled: u32,
    compensated: u32,
    /// How many of the scheduled and running ones wait for an agent that lives; absent in lists, which do not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    waiting_for_agent: Option<u32>,
}

impl From<wire_api::StepCounts> for StepCounts {
    fn from(counts: wire_api::StepCounts) -> Self {
        let wire_api::StepCounts {
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
            waiting_for_agent,
        } = counts;
        Self {
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
            waiting_for_agent,
        }
    }
}

/// The life of a step, of one instance of it, or of one voter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StepRun {
    /// The step's id in the definition.
    step_id: String,
    /// The instance or voter; absent for the step itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    index: Option<u32>,
    /// Where it is.
    state: StepState,
    /// The present or last attempt; 0 before the first.
    attempt: u32,
    /// The agent that has or had the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    agent_id: Option<String>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Moment>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Moment>,
    /// What it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Payload>,
    /// It has an output that is left out: all together they would be too large for one answer. The events have it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    output_omitted: bool,
    /// Why the last attempt failed, or why it was skipped or cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    /// What its agent showed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    progress: Option<Payload>,
    /// The instances of a `for_each`, or the voters of a decision.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion, required = false)]
    instances: Vec<StepRun>,
    /// The steps of its block, in its present or last run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion, required = false)]
    steps: Vec<StepRun>,
    /// The present or last iteration of its loop, from 0; absent for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    iteration: Option<u32>,
    /// The child execution of the present or last attempt, where the step has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    child_id: Option<String>,
}

impl StepRun {
    fn from_wire(step: wire_api::StepRun) -> Result<Self, Problem> {
        Ok(Self {
            step_id: step.step_id,
            index: step.index,
            state: StepState::from_wire(step.state)?,
            attempt: step.attempt,
            agent_id: wire::text(step.agent_id),
            started_at: wire::moment(step.started_at)?,
            ended_at: wire::moment(step.ended_at)?,
            output: wire::payload(&step.output)?,
            output_omitted: step.output_omitted,
            failure: Failure::from_wire(step.failure)?,
            progress: wire::payload(&step.progress)?,
            instances: step.instances.into_iter().map(Self::from_wire).collect::<Result<_, _>>()?,
            steps: step.steps.into_iter().map(Self::from_wire).collect::<Result<_, _>>()?,
            iteration: Some(step.iteration).filter(|iteration| *iteration > 0),
            child_id: wire::text(step.child_id),
        })
    }
}

/// One run of one workflow version, without what may be large.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExecutionSummary {
    /// `exe_…`
    id: String,
    /// The workflow.
    workflow_id: String,
    /// Its name.
    workflow_name: String,
    /// Its version.
    workflow_version: u32,
    /// Where it is.
    status: ExecutionStatus,
    /// How its steps stand.
    step_counts: StepCounts,
    /// Why it failed or was cancelled.
    failure: Option<Failure>,
    /// When it was accepted.
    created_at: Moment,
    /// When it ended.
    ended_at: Option<Moment>,
    /// The sequence number of its newest event.
    last_sequence: u64,
}

impl ExecutionSummary {
    pub(super) fn from_wire(execution: wire_api::Execution) -> Result<Self, Problem> {
        Ok(Self {
            id: execution.id,
            workflow_id: execution.workflow_id,
            workflow_name: execution.workflow_name,
            workflow_version: execution.workflow_version,
            status: ExecutionStatus::from_wire(execution.status)?,
            step_counts: execution.step_counts.unwrap_or_default().into(),
            failure: Failure::from_wire(execution.failure)?,
            created_at: wire::required_moment(execution.created_at)?,
            ended_at: wire::moment(execution.ended_at)?,
            last_sequence: execution.last_sequence,
        })
    }

    /// The execution after a change.
    pub(super) fn reply(execution: Option<wire_api::Execution>) -> Result<Reply, Problem> {
        Reply::ok(&Self::from_wire(execution.ok_or_else(|| app::lacking("an execution"))?)?)
    }
}

/// The execution, and the task in it, that a child execution belongs to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Parent {
    /// Whose child it is.
    execution_id: String,
    /// The task that waits for its end.
    task_id: String,
    /// It goes on when its parent ends, which does not wait for it.
    detached: bool,
    /// How many executions there are above it.
    depth: u32,
}

/// One run of one workflow version, with input, output and steps.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Execution {
    #[serde(flatten)]
    summary: ExecutionSummary,
    /// What it was given.
    #[schema(value_type = serde_json::Value)]
    input: Payload,
    /// What it came to; null before the end.
    #[schema(value_type = serde_json::Value)]
    output: Payload,
    /// In the order of the definition.
    steps: Vec<StepRun>,
    /// Whose child it is; absent where it is nobody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parent: Option<Parent>,
    /// Of one that is queued: how many wait before it for their turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    queued_before: Option<u32>,
}

impl Execution {
    fn from_wire(execution: Option<wire_api::Execution>) -> Result<Self, Problem> {
        let mut execution = execution.ok_or_else(|| app::lacking("an execution"))?;
        let steps = std::mem::take(&mut execution.steps);
        let parent = |parent: wire_api::Parent| {
            let wire_api::Parent { execution_id, task_id, detached, depth } = parent;
            Parent { execution_id, task_id, detached, depth }
        };
        Ok(Self {
            parent: execution.parent.take().map(parent),
            queued_before: execution.queued_before,
            input: wire::payload(&execution.input)?.unwrap_or_else(Payload::empty_object),
            output: wire::payload(&execution.output)?.unwrap_or_else(Payload::null),
            steps: steps.into_iter().map(StepRun::from_wire).collect::<Result<_, _>>()?,
            summary: ExecutionSummary::from_wire(execution)?,
        })
    }
}

/// What a list can tell of each.
type ExecutionFields = Fields<ExecutionSummary>;

type Statuses = Several<ExecutionStatus>;

/// Which executions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExecutionFilter {
    /// Of this workflow.
    #[param(inline, required = false, nullable = false)]
    workflow_id: Option<WorkflowId>,
    /// Of the workflows of this name.
    #[param(inline, required = false, nullable = false)]
    workflow_name: Option<Title>,
    /// With one of these statuses, with commas between them.
    #[param(inline, style = Form, explode = false, required = false, nullable = false)]
    status: Option<Statuses>,
    /// Accepted then, or later.
    #[param(inline, required = false, nullable = false)]
    created_after: Option<Instant>,
    /// Accepted earlier.
    #[param(inline, required = false, nullable = false)]
    created_before: Option<Instant>,
    /// In which order; `-created_at` where absent.
    #[param(inline, required = false, nullable = false)]
    sort: Option<Sort>,
    /// Tell no more of each than these, with commas between them.
    #[param(inline, style = Form, explode = false, required = false, nullable = false)]
    fields: Option<ExecutionFields>,
    /// At most this many.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<Cursor>,
}

/// List executions.
#[utoipa::path(get, path = "/api/v1/executions", tag = "executions", params(ExecutionFilter), responses(
    (status = 200, description = "newest first, or in the order of `sort`", body = Page<ExecutionSummary>),
))]
pub(crate) async fn list_executions(
    State(app): State<Arc<App>>,
    context: Context,
    Query(filter): Query<ExecutionFilter>,
) -> Result<Reply, Problem> {
    let request = wire_api::ListExecutionsRequest {
        namespace: context.namespace.clone(),
        workflow_id: filter.workflow_id.map(|id| id.to_string()).unwrap_or_default(),
        workflow_name: filter.workflow_name.map(|name| name.0).unwrap_or_default(),
        statuses: filter.status.into_iter().flat_map(|statuses| statuses.0).map(i32::from).collect(),
        created_after: filter.created_after.map(|at| wire::timestamp(at.0)),
        created_before: filter.created_before.map(|at| wire::timestamp(at.0)),
        page_size: filter.limit.map_or(0, |limit| limit.0),
        page_token: filter.cursor.map(|cursor| cursor.0).unwrap_or_default(),
        oldest_first: filter.sort == Some(Sort::Oldest),
    };
    let page = app.call(app.executions().list_executions(context.request(request))).await?;
    let executions: Result<Vec<_>, _> = page.executions.into_iter().map(ExecutionSummary::from_wire).collect();
    Reply::ok(&Page::new(executions?, page.next_page_token))?.with_fields(filter.fields.as_ref())
}

/// Get an execution.
#[utoipa::path(get, path = "/api/v1/executions/{id}", tag = "executions",
    params(("id" = inline(ExecutionId), Path, description = "the execution")),
    responses((status = 200, description = "the execution with its steps", body = Execution)))]
pub(crate) async fn get_execution(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<ExecutionId>,
    known: IfNoneMatch,
) -> Result<Reply, Problem> {
    let request = wire_api::GetExecutionRequest { namespace: context.namespace.clone(), execution_id: id.to_string() };
    let answer = app.call(app.executions().get_execution(context.request(request))).await?;
    let execution = Execution::from_wire(answer.execution)?;
    Ok(Reply::ok(&execution)?.tagged(execution.summary.last_sequence, &known))
}

/// One thing that an execution waits for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Wait {
    /// The step; null where the execution as a whole waits.
    step_id: Option<String>,
    /// The instance or voter.
    index: Option<u32>,
    /// `agent`, `result`, `retry`, `signal`, `time`, `votes`, `resume`, `slot`, `lock`, `turn` or `child`.
    kind: String,
    /// A sentence for people.
    text: String,
    /// Since when.
    since: Option<Moment>,
    /// When it ends by itself.
    until: Option<Moment>,
}

/// What an execution waits for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Explanation {
    /// Where it is.
    status: ExecutionStatus,
    /// A sentence for people.
    summary: String,
    /// The longest waiting first.
    waits: Vec<Wait>,
}

/// Explain what an execution waits for, and since when.
#[utoipa::path(get, path = "/api/v1/executions/{id}/explain", tag = "executions",
    params(("id" = inline(ExecutionId), Path, description = "the execution")),
    responses((status = 200, description = "in words", body = Explanation)))]
pub(crate) async fn explain_execution(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<ExecutionId>,
) -> Result<Reply, Problem> {
    let request =
        wire_api::ExplainExecutionRequest { namespace: context.namespace.clone(), execution_id: id.to_string() };
    let answer = app.call(app.executions().explain_execution(context.request(request))).await?;
    let wait = |wait: wire_api::Wait| {
        Ok(Wait {
            step_id: wire::text(wait.step_id),
            index: wait.index,
            kind: wait.kind,
            text: wait.text,
            since: wire::moment(wait.since)?,
            until: wire::moment(wait.until)?,
        })
    };
    Reply::ok(&Explanation {
        status: ExecutionStatus::from_wire(answer.status)?,
        summary: answer.summary,
        waits: answer.waits.into_iter().map(wait).collect::<Result<_, Problem>>()?,
    })
}

/// What was found in an execution's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verification {
    /// Events read.
    events: u64,
    /// Empty where all is well; else one sentence per fault.
    faults: Vec<String>,
}

/// Read an execution's log back and check its hash chain and its replay.
#[utoipa::path(get, path = "/api/v1/executions/{id}/verify", tag = "executions",
    params(("id" = inline(ExecutionId), Path, description = "the execution")),
    responses((status = 200, description = "what was found", body = Verification)))]
pub(crate) async fn verify_execution(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<ExecutionId>,
) -> Result<Reply, Problem> {
    let request =
        wire_api::VerifyExecutionRequest { namespace: context.namespace.clone(), execution_id: id.to_string() };
    let answer = app.call(app.executions().verify_execution(context.request(request))).await?;
    Reply::ok(&Verification { events: answer.events, faults: answer.faults })
}
