//! The agents: each does one task at a time, as well as the task's id says, and keeps its result until it is acknowledged.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use contracts::communication::v1::{Task, TaskFailure, task::Target, task_result::Outcome};
use domain::AgentId;
use serde_json::json;

use super::{communication::Communication, ground::Ground};

/// A result, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) agent: String,
    pub(super) outcome: Outcome,
}

/// A task in an agent's hands.
pub(super) struct Work {
    pub(super) task: Task,
    pub(super) agent: String,
    /// Of its hand-over: no other has it.
    pub(super) turn: u64,
    /// Which replica of communication gave it, in which of its lives.
    pub(super) post: usize,
    pub(super) life: u64,
    /// May the agent lose its session at it?
    pub(super) may_be_lost: bool,
}

/// Voters that there are.
pub(super) const VOTERS: u128 = 4;

/// A voter, by its number.
pub(super) fn voter(number: u128) -> AgentId {
    AgentId::from_parts(1, number)
}

/// Everybody whom the workflows of the histories name.
pub(super) fn kinds() -> Vec<Target> {
    let named = [Target::AgentType("worker".to_owned()), Target::Capability("work.hard".to_owned())];
    named.into_iter().chain((0..=VOTERS).map(|number| Target::AgentId(voter(number).to_string()))).collect()
}

/// Who gets a task.
pub(super) fn of(task: &Task, turn: u64) -> String {
    match &task.target {
        Some(Target::AgentId(id)) => id.clone(),
        Some(Target::AgentType(_) | Target::Capability(_)) | None => {
            AgentId::from_parts(2, u128::from(turn)).to_string()
        }
    }
}

/// What becomes of a task: the same, whoever does it and whenever.
pub(super) fn outcome(seed: u64, task_id: &str, is_vote: bool) -> Outcome {
    // Which number a vote has depends on what came before it.
    let (before, frame) = task_id.split_once('@').unwrap_or((task_id, ""));
    let attempt = frame.split_once('/').map_or("", |(_, attempt)| attempt);
    let mut hasher = DefaultHasher::new();
    (seed, before, attempt).hash(&mut hasher);
    let luck = hasher.finish() % 100;
    let output = |value: serde_json::Value| Outcome::Output(value.to_string().into_bytes().into());
    match luck {
        0..35 if is_vote => output(json!({ "choice": "left" })),
        35..70 if is_vote => output(json!({ "choice": "right" })),
        0..70 => output(json!({ "of": task_id.split_once('/').map(|(_, rest)| rest), "luck": luck })),
        70..92 => failure("busy", true),
        _ => failure("broken", false),
    }
}

fn failure(code: &str, retryable: bool) -> Outcome {
    let (code, message) = (code.to_owned(), "as its luck was".to_owned());
    Outcome::Failure(TaskFailure { code, message, retryable, ..TaskFailure::default() })
}

/// An agent has got a task.
pub(super) fn begin(communication: &Arc<Communication>, work: Work) {
    let communication = Arc::clone(communication);
    #[expect(clippy::disallowed_methods, reason = "agents are not a part of the replica, and end with the history")]
    drop(tokio::spawn(async move { work_on(&communication, work).await }));
}

async fn work_on(communication: &Arc<Communication>, work: Work) {
    let ground = Arc::clone(communication.ground());
    let trouble = ground.trouble();
    let is_lost = work.may_be_lost && ground.chance(trouble.lost_session);
    tokio::time::sleep(ground.while_of(1..400)).await;
    if ground.chance(0.5) {
        communication.alive(&work, false);
        tokio::time::sleep(ground.while_of(1..150)).await;
        communication.alive(&work, true);
    }
    if trouble.slow > 0.0 && ground.chance(0.1) {
        tokio::time::sleep(ground.while_of(500..3_000)).await;
    }
    if is_lost {
        communication.session_lost(&work);
        if ground.chance(0.5) {
            // It has ended, and with it the work.
            return;
        }
        // It has not, and brings its result over its next session, where that may be.
        tokio::time::sleep(ground.while_of(1..2_000)).await;
    }
    finish(communication, &ground, &work);
}

fn finish(communication: &Arc<Communication>, ground: &Ground, work: &Work) {
    let id = &work.task.id;
    let ended = Ended { agent: work.agent.clone(), outcome: outcome(ground.seed, id, work.task.action == "vote") };
    communication.keep(id, &ended);
    communication.end(work.post, id, &ended);
    if ground.chance(ground.trouble().twice) {
        // Over another session too, before it heard of the acknowledgement.
        bring_again(communication, id.clone());
    }
}

/// An agent that keeps a result brings it to whoever is there.
pub(super) fn bring_again(communication: &Arc<Communication>, id: String) {
    let communication = Arc::clone(communication);
    #[expect(clippy::disallowed_methods, reason = "agents are not a part of the replica, and end with the history")]
    drop(tokio::spawn(async move {
        let ground = Arc::clone(communication.ground());
        tokio::time::sleep(ground.while_of(1..1_000)).await;
        if let Some(ended) = communication.kept(&id) {
            communication.end(ground.one_of(communication.count()), &id, &ended);
        }
    }));
}
