//! Agents: register, look at, change, remove.

use std::sync::Arc;

use axum::extract::State;
use contracts::registry::v1 as wire_api;
use domain::Payload;
use errors::Error;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{ArrayBuilder, RefOr, Schema},
};

use super::{
    Done, Page, Sort,
    wire::{self, AgentStatus},
};
use crate::{
    app::{self, App},
    context::Context,
    etag::{IfMatch, IfNoneMatch, Refusal},
    extract::{Body, Path},
    fields::Fields,
    json::Object,
    problem::Problem,
    query::Query,
    reply::Reply,
    words::{AgentId, Cursor, Limit, Moment, Name, Title, Version},
};

/// Capabilities that one agent has at most.
const MAX_CAPABILITIES: usize = 256;

/// An agent to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"agent_type": "echo", "name": "echo-1", "capabilities": ["credit.score"], "config": {}}))]
pub(crate) struct NewAgent {
    /// What kind of worker it is; built-in types run at once, others when their process connects.
    agent_type: Name,
    /// Unique among the agents of the namespace.
    name: Title,
    /// What it can do.
    #[serde(default)]
    capabilities: Capabilities,
    /// What the agent itself interprets.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    config: Option<Object>,
}

/// A change of an agent; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"capabilities": ["credit.score", "credit.explain"]}))]
pub(crate) struct AgentChange {
    /// Its new name.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    name: Option<Title>,
    /// All that it can do from now on.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    capabilities: Option<Capabilities>,
    /// Its whole new configuration.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    config: Option<Object>,
    /// Refuse the change where the agent's revision is another one.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    expected_revision: Option<Version>,
}

/// A field that may be absent, but not null.
fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A list of capabilities within its bound.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "Vec<Name>")]
pub(crate) struct Capabilities(Vec<Name>);

impl PartialSchema for Capabilities {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new().items(Name::schema()).max_items(Some(MAX_CAPABILITIES)).into()
    }
}

impl ToSchema for Capabilities {}

impl TryFrom<Vec<Name>> for Capabilities {
    type Error = String;

    fn try_from(names: Vec<Name>) -> Result<Self, String> {
        if names.len() <= MAX_CAPABILITIES {
            Ok(Self(names))
        } else {
            Err(format!("must have at most {MAX_CAPABILITIES} entries, not {}", names.len()))
        }
    }
}

impl Capabilities {
    fn into_texts(self) -> Vec<String> {
        self.0.into_iter().map(|name| name.0).collect()
    }
}

/// A registered agent.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "`agent_type` is the API's word")]
pub(crate) struct Agent {
    /// `agt_…`
    id: String,
    /// What kind of worker it is.
    agent_type: String,
    /// Unique among the agents of the namespace.
    name: String,
    /// Whether it can work.
    status: AgentStatus,
    /// What it can do.
    capabilities: Vec<String>,
    /// What the agent itself interprets.
    #[schema(value_type = Object)]
    config: Payload,
    /// Grows by one with every change.
    revision: i64,
    /// Deliveries that it holds now.
    in_flight: u32,
    /// Deliveries that it can hold.
    capacity: u32,
    /// When it was registered.
    created_at: Moment,
    /// When it was last changed.
    updated_at: Moment,
    /// When it was last heard of.
    last_heartbeat_at: Option<Moment>,
}

impl Agent {
    pub(super) fn from_wire(agent: Option<wire_api::Agent>) -> Result<Self, Problem> {
        let agent = agent.ok_or_else(|| app::lacking("an agent"))?;
        Ok(Self {
            id: agent.id,
            agent_type: agent.agent_type,
            name: agent.name,
            status: AgentStatus::from_wire(agent.status)?,
            capabilities: agent.capabilities,
            config: wire::payload(&agent.config)?.unwrap_or_else(Payload::empty_object),
            revision: agent.revision,
            in_flight: agent.in_flight,
            capacity: agent.capacity,
            created_at: wire::required_moment(agent.created_at)?,
            updated_at: wire::required_moment(agent.updated_at)?,
            last_heartbeat_at: wire::moment(agent.last_heartbeat_at)?,
        })
    }
}

