//! `get-agent` and `post-message`: requests of one who comes over HTTP, with a key or a token where the gateway wants one.

use anyhow::{Context as _, Result};
use reqwest::Method;
use serde_json::json;

use super::{
    NAMESPACE, Workload,
    load::{self, Plan},
    meter::Meter,
    report::Report,
};
use crate::{
    cli::Global,
    client::{Client, text},
};

/// `agent` is the one that is read, or gets the messages.
pub(super) async fn measure(
    workload: Workload,
    plan: Plan,
    global: &Global,
    agent: &str,
    meter: Option<&Meter>,
) -> Result<Report> {
    let client = Client::in_namespace(global, NAMESPACE)?;
    client.get(&["agents", agent]).await.context("the gateway does not answer as it is to")?;
    let call = |number: u64| {
        let client = &client;
        async move {
            let answer = if workload == Workload::GetAgent {
                client.get(&["agents", agent]).await
            } else {
                let request = client.request(Method::POST, &["agents", agent, "message"]);
                client.send(request.json(&json!({ "payload": number }))).await
            };
            let answer = answer.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
            let is_right = if workload == Workload::GetAgent {
                text(&answer, "id") == agent
            } else {
                text(&answer, "message_id").starts_with("msg_")
            };
            if is_right { Ok(()) } else { Err(format!("a wrong answer: {answer}")) }
        }
    };
    let (measured, cost) = load::measure(plan, meter, 0, call).await?;
    let mut report = Report::new(workload.name(), plan, 0, measured);
    report.cost = cost;
    Ok(report)
}
