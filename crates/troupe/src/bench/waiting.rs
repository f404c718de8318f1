//! `waiting`: executions that wait for a signal. How fast they start, and what memory the server takes for each; then each is
//! given its signal and must complete with it, unless they are to be kept.

use std::{cell::RefCell, time::Instant};

use anyhow::Context as _;
use contracts::Link;
use contracts::orchestrator::v1::{
    ExecutionStatus, GetExecutionRequest, SignalExecutionRequest, StartExecutionRequest,
    execution_service_client::ExecutionServiceClient, start_execution_request,
};
use serde_json::{Value, json};

use super::{
    NAMESPACE,
    load::{self, Measured, Plan, drive},
    meter::Meter,
    report::{Memory, Report, millis},
    workflows::{check, define},
};

/// What they wait for.
const SIGNAL: &str = "go";

/// `meter` tells of memory, and `is_cost_wanted` of the rest.
pub(super) async fn measure(
    plan: Plan,
    link: &Link,
    meter: Option<&Meter>,
    is_cost_wanted: bool,
    is_kept: bool,
) -> anyhow::Result<Report> {
    let workflow = define(&definition(), link).await.context("cannot define the workflow of the benchmark")?;
    let client = ExecutionServiceClient::new(link.clone());
    let waiting = RefCell::new(Vec::new());
    let start = |_: u64| {
        let (mut client, waiting, workflow) = (client.clone(), &waiting, workflow.clone());
        async move {
            let id = start(&mut client, workflow).await?;
            waiting.borrow_mut().push(id);
            Ok(())
        }
    };
    // Those of the warm-up are not to be there any more when memory is read.
    drive(plan.warmup, plan, start).await;
    complete(&client, plan, waiting.take()).await;
    let before = resident(meter).await?;
    let measured = Plan { warmup: 0, ..plan };
    let (measured, cost) = load::measure(measured, meter.filter(|_| is_cost_wanted), 0, start).await?;
    let after = resident(meter).await?;
    let mut report = Report::new("waiting", plan, 0, measured);
    report.cost = cost;
    report.memory = before.zip(after).map(|(before, after)| Memory::new(before, after, plan.runs));
    if !is_kept {
        let begun = Instant::now();
        let completed = complete(&client, plan, waiting.take()).await;
        report.all_completed_ms = Some(millis(begun.elapsed()));
        report.errors += completed.errors;
        report.first_error = report.first_error.or(completed.first_error);
    }
    Ok(report)
}

async fn resident(meter: Option<&Meter>) -> anyhow::Result<Option<f64>> {
    let Some(meter) = meter else { return Ok(None) };
    Ok(meter.read().await?.resident_bytes())
}

/// Starts one that must wait then; answers with its id.
async fn start(client: &mut ExecutionServiceClient<Link>, workflow: String) -> Result<String, String> {
    let request = StartExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        workflow: Some(start_execution_request::Workflow::WorkflowId(workflow)),
        ..StartExecutionRequest::default()
    };
    let answer = client.start_execution(request).await.map_err(|status| status.to_string())?.into_inner();
    let execution = answer.execution.ok_or("an answer without an execution")?;
    match execution.status() {
        ExecutionStatus::Running => Ok(execution.id),
        other => Err(format!("{} does not wait: it is {}", execution.id, other.as_str_name())),
    }
}

/// Gives each its signal, with which it must complete.
async fn complete(client: &ExecutionServiceClient<Link>, plan: Plan, ids: Vec<String>) -> Measured {
    let signal = |number: u64| {
        let (mut client, id) = (client.clone(), ids[number as usize].clone());
        async move {
            let request = SignalExecutionRequest {
                namespace: NAMESPACE.to_owned(),
                execution_id: id.clone(),
                name: SIGNAL.to_owned(),
                payload: number.to_string().into(),
                ..SignalExecutionRequest::default()
            };
            client.signal_execution(request).await.map_err(|status| status.to_string())?;
            // The signal's own answer leaves the output out.
            let request = GetExecutionRequest { namespace: NAMESPACE.to_owned(), execution_id: id };
            let answer = client.get_execution(request).await.map_err(|status| status.to_string())?;
            check(answer.into_inner().execution.as_ref(), &number.into())
        }
    };
    drive(ids.len() as u64, plan, signal).await
}

fn definition() -> Value {
    json!({
        "name": "bench-waiting",
        "description": "Waits for a signal",
        "steps": [{ "id": "wait", "signal": { "name": SIGNAL } }],
        "output": "${{ steps.wait.output }}",
    })
}