/// What a list can tell of each.
type AgentFields = Fields<Agent>;

/// Which agents.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AgentFilter {
    /// Of this type.
    #[serde(rename = "type")]
    #[param(inline, required = false, nullable = false)]
    agent_type: Option<Name>,
    /// With this capability.
    #[param(inline, required = false, nullable = false)]
    capability: Option<Name>,
    /// With this status.
    #[param(inline, required = false, nullable = false)]
    status: Option<AgentStatus>,
    /// With this name.
    #[param(inline, required = false, nullable = false)]
    name: Option<Title>,
    /// In which order; `created_at` where absent.
    #[param(inline, required = false, nullable = false)]
    sort: Option<Sort>,
    /// Tell no more of each than these, with commas between them.
    #[param(inline, style = Form, explode = false, required = false, nullable = false)]
    fields: Option<AgentFields>,
    /// At most this many.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<Cursor>,
}

/// Register an agent.
#[utoipa::path(post, path = "/api/v1/agents", tag = "agents", request_body = NewAgent, responses(
    (status = 201, description = "registered", body = Agent, headers(("Location" = String, description = "its path")),
     links(
        ("get" = (operation_id = "get_agent", parameters(("id" = "$response.body#/id")))),
        ("change" = (operation_id = "update_agent", parameters(("id" = "$response.body#/id")))),
        ("send" = (operation_id = "send_message", parameters(("id" = "$response.body#/id")))),
        ("delete" = (operation_id = "delete_agent", parameters(("id" = "$response.body#/id")))),
    )),
))]
pub(crate) async fn create_agent(
    State(app): State<Arc<App>>,
    context: Context,
    body: Body<NewAgent>,
) -> Result<Reply, Problem> {
    let Body { value, bytes } = body;
    let fresh = domain::AgentId::generate(&*app.clock);
    let (app, context) = (&app, &context);
    let create = |id: domain::AgentId| async move {
        let request = wire_api::RegisterAgentRequest {
            namespace: context.namespace.clone(),
            agent_id: id.to_string(),
            agent_type: value.agent_type.0,
            name: value.name.0,
            capabilities: value.capabilities.into_texts(),
            config: value.config.map_or_else(Payload::empty_object, |config| config.0).as_bytes().to_vec().into(),
            attach: false,
        };
        let answer = app.call(app.agents().register_agent(context.request(request))).await;
        let agent = Agent::from_wire(answer.map_err(Problem::in_body)?.agent)?;
        Ok(Reply::new(StatusCode::CREATED, &agent)?.at(format!("/api/v1/agents/{}", agent.id)))
    };
    Ok(app.idempotency.once(context, &bytes, fresh, create).await?.tagged_as_it_says())
}

/// List agents.
#[utoipa::path(get, path = "/api/v1/agents", tag = "agents", params(AgentFilter), responses(
    (status = 200, description = "in the order of their creation, or that of `sort`", body = Page<Agent>, headers(
        ("X-Stale" = String, description = "`true` where the registry cannot be reached: it was so `Age` seconds ago"),
    )),
))]
pub(crate) async fn list_agents(
    State(app): State<Arc<App>>,
    context: Context,
    Query(filter): Query<AgentFilter>,
) -> Result<Reply, Problem> {
    let request = wire_api::ListAgentsRequest {
        namespace: context.namespace.clone(),
        agent_type: filter.agent_type.map(|name| name.0).unwrap_or_default(),
        capability: filter.capability.map(|name| name.0).unwrap_or_default(),
        status: filter.status.map_or(0, i32::from),
        page_size: filter.limit.map_or(0, |limit| limit.0),
        page_token: filter.cursor.map(|cursor| cursor.0).unwrap_or_default(),
        name: filter.name.map(|name| name.0).unwrap_or_default(),
        newest_first: filter.sort == Some(Sort::Newest),
    };
    let question = format!("{request:?}");
    let mut agents = app.agents();
    let call = Box::pin(app.call(agents.list_agents(context.request(request))));
    let reply = |page: wire_api::ListAgentsResponse| {
        let agents: Result<Vec<_>, _> = page.agents.into_iter().map(|agent| Agent::from_wire(Some(agent))).collect();
        Reply::ok(&Page::new(agents?, page.next_page_token))
    };
    app.memory.or_stale(question, call, reply).await?.with_fields(filter.fields.as_ref())
}

