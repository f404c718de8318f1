//! Running workflows: execute, how the latest execution stands, cancel all.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use contracts::orchestrator::v1 as wire_api;
use domain::Payload;
use errors::{Code, Error};
use futures::{StreamExt as _, TryStreamExt as _};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Done,
    control::Cancel,
    executions::{Failure, StepCounts},
    wire::{self, ExecutionStatus},
    workflows,
};
use crate::{
    app::{self, App},
    context::Context,
    extract::{OptionalBody, Path},
    json::Any,
    problem::Problem,
    reply::Reply,
    words::{Moment, Version, WaitMillis, WorkflowId},
};

/// How long one call waits for an end. A gateway that stops answers within that, and a bit: what is shorter is never cut off.
const ONE_WAIT: Duration = Duration::from_secs(3);
/// Between two of them: an orchestrator that stops ends every wait at once.
const BETWEEN_WAITS: Duration = Duration::from_millis(20);
/// Cancels that are under way at the same time.
const CANCELS_AT_ONCE: usize = 16;

/// What to execute with.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"input": {"who": "world"}, "wait_ms": 1000}))]
pub(crate) struct Start {
    /// Must fit the workflow's `input_schema`; `{}` where absent.
    #[serde(default)]
    #[schema(nullable = false)]
    input: Option<Any>,
    /// Wait this long for the end, and answer with the output where it comes in time.
    #[serde(default)]
    wait_ms: Option<WaitMillis>,
    /// The newest version where absent.
    #[serde(default)]
    version: Option<Version>,
}

/// An accepted execution.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Started {
    /// `exe_…`
    execution_id: String,
    /// Where it is.
    status: ExecutionStatus,
    /// What it came to, where it ended in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Payload>,
    /// Why it failed, where it did so in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

/// Execute a workflow.
#[utoipa::path(post, path = "/api/v1/workflows/{id}/execute", tag = "workflows", request_body = inline(Option<Start>),
    params(("id" = inline(WorkflowId), Path, description = "the workflow")),
    responses(
        (status = 202, description = "recorded; nothing loses it any more", body = Started,
            headers(("Location" = String, description = "where to follow it")),
            links(
                ("get" = (operation_id = "get_execution", parameters(("id" = "$response.body#/execution_id")))),
                ("explain" = (operation_id = "explain_execution", parameters(("id" = "$response.body#/execution_id")))),
                ("events" = (operation_id = "list_events", parameters(("id" = "$response.body#/execution_id")))),
                ("cancel" = (operation_id = "cancel_execution", parameters(("id" = "$response.body#/execution_id")))),
            )),
        (status = 200, description = "ended within `wait_ms`", body = Started,
            headers(("Location" = String, description = "where to look at it"))),
    ))]
pub(crate) async fn execute_workflow(
    State(app): State<Arc<App>>,
    context: Context,
    Path(workflow): Path<WorkflowId>,
    OptionalBody { value, bytes }: OptionalBody<Start>,
) -> Result<Reply, Problem> {
    let fresh = domain::ExecutionId::generate(&*app.clock);
    let (app, context) = (&app, &context);
    let is_repeatable = context.idempotency_key.is_some();
    let create = |id: domain::ExecutionId| async move {
        let wait = Duration::from_millis(value.wait_ms.map_or(0, |wait| u64::from(wait.0)));
        let request = wire_api::StartExecutionRequest {
            namespace: context.namespace.clone(),
            // Without a key nobody repeats the call: the orchestrator chooses an id whose shard it writes itself.
            execution_id: if is_repeatable { id.to_string() } else { String::new() },
            workflow: Some(wire_api::start_execution_request::Workflow::WorkflowId(workflow.to_string())),
            version: value.version.map_or(0, |version| version.0),
            input: value.input.map(|input| input.0.as_bytes().to_vec().into()).unwrap_or_default(),
            ..wire_api::StartExecutionRequest::default()
        };
        started(start(app, context, request, wait).await?, wait)
    };
    app.idempotency.once(context, &bytes, fresh, create).await
}

