//! Workflows: define, look at, define anew, archive.

use std::{collections::HashMap, sync::Arc};

use axum::extract::State;
use contracts::orchestrator::v1 as wire_api;
use domain::Payload;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Done, Page, Sort,
    wire::{self, WorkflowStatus},
};
use crate::{
    app::{self, App},
    context::Context,
    etag::{IfMatch, IfNoneMatch},
    extract::{Definition, Path},
    fields::Fields,
    problem::Problem,
    query::Query,
    reply::Reply,
    words::{Cursor, Limit, Moment, Title, Version, WorkflowId},
};

/// A workflow's definition. It is checked whole by the orchestrator, which answers with every fault; what a step may say
/// is described in the guide to workflows.
#[derive(ToSchema)]
#[schema(as = Definition, example = json!({
    "name": "greeting", "description": "Says hello",
    "steps": [
        { "id": "greet", "agent_type": "echo", "input": { "hello": "${{ input.who }}" } },
        { "id": "repeat", "agent_type": "echo", "input": "${{ steps.greet.output.hello }}", "depends_on": ["greet"] },
    ],
    "output": "${{ steps.repeat.output }}",
}))]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the body, which passes through as its text")]
pub(crate) struct DefinitionDocument {
    /// Unique among the active workflows of the namespace.
    name: Title,
    /// For people. Here and below, `null` is the same as nothing.
    description: Option<String>,
    /// What is done.
    #[schema(min_items = 1, max_items = 10_000)]
    steps: Vec<Step>,
    /// What each step waits for, besides its own `depends_on`.
    dependencies: Option<HashMap<String, Vec<String>>>,
    /// Bounds of whole executions: `timeout`, `max_parallel`, `priority`.
    #[schema(value_type = Option<Object>)]
    config: Option<()>,
    /// A JSON Schema that inputs must fit: an object, or `true` or `false`.
    #[schema(value_type = Option<serde_json::Value>)]
    input_schema: Option<()>,
    /// What an execution answers with.
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<()>,
}

/// One step; the guide to workflows has all its fields.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which passes through as its text")]
pub(crate) struct Step {
    /// Unique in the definition.
    #[schema(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
    id: String,
}

/// A workflow at one of its versions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workflow {
    /// `wf_…`
    id: String,
    /// Unique among the active workflows of the namespace.
    name: String,
    /// Of the definition.
    version: u32,
    /// Whether it can be executed.
    status: WorkflowStatus,
    /// For people.
    description: String,
    /// How many steps there are.
    step_count: u32,
    /// As they were given.
    #[schema(value_type = Vec<Object>)]
    steps: Payload,
    /// As they were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    dependencies: Option<Payload>,
    /// As it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    config: Option<Payload>,
    /// As it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    input_schema: Option<Payload>,
    /// As it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Payload>,
    /// When its first version was stored.
    created_at: Moment,
    /// When its newest version was stored, or it was archived.
    updated_at: Moment,
}

/// The parts of a definition, each as its text.
#[derive(Deserialize)]
struct Parts {
    steps: Payload,
    dependencies: Option<Payload>,
    config: Option<Payload>,
    input_schema: Option<Payload>,
    output: Option<Payload>,
}

impl Workflow {
    fn from_wire(workflow: Option<wire_api::Workflow>) -> Result<Self, Problem> {
        let workflow = workflow.ok_or_else(|| app::lacking("a workflow"))?;
        let parts: Parts =
            serde_json::from_slice(&workflow.definition).map_err(|_| app::lacking("a readable definition"))?;
        Ok(Self {
            id: workflow.id,
            name: workflow.name,
            version: workflow.version,
            status: WorkflowStatus::from_wire(workflow.status)?,
            description: workflow.description,
            step_count: workflow.step_count,
            steps: parts.steps,
            dependencies: parts.dependencies,
            config: parts.config,
            input_schema: parts.input_schema,
            output: parts.output,
            created_at: wire::required_moment(workflow.created_at)?,
            updated_at: wire::required_moment(workflow.updated_at)?,
        })
    }
}

/// What a list can tell of each.
type WorkflowFields = Fields<Workflow>;

/// Which workflows.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WorkflowFilter {
    /// With this name.
    #[param(inline, required = false, nullable = false)]
    name: Option<Title>,
    /// Also archived ones.
    #[param(required = false)]
    include_archived: bool,
    /// In which order; `created_at` where absent.
    #[param(inline, required = false, nullable = false)]
    sort: Option<Sort>,
    /// Tell no more of each than these, with commas between them.
    #[param(inline, style = Form, explode = false, required = false, nullable = false)]
    fields: Option<WorkflowFields>,
    /// At most this many.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<Cursor>,
}

/// Which version.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WhichVersion {
    /// The newest where absent.
    #[param(inline, required = false, nullable = false)]
    version: Option<Version>,
}

/// Which version must be the newest.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExpectedVersion {
    /// Refuse the new version where the newest is another one.
    #[param(inline, required = false, nullable = false)]
    expected_version: Option<Version>,
}

/// Define a workflow.
#[utoipa::path(post, path = "/api/v1/workflows", tag = "workflows",
    request_body(content((DefinitionDocument = "application/json"), (DefinitionDocument = "application/yaml"))),
    responses((status = 201, description = "stored as version 1", body = Workflow,
        headers(("Location" = String, description = "its path")),
        links(
            ("get" = (operation_id = "get_workflow", parameters(("id" = "$response.body#/id")))),
            ("execute" = (operation_id = "execute_workflow", parameters(("id" = "$response.body#/id")))),
            ("status" = (operation_id = "workflow_status", parameters(("id" = "$response.body#/id")))),
        ))))]