/// Get an agent.
#[utoipa::path(get, path = "/api/v1/agents/{id}", tag = "agents",
    params(("id" = inline(AgentId), Path, description = "the agent")),
    responses((status = 200, description = "the agent", body = Agent, headers(
        ("X-Stale" = String, description = "`true` where the registry cannot be reached: it was so `Age` seconds ago"),
    ))))]
pub(crate) async fn get_agent(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<AgentId>,
    known: IfNoneMatch,
) -> Result<Reply, Problem> {
    let request = wire_api::GetAgentRequest { namespace: context.namespace.clone(), agent_id: id.to_string() };
    let question = format!("{request:?}");
    let mut agents = app.agents();
    let call = Box::pin(app.call(agents.get_agent(context.request(request))));
    let mut revision = 0;
    let reply = |answer: wire_api::GetAgentResponse| {
        let agent = Agent::from_wire(answer.agent)?;
        revision = agent.revision.unsigned_abs();
        Reply::ok(&agent)
    };
    let reply = app.memory.or_stale(question, call, reply).await?;
    Ok(reply.tagged(revision, &known))
}

/// Change an agent's name, capabilities or configuration.
#[utoipa::path(put, path = "/api/v1/agents/{id}", tag = "agents", request_body = AgentChange,
    params(("id" = inline(AgentId), Path, description = "the agent")),
    responses((status = 200, description = "the agent after the change", body = Agent)))]
pub(crate) async fn update_agent(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<AgentId>,
    seen: IfMatch,
    Body { value, .. }: Body<AgentChange>,
) -> Result<Reply, Problem> {
    let expected = value.expected_revision;
    let capabilities = value.capabilities.map(|list| wire_api::CapabilityList { values: list.into_texts() });
    let template = wire_api::UpdateAgentRequest {
        namespace: context.namespace.clone(),
        agent_id: id.to_string(),
        name: value.name.map(|name| name.0),
        capabilities,
        config: value.config.map(|config| config.0.as_bytes().to_vec().into()),
        expected_revision: 0,
    };
    let change = |expected_revision| {
        let request = wire_api::UpdateAgentRequest { expected_revision, ..template.clone() };
        let (app, context) = (&app, &context);
        async move { app.call(app.agents().update_agent(context.request(request))).await }
    };
    let answer = seen.change(expected, change).await.map_err(Refusal::in_body)?;
    let agent = Agent::from_wire(answer.agent)?;
    Ok(Reply::ok(&agent)?.with_tag(agent.revision.unsigned_abs()))
}

/// Remove an agent.
#[utoipa::path(delete, path = "/api/v1/agents/{id}", tag = "agents",
    params(("id" = inline(AgentId), Path, description = "the agent")),
    responses((status = 200, description = "removed; its sessions are closed", body = Done)))]
pub(crate) async fn delete_agent(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<AgentId>,
    seen: IfMatch,
) -> Result<Reply, Problem> {
    let change = |expected_revision| {
        let request = wire_api::DeleteAgentRequest {
            namespace: context.namespace.clone(),
            agent_id: id.to_string(),
            expected_revision,
        };
        let (app, context) = (&app, &context);
        async move { app.call(app.agents().delete_agent(context.request(request))).await }
    };
    let answer = seen.change(None, change).await?;
    if !answer.deleted {
        return Err(Error::not_found("agent_not_found", format!("there is no agent {id}")).into());
    }
    Reply::ok(&Done { message: format!("agent {id} deleted") })
}
