//! `message`: 1 KiB into a mailbox. Counted when it is accepted, which is after it is recorded; how long it takes until the
//! agent has acknowledged all of them is told besides.

use std::time::{Duration, Instant};

use anyhow::bail;
use contracts::{
    Link,
    communication::v1::{
        ListMessagesRequest, Message, MessageStatus, SendMessageRequest, message::Recipient,
        message_service_client::MessageServiceClient,
    },
};

use super::{
    NAMESPACE,
    cost::Before,
    load::{Plan, drive},
    meter::Meter,
    report::{Report, millis},
};

/// Bytes of a message's payload.
const PAYLOAD: usize = 1024;
/// How long the agent may take for the rest after the last message was accepted.
const PATIENCE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(20);

/// `meter` tells what it has cost until all were acknowledged.
pub(super) async fn measure(plan: Plan, link: &Link, agent: &str, meter: Option<&Meter>) -> anyhow::Result<Report> {
    let client = MessageServiceClient::new(link.clone());
    let payload = payload();
    let call = |_: u64| {
        let mut client = client.clone();
        let message = Message {
            namespace: NAMESPACE.to_owned(),
            recipient: Some(Recipient::AgentId(agent.to_owned())),
            payload: payload.clone().into(),
            ..Message::default()
        };
        async move {
            let request = SendMessageRequest { message: Some(message) };
            let answer = client.send_message(request).await.map_err(|status| status.to_string())?.into_inner();
            if answer.message_id.is_empty() { Err("an answer without a message id".to_owned()) } else { Ok(()) }
        }
    };
    drive(plan.warmup, plan, call).await;
    wait_until_acked(client.clone(), agent).await?;
    let before = match meter {
        Some(meter) => Some(Before::read(meter).await?),
        None => None,
    };
    let begun = Instant::now();
    let measured = drive(plan.runs, plan, call).await;
    wait_until_acked(client.clone(), agent).await?;
    let mut report = Report::new("message", plan, 0, measured);
    report.all_acked_ms = Some(millis(begun.elapsed()));
    if let Some(before) = before {
        report.cost = Some(before.cost(plan.runs, 0).await?);
    }
    Ok(report)
}

/// A JSON text of [`PAYLOAD`] bytes, quotes included.
fn payload() -> Vec<u8> {
    format!("\"{}\"", "x".repeat(PAYLOAD - 2)).into_bytes()
}

/// Waits until no message to the agent is on its way.
async fn wait_until_acked(mut client: MessageServiceClient<Link>, agent: &str) -> anyhow::Result<()> {
    // In the order in which messages pass through them, so that none slips by between two questions.
    let on_their_way = [MessageStatus::Accepted, MessageStatus::Queued, MessageStatus::Delivered];
    let begun = Instant::now();
    'again: loop {
        if begun.elapsed() > PATIENCE {
            bail!("not every message was acknowledged within {PATIENCE:?}");
        }
        for status in on_their_way {
            let request = ListMessagesRequest {
                namespace: NAMESPACE.to_owned(),
                agent_id: agent.to_owned(),
                status: status.into(),
                page_size: 1,
                ..ListMessagesRequest::default()
            };
            if !client.list_messages(request).await?.into_inner().records.is_empty() {
                tokio::time::sleep(PAUSE).await;
                continue 'again;
            }
        }
        return Ok(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_a_kibibyte_of_json() {
        let payload = payload();
        assert_eq!(payload.len(), PAYLOAD);
        assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok());
    }
}
