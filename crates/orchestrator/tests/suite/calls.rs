//! Workflows, lists, refusals.

use std::time::Duration;

use contracts::orchestrator::v1::{
    ArchiveWorkflowRequest, ExecutionStatus, GetExecutionRequest, ListExecutionsRequest, UpdateWorkflowRequest,
};
use serde_json::{Value, json};

use crate::world::{Node, World, reason};

fn definition(name: &str, action: &str) -> Value {
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
    json!({"name": name, "input_schema": schema, "steps": [{"id": "a", "agent_type": "x", "action": action}]})
}

async fn update(node: &Node, id: &str, definition: &Value, expected_version: u32) -> Result<u32, tonic::Status> {
    let definition = definition.to_string().into_bytes().into();
    let request =
        UpdateWorkflowRequest { workflow_id: id.to_owned(), definition, expected_version, namespace: String::new() };
    Ok(node.workflows.clone().update_workflow(request).await?.into_inner().workflow.unwrap().version)
}

#[tokio::test]
async fn workflows_are_versioned_and_their_names_unique_until_archived() {
    let world = World::new();
    let node = world.start().await;
    let id = node.define(definition("one", "echo")).await.unwrap().id;
    assert_eq!(reason(node.define(definition("one", "echo")).await), "workflow_name_taken");
    assert_eq!(reason(node.define(json!({"name": "two", "steps": []})).await), "definition_invalid");
    assert_eq!(update(&node, &id, &definition("one", "echo"), 0).await.unwrap(), 1);
    assert_eq!(update(&node, &id, &definition("one", "fail"), 1).await.unwrap(), 2);
    assert_eq!(reason(update(&node, &id, &definition("one", "twice"), 1).await), "workflow_changed");
    assert_eq!(node.run(&id).await.status(), ExecutionStatus::Failed);
    let archive = ArchiveWorkflowRequest { workflow_id: id.clone(), ..ArchiveWorkflowRequest::default() };
    assert!(node.workflows.clone().archive_workflow(archive.clone()).await.unwrap().into_inner().archived);
    assert!(!node.workflows.clone().archive_workflow(archive).await.unwrap().into_inner().archived);
    assert_eq!(reason(node.try_run(&id, "", Duration::ZERO).await), "workflow_archived");
    node.define(definition("one", "echo")).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn an_input_that_does_not_fit_names_the_fault() {
    let world = World::new();
    let node = world.start().await;
    let mut wrong = definition("one", "echo");
    wrong["input_schema"]["properties"]["n"] = json!({"type": "string"});
    let id = node.define(wrong).await.unwrap().id;
    let refused = errors::Error::from(node.try_run(&id, "", Duration::ZERO).await.unwrap_err());
    assert_eq!((refused.reason, refused.violations[0].field.as_str()), ("input_invalid", "/n"));
    node.stop().await;
}

#[tokio::test]
async fn executions_are_listed_newest_first_page_by_page_inside_their_namespace() {
    let world = World::new();
    let node = world.start().await;
    let id = node.define(definition("one", "echo")).await.unwrap().id;
    let mut started = Vec::new();
    for _ in 0..7 {
        started.push(node.run(&id).await.id);
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let statuses = vec![ExecutionStatus::Completed.into()];
        let request = ListExecutionsRequest { page_size: 3, page_token, statuses, ..ListExecutionsRequest::default() };
        let page = node.executions.clone().list_executions(request).await.unwrap().into_inner();
        listed.extend(page.executions.into_iter().map(|execution| execution.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    started.reverse();
    assert_eq!(listed, started);
    let elsewhere = ListExecutionsRequest { namespace: "other".into(), ..ListExecutionsRequest::default() };
    assert!(node.executions.clone().list_executions(elsewhere).await.unwrap().into_inner().executions.is_empty());
    let foreign = GetExecutionRequest { namespace: "other".into(), execution_id: started[0].clone() };
    assert_eq!(reason(node.executions.clone().get_execution(foreign).await), "execution_not_found");
    node.stop().await;
}
