//! Workflows, their versions, and what may be started.

use contracts::orchestrator::v1::{
    ArchiveWorkflowRequest, CreateWorkflowRequest, GetWorkflowRequest, ListWorkflowsRequest, StartExecutionRequest,
    UpdateWorkflowRequest, Workflow, WorkflowStatus, get_workflow_request, start_execution_request,
};
use domain::{SystemClock, WorkflowId};
use serde_json::{Value, json};

use crate::world::{World, chain, reason, start_of};

fn create(definition: &Value) -> CreateWorkflowRequest {
    CreateWorkflowRequest { definition: definition.to_string().into(), ..CreateWorkflowRequest::default() }
}

fn update(workflow: &Workflow, definition: &Value) -> UpdateWorkflowRequest {
    UpdateWorkflowRequest {
        workflow_id: workflow.id.clone(),
        definition: definition.to_string().into(),
        ..UpdateWorkflowRequest::default()
    }
}

fn get(workflow: get_workflow_request::Workflow, version: u32) -> GetWorkflowRequest {
    GetWorkflowRequest { namespace: String::new(), workflow: Some(workflow), version }
}

impl World {
    async fn update(&self, request: UpdateWorkflowRequest) -> Workflow {
        self.workflows().update_workflow(request).await.unwrap().into_inner().workflow.unwrap()
    }

    async fn archive(&self, workflow: &Workflow) -> bool {
        let request = ArchiveWorkflowRequest { workflow_id: workflow.id.clone(), ..ArchiveWorkflowRequest::default() };
        self.workflows().archive_workflow(request).await.unwrap().into_inner().archived
    }
}

#[tokio::test]
async fn every_fault_of_a_definition_is_named() {
    let world = World::start().await;
    let wrong = json!({ "name": "w", "steps": [{ "id": "a" }, { "id": "a", "agent_type": "x", "timeout": "soon" }] });
    let error: errors::Error = world.workflows().create_workflow(create(&wrong)).await.unwrap_err().into();
    assert_eq!(error.reason, "definition_invalid");
    assert!(error.violations.len() >= 3, "{:?}", error.violations);
    assert!(error.violations.iter().any(|violation| violation.field == "/steps/1/timeout"), "{:?}", error.violations);
}

#[tokio::test]
async fn a_version_stays_as_it_was() {
    let world = World::start().await;
    let first = world.define(&chain("w", &["a"])).await;
    assert_eq!((first.version, first.step_count, first.status()), (1, 1, WorkflowStatus::Active));
    let same = world.update(update(&first, &chain("w", &["a"]))).await;
    assert_eq!(same.version, 1, "an equal definition makes no version");
    let second = world.update(update(&first, &chain("renamed", &["a", "b"]))).await;
    assert_eq!((second.version, second.step_count, second.name.as_str()), (2, 2, "renamed"));
    let stale = UpdateWorkflowRequest { expected_version: 1, ..update(&first, &chain("w", &["c"])) };
    assert_eq!(reason(world.workflows().update_workflow(stale).await), "workflow_changed");
    let stale = ArchiveWorkflowRequest { namespace: String::new(), workflow_id: first.id.clone(), expected_version: 1 };
    assert_eq!(reason(world.workflows().archive_workflow(stale).await), "workflow_changed");

    let by_id = get_workflow_request::Workflow::WorkflowId(first.id.clone());
    let old = world.workflows().get_workflow(get(by_id, 1)).await.unwrap().into_inner().workflow.unwrap();
    assert_eq!((old.definition, old.name.as_str()), (first.definition.clone(), "w"));
    let by_name = get_workflow_request::Workflow::Name("w".to_owned());
    assert_eq!(reason(world.workflows().get_workflow(get(by_name, 0)).await), "workflow_not_found");

    let started = world.run(start_of(&first)).await;
    assert_eq!((started.workflow_version, started.workflow_name.as_str()), (2, "renamed"));
    let pinned = world.run(StartExecutionRequest { version: 1, ..start_of(&first) }).await;
    assert_eq!((pinned.workflow_version, pinned.workflow_name.as_str()), (1, "w"));
}

#[tokio::test]
async fn a_name_is_one_active_workflow_and_archiving_frees_it() {
    let world = World::start().await;
    let id = WorkflowId::generate(&SystemClock).to_string();
    let request = CreateWorkflowRequest { workflow_id: id.clone(), ..create(&chain("w", &["a"])) };
    let made = world.workflows().create_workflow(request.clone()).await.unwrap().into_inner();
    let again = world.workflows().create_workflow(request).await.unwrap().into_inner();
    assert_eq!(made, again, "the same id again answers with what the first call made");
    let workflow = made.workflow.unwrap();
    assert_eq!(reason(world.workflows().create_workflow(create(&chain("w", &["b"]))).await), "workflow_name_taken");
    assert!(world.archive(&workflow).await);
    assert!(!world.archive(&workflow).await);
    let next = world.define(&chain("w", &["b"])).await;
    assert_eq!(reason(world.executions().start_execution(start_of(&workflow)).await), "workflow_archived");
    let by_name = start_execution_request::Workflow::WorkflowName("w".to_owned());
    let started =
        world.run(StartExecutionRequest { workflow: Some(by_name), ..StartExecutionRequest::default() }).await;
    assert_eq!(started.workflow_id, next.id);
    let unknown = start_execution_request::Workflow::WorkflowName("x".to_owned());
    let unknown = StartExecutionRequest { workflow: Some(unknown), ..StartExecutionRequest::default() };
    assert_eq!(reason(world.executions().start_execution(unknown).await), "workflow_not_found");
}

#[tokio::test]
async fn workflows_are_listed_by_pages() {
    let world = World::start().await;
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        made.push(world.define(&chain(name, &["s"])).await);
    }
    made.sort_by(|one, other| one.id.cmp(&other.id));
    let request = ListWorkflowsRequest { page_size: 2, ..ListWorkflowsRequest::default() };
    let first = world.workflows().list_workflows(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.workflows, made[..2]);
    let request = ListWorkflowsRequest { page_token: first.next_page_token, ..request };
    let last = world.workflows().list_workflows(request).await.unwrap().into_inner();
    assert_eq!((&last.workflows[..], last.next_page_token.as_str()), (&made[2..], ""));
}

#[tokio::test]
async fn an_input_that_does_not_fit_is_refused_with_pointers() {
    let world = World::start().await;
    let mut definition = chain("typed", &["a"]);
    definition["input_schema"] = json!({ "type": "object", "required": ["file"],
                                         "properties": { "rows": { "type": "array", "items": { "type": "integer" } } } });
    let workflow = world.define(&definition).await;
    let request = StartExecutionRequest { input: r#"{"rows": [1, "2"]}"#.into(), ..start_of(&workflow) };
    let error: errors::Error = world.executions().start_execution(request).await.unwrap_err().into();
    assert_eq!(error.reason, "input_invalid");
    let mut pointers: Vec<_> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["", "/rows/1"]);
    let request = StartExecutionRequest { input: r#"{"file": "x"}"#.into(), ..start_of(&workflow) };
    world.run(request).await;
    let garbled = StartExecutionRequest { input: "{".into(), ..start_of(&workflow) };
    assert!(world.executions().start_execution(garbled).await.is_err());
}
