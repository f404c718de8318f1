//! What one can do to an execution: cancel, pause, resume, retry.

use std::sync::Arc;

use axum::extract::State;
use contracts::orchestrator::v1 as wire_api;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Nothing, executions::ExecutionSummary};
use crate::{
    app::App,
    context::Context,
    extract::{OptionalBody, Path},
    problem::Problem,
    reply::Reply,
    words::{ExecutionId, Remark},
};

/// Why something is cancelled.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cancel {
    /// For people; kept in the log.
    #[serde(default)]
    reason: Option<Remark>,
}

impl Cancel {
    pub(super) fn into_text(self) -> String {
        self.reason.map(|reason| reason.0).unwrap_or_default()
    }
}

/// Cancel an execution.
#[utoipa::path(post, path = "/api/v1/executions/{id}/cancel", tag = "executions",
    request_body = inline(Option<Cancel>),
    params(("id" = inline(ExecutionId), Path, description = "the execution")),
    responses((status = 200, description = "what runs is withdrawn, what completed is undone", body = ExecutionSummary)))]
pub(crate) async fn cancel_execution(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<ExecutionId>,
    OptionalBody { value: cancel, .. }: OptionalBody<Cancel>,
) -> Result<Reply, Problem> {
    let request = wire_api::CancelExecutionRequest {
        namespace: context.namespace.clone(),
        execution_id: id.to_string(),
        reason: cancel.into_text(),
    };
    let answer = app.call(app.executions().cancel_execution(context.request(request))).await?;
    ExecutionSummary::reply(answer.execution)
}

/// Pause an execution.
#[utoipa::path(post, path = "/api/v1/executions/{id}/pause", tag = "executions",
    request_body = inline(Option<Nothing>),
    params(("id" = inline(ExecutionId), Path, description = "the execution")),
    responses((status = 200, description = "what runs may finish, nothing new starts", body = ExecutionSummary)))]
pub(crate) async fn pause_execution(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<ExecutionId>,
    OptionalBody { value: Nothing {}, .. }: OptionalBody<Nothing>,
) -> Result<Reply, Problem> {
    let request =
        wire_api::PauseExecutionRequest { namespace: context.namespace.clone(), execution_id: id.to_string() };
    let answer = app.call(app.executions().pause_execution(context.request(request))).await?;
    ExecutionSummary::reply(answer.execution)
}

/// Resume a paused execution.
#[utoipa::path(post, path = "/api/v1/executions/{id}/resume", tag = "executions",
    request_body = inline(Option<Nothing>),
    params(("id" = inline(ExecutionId), Path, description = "the execution")),
    responses((status = 200, description = "it goes on", body = ExecutionSummary)))]
pub(crate) async fn resume_execution(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<ExecutionId>,
    OptionalBody { value: Nothing {}, .. }: OptionalBody<Nothing>,
) -> Result<Reply, Problem> {
    let request =
        wire_api::ResumeExecutionRequest { namespace: context.namespace.clone(), execution_id: id.to_string() };
    let answer = app.call(app.executions().resume_execution(context.request(request))).await?;
    ExecutionSummary::reply(answer.execution)
}

/// Run a failed execution again from its failed steps.
#[utoipa::path(post, path = "/api/v1/executions/{id}/retry", tag = "executions",
    request_body = inline(Option<Nothing>),
    params(("id" = inline(ExecutionId), Path, description = "the execution")),
    responses((status = 200, description = "what completed is kept", body = ExecutionSummary)))]
pub(crate) async fn retry_execution(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<ExecutionId>,
    OptionalBody { value: Nothing {}, .. }: OptionalBody<Nothing>,
) -> Result<Reply, Problem> {
    let request = wire_api::RetryExecutionRequest {
        namespace: context.namespace.clone(),
        execution_id: id.to_string(),
        task_id: String::new(),
    };
    let answer = app.call(app.executions().retry_execution(context.request(request))).await?;
    ExecutionSummary::reply(answer.execution)
}
