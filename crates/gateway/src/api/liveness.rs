//! Does everything that lives go on?

use std::sync::Arc;

use axum::extract::State;
use contracts::orchestrator::v1 as wire_api;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{app::App, context::Context, problem::Problem, reply::Reply};

/// Live executions of all namespaces, counted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Liveness {
    /// Executions that have not ended.
    live: u64,
    /// Of those, the ones that owe no wake-up; zero, unless something is wrong.
    stuck: u64,
    /// Repairs that the sweeper has made since the start.
    repaired: u64,
}

/// Count the executions that have not ended, and those of them that nothing would wake up.
#[utoipa::path(get, path = "/api/v1/liveness", tag = "executions",
    responses((status = 200, description = "the counts", body = Liveness)))]
pub(crate) async fn check_liveness(State(app): State<Arc<App>>, context: Context) -> Result<Reply, Problem> {
    let request = context.request(wire_api::CheckLivenessRequest {});
    let answer = app.call(app.executions().check_liveness(request)).await?;
    Reply::ok(&Liveness { live: answer.live, stuck: answer.stuck, repaired: answer.repaired })
}
