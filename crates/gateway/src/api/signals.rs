//! Signals: input from outside for the step that waits for it.

use std::sync::Arc;

use axum::extract::State;
use contracts::orchestrator::v1 as wire_api;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::wire::ExecutionStatus;
use crate::{
    app::{self, App},
    context::Context,
    extract::{Body, Path, PathName},
    json::Any,
    problem::Problem,
    reply::Reply,
    words::{ExecutionId, Name, Title},
};

/// What a signal says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"payload": {"approved": true}, "sender": "ada"}))]
pub(crate) struct Signal {
    /// Any JSON value; null where absent. It becomes the output of the step that waits.
    #[serde(default)]
    #[schema(nullable = false)]
    payload: Option<Any>,
    /// Who gives it, for the record.
    #[serde(default)]
    sender: Option<Title>,
}

/// A recorded signal.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Signalled {
    /// `sig_…`
    signal_id: String,
    /// The execution.
    execution_id: String,
    /// Where the execution is.
    status: ExecutionStatus,
}

/// Give a signal to an execution.
#[utoipa::path(post, path = "/api/v1/executions/{id}/signals/{name}", tag = "executions", request_body = Signal,
    params(
        ("id" = inline(ExecutionId), Path, description = "the execution"),
        ("name" = inline(Name), Path, description = "the signal's name in the definition"),
    ),
    responses((status = 202, description = "recorded; kept until the step waits for it", body = Signalled)))]
pub(crate) async fn signal_execution(
    State(app): State<Arc<App>>,
    context: Context,
    Path(execution): Path<ExecutionId>,
    PathName(name): PathName,
    Body { value, bytes }: Body<Signal>,
) -> Result<Reply, Problem> {
    let fresh = domain::SignalId::generate(&*app.clock);
    let (app, context) = (&app, &context);
    let give = |id: domain::SignalId| async move {
        let request = wire_api::SignalExecutionRequest {
            namespace: context.namespace.clone(),
            execution_id: execution.to_string(),
            name: name.0,
            payload: value.payload.map(|payload| payload.0.as_bytes().to_vec().into()).unwrap_or_default(),
            sender: value.sender.map(|sender| sender.0).unwrap_or_default(),
            signal_id: id.to_string(),
        };
        let answer = app.call(app.executions().signal_execution(context.request(request))).await;
        let answer = answer.map_err(Problem::in_body)?.execution.ok_or_else(|| app::lacking("an execution"))?;
        let status = ExecutionStatus::from_wire(answer.status)?;
        let (signal_id, execution_id) = (id.to_string(), execution.to_string());
        Reply::new(StatusCode::ACCEPTED, &Signalled { signal_id, execution_id, status })
    };
    app.idempotency.once(context, &bytes, fresh, give).await
}
