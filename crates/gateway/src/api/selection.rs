//! Choosing agents, as tasks and messages choose them.

use std::sync::Arc;

use axum::extract::State;
use contracts::registry::v1::{self as wire_api, select_agents_request::Target};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::agents::Agent;
use crate::{
    app::App,
    context::Context,
    problem::Problem,
    query::{Query, Several},
    reply::Reply,
    words::{AgentId, Count, Group, Key},
};

/// How agents are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Strategy {
    /// The less loaded of two random choices.
    LeastLoaded,
    /// In turn.
    RoundRobin,
    /// At random, in proportion to `weight` in the agent's configuration (1 where absent).
    Weighted,
    /// The same `key` gives the same agent while the same agents live.
    Sticky,
}

impl From<Strategy> for wire_api::SelectionStrategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::LeastLoaded => Self::LeastLoaded,
            Strategy::RoundRobin => Self::RoundRobin,
            Strategy::Weighted => Self::Weighted,
            Strategy::Sticky => Self::Sticky,
        }
    }
}

type AgentIds = Several<AgentId>;

/// Whom to choose from, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Choice {
    /// Of whom: `type:` and a type, or `capability:` and a capability.
    #[param(inline)]
    of: Group,
    /// How many, all different; 1 where absent.
    #[param(inline, required = false, nullable = false)]
    count: Option<Count>,
    /// How; `least_loaded` where absent.
    #[param(inline, required = false, nullable = false)]
    strategy: Option<Strategy>,
    /// For `sticky`.
    #[param(inline, required = false, nullable = false)]
    key: Option<Key>,
    /// None of these, with commas between them.
    #[param(inline, style = Form, explode = false, required = false, nullable = false)]
    exclude: Option<AgentIds>,
}

/// Who was chosen.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Chosen {
    /// All different; fewer than were wanted where no more live.
    agents: Vec<Agent>,
}

/// Choose agents that live, as tasks and messages to a type or capability choose theirs.
#[utoipa::path(get, path = "/api/v1/agents/select", tag = "agents", params(Choice), responses(
    (status = 200, description = "who was chosen", body = Chosen),
))]
pub(crate) async fn select_agents(
    State(app): State<Arc<App>>,
    context: Context,
    Query(choice): Query<Choice>,
) -> Result<Reply, Problem> {
    let target = match choice.of.0.split_once(':') {
        Some(("type", name)) => Target::AgentType(name.to_owned()),
        Some((_, name)) => Target::Capability(name.to_owned()),
        None => return Err(Problem::internal("a group without a kind")),
    };
    let strategy = choice.strategy.map_or(wire_api::SelectionStrategy::Unspecified, Into::into);
    let excluded = choice.exclude.map_or_else(Vec::new, |excluded| excluded.0);
    let request = wire_api::SelectAgentsRequest {
        namespace: context.namespace.clone(),
        target: Some(target),
        count: choice.count.map_or(0, |count| count.0),
        strategy: strategy.into(),
        key: choice.key.map(|key| key.0).unwrap_or_default(),
        exclude_agent_ids: excluded.iter().map(ToString::to_string).collect(),
    };
    let answer = app.call(app.agents().select_agents(context.request(request))).await?;
    let agents: Result<Vec<_>, _> = answer.agents.into_iter().map(|agent| Agent::from_wire(Some(agent))).collect();
    Reply::ok(&Chosen { agents: agents? })
}
