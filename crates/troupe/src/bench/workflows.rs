//! `chain3`, `fan100` and `dag10k`: executions from their start to their output.

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
    load::{self, Plan},
    meter::Meter,
    report::Report,
};

/// How long an execution may take before it counts as an error; the longest wait that the server grants.
const WAIT: Duration = Duration::from_mins(1);
/// Parallel steps of `fan100`.
const WIDTH: usize = 100;
/// Steps of `dag10k`, which is as many as a definition may have unless `orchestrator.max_steps` says otherwise.
const DAG: usize = 10_000;
/// Steps of it that one step waits for.
const FAN_IN: usize = 6_000;
/// How many of the others go side by side.
const LANES: usize = 100;

/// `meter` tells what it has cost.
pub(super) async fn measure(
    workload: Workload,
    plan: Plan,
    link: &Link,
    meter: Option<&Meter>,
) -> anyhow::Result<Report> {
    Load::of(vec![Case::of(workload)], link).await?.measure(workload.name(), plan, meter).await
}

/// A workflow, and what goes in and must come out.
pub(super) struct Case {
    definition: Value,
    input: Vec<u8>,
    output: Value,
}

impl Case {
    fn of(workload: Workload) -> Self {
        match workload {
            Workload::Chain3
            | Workload::Message
            | Workload::Waiting
            | Workload::Kinds20
            | Workload::GetAgent
            | Workload::PostMessage => Self::chain3("bench-chain3", "echo"),
            Workload::Fan100 => {
                Self { definition: fan100(), input: b"{}".to_vec(), output: (0..WIDTH).collect::<Vec<_>>().into() }
            }
            Workload::Dag10k => {
                let output = json!({ "joined": (0..FAN_IN).collect::<Vec<_>>(), "last": DAG - 1 });
                Self { definition: dag10k(), input: b"{}".to_vec(), output }
            }
        }
    }

    /// The chain, over agents of a type.
    pub(super) fn chain3(name: &str, agent_type: &str) -> Self {
        // 200 bytes with the quotes around them and the field's name.
        let input = json!({ "payload": "x".repeat(186) });
        Self { definition: chain3(name, agent_type), input: input.to_string().into_bytes(), output: input }
    }

    fn steps(&self) -> u64 {
        self.definition["steps"].as_array().map_or(0, Vec::len) as u64
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

/// Workflows that take turns; all have as many steps.
pub(super) struct Load {
    client: ExecutionServiceClient<Link>,
    /// With their ids.
    cases: Vec<(Case, String)>,
}

impl Load {
    /// Stores the definitions.
    pub(super) async fn of(cases: Vec<Case>, link: &Link) -> anyhow::Result<Self> {
        let client = ExecutionServiceClient::new(link.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut stored = Vec::new();
        for case in cases {
            let workflow =
                define(&case.definition, link).await.context("cannot define the workflow of the benchmark")?;
            stored.push((case, workflow));
        }
        Ok(Self { client, cases: stored })
    }

    pub(super) async fn measure(
        &self,
        name: &'static str,
        plan: Plan,
        meter: Option<&Meter>,
    ) -> anyhow::Result<Report> {
        let steps = self.cases.first().map_or(0, |(case, _)| case.steps());
        let call = |number: u64| {
            let (case, workflow) = &self.cases[number as usize % self.cases.len()];
            let (mut client, request) = (self.client.clone(), case.request(workflow));
            async move {
                let answer = client.start_execution(request).await.map_err(|status| status.to_string())?;
                check(answer.into_inner().execution.as_ref(), &case.output)
            }
        };
        let (measured, cost) = load::measure(plan, meter, steps, call).await?;
        let mut report = Report::new(name, plan, steps, measured);
        report.cost = cost;
        Ok(report)
    }
}

fn chain3(name: &str, agent_type: &str) -> Value {
    json!({
        "name": name,
        "description": "3 sequential echo steps",
        "steps": [
            { "id": "one", "agent_type": agent_type, "input": "${{ input }}" },
            { "id": "two", "agent_type": agent_type, "input": "${{ steps.one.output }}", "depends_on": ["one"] },
            { "id": "three", "agent_type": agent_type, "input": "${{ steps.two.output }}", "depends_on": ["two"] },
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

/// A step, [`FAN_IN`] that wait for it, one that waits for all of those and reads what each has said, and [`LANES`] lanes side by
/// side after it, each step of which says its number; the last step waits for the last of every lane.
fn dag10k() -> Value {
    let step = |number: usize, depends_on: Vec<String>| json!({ "id": format!("s{number}"), "agent_type": "echo", "input": { "n": number }, "depends_on": depends_on });
    let id = |number: usize| format!("s{number}");
    let (source, join) = (0, FAN_IN + 1);
    let mut steps = vec![step(source, vec![])];
    steps.extend((1..join).map(|number| step(number, vec![id(source)])));
    let read: Vec<_> = (1..join).map(|number| format!("${{{{ steps.s{number}.output.n - 1 }}}}")).collect();
    let all: Vec<_> = (1..join).map(id).collect();
    steps.push(json!({ "id": id(join), "agent_type": "echo", "input": read, "depends_on": all }));
    let last = DAG - 1;
    steps.extend((join + 1..last).map(|number| {
        let before = if number - join > LANES { number - LANES } else { join };
        step(number, vec![id(before)])
    }));
    steps.push(step(last, (last - LANES..last).map(id).collect()));
    json!({
        "name": "bench-dag10k",
        "description": "10,000 steps, of which one waits for 6,000",
        "steps": steps,
        "output": { "joined": format!("${{{{ steps.s{join}.output }}}}"), "last": format!("${{{{ steps.s{last}.output.n }}}}") },
        "config": { "max_parallel": FAN_IN },
    })
}

/// Stores the definition, or finds it; answers with the workflow's id.
pub(super) async fn define(definition: &Value, link: &Link) -> anyhow::Result<String> {
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
pub(super) fn check(execution: Option<&Execution>, expected: &Value) -> Result<(), String> {
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
    fn a_dag_has_10000_steps_each_once_and_one_waits_for_6000() {
        let definition = dag10k();
        let steps = definition["steps"].as_array().unwrap();
        let ids: std::collections::HashSet<_> = steps.iter().map(|step| step["id"].as_str().unwrap()).collect();
        assert_eq!((steps.len(), ids.len()), (DAG, DAG));
        assert_eq!(steps[FAN_IN + 1]["depends_on"].as_array().unwrap().len(), FAN_IN);
        assert_eq!(steps[FAN_IN + 1 + LANES]["depends_on"], json!([format!("s{}", FAN_IN + 1)]));
        assert_eq!(steps[FAN_IN + 2 + LANES]["depends_on"], json!([format!("s{}", FAN_IN + 2)]));
        assert_eq!(steps[DAG - 1]["depends_on"].as_array().unwrap().len(), LANES);
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