pub(crate) async fn create_workflow(
    State(app): State<Arc<App>>,
    context: Context,
    definition: Definition,
) -> Result<Reply, Problem> {
    let Definition { json, bytes } = definition;
    let fresh = domain::WorkflowId::generate(&*app.clock);
    let (app, context) = (&app, &context);
    let create = |id: domain::WorkflowId| async move {
        let request = wire_api::CreateWorkflowRequest {
            namespace: context.namespace.clone(),
            workflow_id: id.to_string(),
            definition: json,
        };
        let answer = app.call(app.workflows().create_workflow(context.request(request))).await?;
        let workflow = Workflow::from_wire(answer.workflow)?;
        Ok(Reply::new(StatusCode::CREATED, &workflow)?.at(format!("/api/v1/workflows/{}", workflow.id)))
    };
    Ok(app.idempotency.once(context, &bytes, fresh, create).await?.tagged_as_it_says())
}

/// List workflows.
#[utoipa::path(get, path = "/api/v1/workflows", tag = "workflows", params(WorkflowFilter), responses(
    (status = 200, description = "in the order of their creation, or that of `sort`", body = Page<Workflow>),
))]
pub(crate) async fn list_workflows(
    State(app): State<Arc<App>>,
    context: Context,
    Query(filter): Query<WorkflowFilter>,
) -> Result<Reply, Problem> {
    let request = wire_api::ListWorkflowsRequest {
        namespace: context.namespace.clone(),
        include_archived: filter.include_archived,
        name: filter.name.map(|name| name.0).unwrap_or_default(),
        page_size: filter.limit.map_or(0, |limit| limit.0),
        page_token: filter.cursor.map(|cursor| cursor.0).unwrap_or_default(),
        newest_first: filter.sort == Some(Sort::Newest),
    };
    let page = app.call(app.workflows().list_workflows(context.request(request))).await?;
    let workflows: Result<Vec<_>, _> =
        page.workflows.into_iter().map(|workflow| Workflow::from_wire(Some(workflow))).collect();
    Reply::ok(&Page::new(workflows?, page.next_page_token))?.with_fields(filter.fields.as_ref())
}

/// Get a workflow.
#[utoipa::path(get, path = "/api/v1/workflows/{id}", tag = "workflows",
    params(("id" = inline(WorkflowId), Path, description = "the workflow, archived or not"), WhichVersion),
    responses((status = 200, description = "the workflow", body = Workflow)))]
pub(crate) async fn get_workflow(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<WorkflowId>,
    Query(which): Query<WhichVersion>,
    known: IfNoneMatch,
) -> Result<Reply, Problem> {
    let version = which.version.map_or(0, |version| version.0);
    let workflow = Workflow::from_wire(Some(fetch(&app, &context, &id, version).await?))?;
    Ok(Reply::ok(&workflow)?.tagged(workflow.version.into(), &known))
}

/// The workflow, or why there is none.
pub(super) async fn fetch(
    app: &App,
    context: &Context,
    id: &WorkflowId,
    version: u32,
) -> Result<wire_api::Workflow, Problem> {
    let request = wire_api::GetWorkflowRequest {
        namespace: context.namespace.clone(),
        workflow: Some(wire_api::get_workflow_request::Workflow::WorkflowId(id.to_string())),
        version,
    };
    let answer = app.call(app.workflows().get_workflow(context.request(request))).await?;
    answer.workflow.ok_or_else(|| app::lacking("a workflow"))
}

/// Store a workflow's next version.
#[utoipa::path(put, path = "/api/v1/workflows/{id}", tag = "workflows",
    request_body(content((DefinitionDocument = "application/json"), (DefinitionDocument = "application/yaml"))),
    params(("id" = inline(WorkflowId), Path, description = "the workflow"), ExpectedVersion),
    responses((status = 200, description = "at its newest version; the same definition again makes none", body = Workflow)))]
pub(crate) async fn update_workflow(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<WorkflowId>,
    Query(expected): Query<ExpectedVersion>,
    seen: IfMatch,
    definition: Definition,
) -> Result<Reply, Problem> {
    let change = |expected_version| {
        let request = wire_api::UpdateWorkflowRequest {
            namespace: context.namespace.clone(),
            workflow_id: id.to_string(),
            definition: definition.json.clone(),
            expected_version,
        };
        let (app, context) = (&app, &context);
        async move { app.call(app.workflows().update_workflow(context.request(request))).await }
    };
    let answer = seen.change(expected.expected_version, change).await?;
    let workflow = Workflow::from_wire(answer.workflow)?;
    Ok(Reply::ok(&workflow)?.with_tag(workflow.version.into()))
}

/// Archive a workflow.
#[utoipa::path(delete, path = "/api/v1/workflows/{id}", tag = "workflows",
    params(("id" = inline(WorkflowId), Path, description = "the workflow")),
    responses((status = 200, description = "no new executions start; running ones go on", body = Done)))]
pub(crate) async fn archive_workflow(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<WorkflowId>,
    seen: IfMatch,
) -> Result<Reply, Problem> {
    let change = |expected_version| {
        let request = wire_api::ArchiveWorkflowRequest {
            namespace: context.namespace.clone(),
            workflow_id: id.to_string(),
            expected_version,
        };
        let (app, context) = (&app, &context);
        async move { app.call(app.workflows().archive_workflow(context.request(request))).await }
    };
    let answer = seen.change(None, change).await?;
    let message = if answer.archived { "archived" } else { "was archived already" };
    Reply::ok(&Done { message: format!("workflow {id} {message}") })
}