/// Starts an execution, and answers with it at its end, or as it is where that does not come within the wait. Waits piece by
/// piece, so that neither a stop of the gateway nor one of an orchestrator fails the request or is held up by it.
async fn start(
    app: &App,
    context: &Context,
    mut request: wire_api::StartExecutionRequest,
    wait: Duration,
) -> Result<wire_api::Execution, Problem> {
    let until = tokio::time::Instant::now() + wait;
    let mut accepted = start_once(app, context, &request, wait.min(ONE_WAIT)).await?;
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let has_ended = ExecutionStatus::from_wire(accepted.status)?.is_terminal();
        if has_ended || left.is_zero() || app.shutdown.is_draining() {
            return Ok(accepted);
        }
        request.execution_id.clone_from(&accepted.id);
        let again = async {
            tokio::time::sleep(BETWEEN_WAITS).await;
            start_once(app, context, &request, left.min(ONE_WAIT)).await
        };
        // Both arms are cancel-safe: that the same id starts again changes nothing.
        tokio::select! {
            again = again => match again {
                Ok(execution) => accepted = execution,
                // It was accepted, whatever becomes of the wait.
                Err(_) => return Ok(accepted),
            },
            () = app.shutdown.draining() => {}
        }
    }
}

async fn start_once(
    app: &App,
    context: &Context,
    request: &wire_api::StartExecutionRequest,
    wait: Duration,
) -> Result<wire_api::Execution, Problem> {
    let wait_on_wire = prost_types::Duration::try_from(wait).ok();
    let request = wire_api::StartExecutionRequest { wait: wait_on_wire, ..request.clone() };
    let answer = app.call_waiting(wait, app.executions().start_execution(context.request(request))).await;
    answer.map_err(input_fault)?.execution.ok_or_else(|| app::lacking("an execution"))
}

fn started(execution: wire_api::Execution, wait: Duration) -> Result<Reply, Problem> {
    let status = ExecutionStatus::from_wire(execution.status)?;
    let location = format!("/api/v1/executions/{}", execution.id);
    // Without a wait the answer is the same for fast and slow workflows.
    let ended = status.is_terminal() && !wait.is_zero();
    let (code, output, failure) = if ended {
        let output = wire::payload(&execution.output)?.unwrap_or_else(Payload::null);
        (StatusCode::OK, Some(output), Failure::from_wire(execution.failure)?)
    } else {
        (StatusCode::ACCEPTED, None, None)
    };
    Ok(Reply::new(code, &Started { execution_id: execution.id, status, output, failure })?.at(location))
}

/// The orchestrator speaks of places in the input; the client sent it as a field.
fn input_fault(mut error: Error) -> Problem {
    if error.reason == "input_invalid" {
        for violation in &mut error.violations {
            violation.field.insert_str(0, "/input");
        }
    }
    Problem::in_body(error)
}

/// How a workflow's latest execution stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LatestExecution {
    /// The workflow.
    workflow_id: String,
    /// The latest execution; null where there never was one.
    execution_id: Option<String>,
    /// Where it is; `never_executed` where there never was one.
    status: LatestStatus,
    /// How its steps stand.
    step_counts: StepCounts,
    /// Why it failed or was cancelled.
    failure: Option<Failure>,
    /// When it was accepted.
    created_at: Option<Moment>,
    /// When it ended.
    ended_at: Option<Moment>,
}

/// Where a workflow's latest execution is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LatestStatus {
    /// There never was one.
    NeverExecuted,
    /// It waits for its turn among those with its `concurrency_key`.
    Queued,
    /// Steps run or wait.
    Running,
    /// Nothing new starts.
    Paused,
    /// What completed is being undone.
    Compensating,
    /// Ended well.
    Completed,
    /// Ended by a failure.
    Failed,
    /// Ended by a cancel.
    Cancelled,
}

impl From<ExecutionStatus> for LatestStatus {
    fn from(status: ExecutionStatus) -> Self {
        match status {
            ExecutionStatus::Queued => Self::Queued,
            ExecutionStatus::Running => Self::Running,
            ExecutionStatus::Paused => Self::Paused,
            ExecutionStatus::Compensating => Self::Compensating,
            ExecutionStatus::Completed => Self::Completed,
            ExecutionStatus::Failed => Self::Failed,
            ExecutionStatus::Cancelled => Self::Cancelled,
        }
    }
}

