//! Progress of tasks on its way to whoever watches executions. Bounded and best effort: whoever works waits for nothing here,
//! and what does not fit is dropped and counted.

use bytes::Bytes;
use domain::{AgentId, Namespace, Payload, Timestamp};
use serde::Serialize;
use tokio::sync::mpsc;

use super::TaskId;
use crate::{
    metrics,
    transport::{LiveMessage, MAX_LIVE_PAYLOAD},
};

/// What waits to be published at most; at 64 KiB each, what its agents say at most.
const MOST_WAITING: usize = 512;

/// How far a task is, as its agent shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) namespace: Namespace,
    pub(crate) execution_id: String,
    pub(crate) task: TaskId,
    pub(crate) agent: AgentId,
    /// What the agent says: a JSON value, unless it is faulty.
    pub(crate) detail: Bytes,
    pub(crate) at: Timestamp,
}

/// Where progress is put. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Progress(mpsc::Sender<Shown>);

impl Progress {
    /// The way in, and the way out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Shown>) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        (Self(sender), receiver)
    }

    /// Takes progress to publish it, where there is room.
    pub(crate) fn show(&self, shown: Shown) {
        if self.0.try_send(shown).is_err() {
            dropped("full", 1);
        }
    }
}

/// Counts what is not published.
pub(crate) fn dropped(reason: &'static str, count: usize) {
    ::metrics::counter!(metrics::LIVE_DROPPED, "reason" => reason).increment(count as u64);
}

/// What is published about it.
#[derive(Serialize)]
struct Document<'a> {
    task_id: &'a str,
    agent_id: String,
    detail: Payload,
    at: String,
}

impl Shown {
    /// As it is published: under `executions.<execution>.progress`. None where it is too large, or the agent's detail is no JSON.
    pub(crate) fn into_message(self) -> Option<LiveMessage> {
        let topic = format!("executions.{}.progress", self.execution_id).parse().ok()?;
        let document = Document {
            task_id: &self.task,
            agent_id: self.agent.to_string(),
            detail: Payload::from_field(&self.detail, Payload::null).ok()?,
            at: self.at.to_string(),
        };
        let payload = serde_json::to_vec(&document).ok()?;
        if payload.len() > MAX_LIVE_PAYLOAD {
            return None;
        }
        Some(LiveMessage { namespace: self.namespace, topic, payload: payload.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(detail: &str) -> Shown {
        Shown {
            namespace: Namespace::default(),
            execution_id: "exe_1".to_owned(),
            task: "exe_1/step/1".into(),
            agent: AgentId::from_parts(1, 1),
            detail: Bytes::copy_from_slice(detail.as_bytes()),
            at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn progress_is_a_small_document_under_its_execution() {
        let message = shown(r#"{"done": 0.5}"#).into_message().unwrap();
        assert_eq!(message.topic.as_str(), "executions.exe_1.progress");
        let text = std::str::from_utf8(&message.payload).unwrap();
        let agent = AgentId::from_parts(1, 1);
        let expected = format!(
            r#"{{"task_id":"exe_1/step/1","agent_id":"{agent}","detail":{{"done": 0.5}},"at":"1970-01-01T00:00:00.000000Z"}}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_faulty_or_too_large_is_not_published() {
        assert!(shown("half").into_message().is_none());
        assert!(shown(&format!("{:?}", "a".repeat(MAX_LIVE_PAYLOAD))).into_message().is_none());
        assert!(shown("").into_message().is_some(), "nothing said is `null`");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_nobody_waits() {
        let (progress, mut waiting) = Progress::new();
        (0..MOST_WAITING + 10).for_each(|number| progress.show(shown(&number.to_string())));
        drop(progress);
        let mut found = Vec::new();
        waiting.recv_many(&mut found, usize::MAX >> 1).await;
        assert_eq!(found.len(), MOST_WAITING);
        assert_eq!(found[0].detail, "0");
    }
}
