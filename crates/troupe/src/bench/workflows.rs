//! `chain3` and `fan100`: executions from their start to their output.

use std::time::Duration;

use anyhow::Context as _;
use contracts::{
    Link, MAX_MESSAGE_BYTES,
    orchestrator::v1::{
        CreateWorkflowRequest, Execution, ExecutionStatus, ListWorkflowsRequest, StartExecutionRequest,
        UpdateWorkflowRequest, execution_service_client::ExecutionServiceClient, start_execution_request,
        workflow_service_client::WorkflowServiceClient,
    },
};
use serde_json::{Value, json};

use super::{
    NAMESPACE, Workload,
    load::{Plan, drive},
    report::Report,
};

/// How long an execution may take before it counts as an error; the longest wait that the server grants.
const WAIT: Duration = Duration::from_mins(1);
/// Parallel steps of `fan100`.
const WIDTH: usize = 100;

pub(super) async fn measure(workload: Workload, plan: Plan, link: &Link) -> anyhow::Result<Report> {
    let case = Case::of(workload);
    let workflow = define(&case.definition, link).await.context("cannot define the workflow of the benchmark")?;
    let client = ExecutionServiceClient::new(link.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let call = |_: u64| {
        let (mut client, request) = (client.clone(), case.request(&workflow));
        let expected = &case.output;
        async move {
            let answer = client.start_execution(request).await.map_err(|status| status.to_string())?;
            check(answer.into_inner().execution.as_ref(), expected)
        }
    };
    drive(plan.warmup, plan.concurrency, call).await;
    let measured = drive(plan.runs, plan.concurrency, call).await;
    Ok(Report::new(workload.name(), plan, measured))
}

/// A workload's workflow, and what goes in and must come out.
struct Case {
    definition: Value,
    input: Vec<u8>,
    output: Value,
}

impl Case {
    fn of(workload: Workload) -> Self {
        match workload {
            Workload::Chain3 | Workload::Message => {
                // 200 bytes with the quotes around them and the field's name.
                let input = json!({ "payload": "x".repeat(186) });
                Self { definition: chain3(), input: input.to_string().into_bytes(), output: input }
            }
            Workload::Fan100 => {
                Self { definition: fan100(), input: b"{}".to_vec(), output: (0..WIDTH).collect::<Vec<_>>().into() }
            }
        }
    }

    fn request(&self, workflow: &str) -> StartExecutionRequest {
        StartExecutionRequest {
            namespace: NAMESPACE.to_owned(),
            workflow: Some(start_execution_request::Workflow::WorkflowId(workflow.to_owned())),
            input: self.input.clone().into(),
            wait: prost_types::Duration::try_from(WAIT).ok(),
            ..StartExecutionRequest::default()
        }
    }
}

fn chain3() -> Value {
    json!({
        "name": "bench-chain3",
        "description": "3 sequential echo steps",
        "steps": [
            { "id": "one", "agent_type": "echo", "input": "${{ input }}" },
            { "id": "two", "agent_type": "echo", "input": "${{ steps.one.output }}", "depends_on": ["one"] },
            { "id": "three", "agent_type": "echo", "input": "${{ steps.two.output }}", "depends_on": ["two"] },
        ],
        "output": "${{ steps.three.output }}",
    })
}

fn fan100() -> Value {
    let ids: Vec<_> = (0..WIDTH).map(|number| format!("s{number}")).collect();
    let step = |(number, id): (usize, &String)| json!({ "id": id, "agent_type": "echo", "input": { "n": number } });
    let mut steps: Vec<_> = ids.iter().enumerate().map(step).collect();
    let outputs: Vec<_> = ids.iter().map(|id| format!("${{{{ steps.{id}.output.n }}}}")).collect();
    steps.push(json!({ "id": "join", "agent_type": "echo", "input": outputs, "depends_on": ids }));
    json!({
        "name": "bench-fan100",
        "description": "100 parallel echo steps and a join",
        "steps": steps,
        "output": "${{ steps.join.output }}",
        "config": { "max_parallel": WIDTH },
    })
}

/// Stores the definition, or finds it; answers with the workflow's id.
async fn define(definition: &Value, link: &Link) -> anyhow::Result<String> {
    let mut client = WorkflowServiceClient::new(link.clone());
    let name = definition["name"].as_str().unwrap_or_default().to_owned();
    let request = ListWorkflowsRequest { namespace: NAMESPACE.to_owned(), name, ..ListWorkflowsRequest::default() };
    let found = client.list_workflows(request).await?.into_inner().workflows.into_iter().next();
    let definition = definition.to_string().into_bytes().into();
    let namespace = NAMESPACE.to_owned();
    let workflow = if let Some(found) = found {
        let request = UpdateWorkflowRequest { namespace, workflow_id: found.id, definition, expected_version: 0 };
        client.update_workflow(request).await?.into_inner().workflow
    } else {
        let request = CreateWorkflowRequest { namespace, workflow_id: String::new(), definition };
        client.create_workflow(request).await?.into_inner().workflow
    };
    Ok(workflow.context("the orchestrator named no workflow")?.id)
}

/// Did the execution end well, with the right output?
fn check(execution: Option<&Execution>, expected: &Value) -> Result<(), String> {
    let execution = execution.ok_or("an answer without an execution")?;
    if execution.status() != ExecutionStatus::Completed {
        let failure = execution.failure.as_ref().map_or("", |failure| &failure.message);
        return Err(format!("{} is {}: {failure}", execution.id, execution.status().as_str_name()));
    }
    match serde_json::from_slice::<Value>(&execution.output) {
        Ok(output) if output == *expected => Ok(()),
        Ok(output) => Err(format!("{} has the wrong output {output}", execution.id)),
        Err(error) => Err(format!("{} has no output: {error}", execution.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_of_a_chain_has_200_bytes() {
        assert_eq!(Case::of(Workload::Chain3).input.len(), 200);
    }

    #[test]
    fn a_fan_reads_every_step_in_its_join() {
        let definition = fan100();
        let steps = definition["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 101);
        assert_eq!(steps[100]["input"][99], "${{ steps.s99.output.n }}");
        assert_eq!(steps[100]["depends_on"].as_array().unwrap().len(), 100);
    }

    #[test]
    fn a_wrong_output_is_an_error() {
        let execution = |output: &str| Execution {
            status: ExecutionStatus::Completed.into(),
            output: output.as_bytes().to_vec().into(),
            ..Execution::default()
        };
        assert!(check(Some(&execution("[1]")), &json!([1])).is_ok());
        assert!(check(Some(&execution("[2]")), &json!([1])).is_err());
        assert!(check(Some(&execution("")), &json!([1])).is_err());
        assert!(check(Some(&Execution::default()), &json!([1])).is_err());
        assert!(check(None, &json!([1])).is_err());
    }
}