/// Get the status of a workflow's latest execution.
#[utoipa::path(get, path = "/api/v1/workflows/{id}/status", tag = "workflows",
    params(("id" = inline(WorkflowId), Path, description = "the workflow")),
    responses((status = 200, description = "with counts per state of steps", body = LatestExecution)))]
pub(crate) async fn workflow_status(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<WorkflowId>,
) -> Result<Reply, Problem> {
    let request = wire_api::ListExecutionsRequest {
        namespace: context.namespace.clone(),
        workflow_id: id.to_string(),
        page_size: 1,
        ..wire_api::ListExecutionsRequest::default()
    };
    let page = app.call(app.executions().list_executions(context.request(request))).await?;
    let Some(execution) = page.executions.into_iter().next() else {
        // Only now does it matter whether the workflow is there: definitions are large.
        workflows::fetch(&app, &context, &id, 0).await?;
        return Reply::ok(&LatestExecution {
            workflow_id: id.to_string(),
            execution_id: None,
            status: LatestStatus::NeverExecuted,
            step_counts: StepCounts::default(),
            failure: None,
            created_at: None,
            ended_at: None,
        });
    };
    let execution = if execution.ended_at.is_some() {
        execution
    } else {
        // What moves is asked for itself: a list does not know what waits for an agent.
        let request =
            wire_api::GetExecutionRequest { namespace: context.namespace.clone(), execution_id: execution.id };
        let answer = app.call(app.executions().get_execution(context.request(request))).await?;
        answer.execution.ok_or_else(|| app::lacking("an execution"))?
    };
    Reply::ok(&LatestExecution {
        workflow_id: id.to_string(),
        status: ExecutionStatus::from_wire(execution.status)?.into(),
        execution_id: Some(execution.id),
        step_counts: execution.step_counts.unwrap_or_default().into(),
        failure: Failure::from_wire(execution.failure)?,
        created_at: wire::moment(execution.created_at)?,
        ended_at: wire::moment(execution.ended_at)?,
    })
}

/// Cancel every execution of a workflow that has not ended.
#[utoipa::path(post, path = "/api/v1/workflows/{id}/cancel", tag = "workflows",
    request_body = inline(Option<Cancel>),
    params(("id" = inline(WorkflowId), Path, description = "the workflow")),
    responses((status = 200, description = "how many were cancelled; none is no failure", body = Done)))]
pub(crate) async fn cancel_workflow(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<WorkflowId>,
    OptionalBody { value: cancel, .. }: OptionalBody<Cancel>,
) -> Result<Reply, Problem> {
    let reason = cancel.into_text();
    let (mut cancelled, mut page_token) = (0_usize, String::new());
    loop {
        let request = wire_api::ListExecutionsRequest {
            namespace: context.namespace.clone(),
            workflow_id: id.to_string(),
            statuses: [ExecutionStatus::Queued, ExecutionStatus::Running, ExecutionStatus::Paused]
                .map(i32::from)
                .to_vec(),
            page_size: store::PageSize::MOST,
            page_token,
            ..wire_api::ListExecutionsRequest::default()
        };
        let page = app.call(app.executions().list_executions(context.request(request))).await?;
        let cancels = page.executions.into_iter().map(|execution| cancel_one(&app, &context, execution.id, &reason));
        let done: Vec<bool> = futures::stream::iter(cancels).buffer_unordered(CANCELS_AT_ONCE).try_collect().await?;
        cancelled += done.into_iter().filter(|done| *done).count();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if cancelled == 0 {
        workflows::fetch(&app, &context, &id, 0).await?;
    }
    let what = if cancelled == 1 { "execution" } else { "executions" };
    Reply::ok(&Done { message: format!("{cancelled} {what} of workflow {id} cancelled") })
}

/// False where it ended by itself meanwhile.
async fn cancel_one(app: &App, context: &Context, execution_id: String, reason: &str) -> Result<bool, Error> {
    let namespace = context.namespace.clone();
    let request = wire_api::CancelExecutionRequest { namespace, execution_id, reason: reason.to_owned() };
    match app.call(app.executions().cancel_execution(context.request(request))).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.code, Code::WrongState | Code::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
