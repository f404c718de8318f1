//! What both databases keep the same way.

use std::{fmt::Write as _, str::FromStr};

use domain::{AgentId, DeadLetterId, Timestamp};
use serde::{Deserialize, Serialize};

use super::HistoryEvent;
use crate::app::{DeadTask, Kind, Status};

/// A line of `messages.history`.
#[derive(Serialize, Deserialize)]
struct Line {
    status: String,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
}

pub(super) fn history_lines(events: &[HistoryEvent]) -> String {
    let mut lines = String::new();
    for event in events {
        let line = Line { status: event.status.as_str().to_owned(), at: event.at, detail: event.detail.clone() };
        // Texts and a number always print as JSON, and writing to a text never fails.
        if let Ok(line) = serde_json::to_string(&line) {
            let _ = writeln!(lines, "{line}");
        }
    }
    lines
}

/// The line of a message that lives again.
pub(super) fn replayed(letter: DeadLetterId, at: Timestamp) -> HistoryEvent {
    HistoryEvent { status: Status::Accepted, at, detail: format!("replayed from {letter}") }
}

pub(super) fn faulty(source: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(source))
}

#[derive(Debug, thiserror::Error)]
#[error("unknown word {0:?} in the database")]
struct UnknownWord(String);

pub(super) fn status(text: &str) -> sqlx::Result<Status> {
    let found = Status::ALL.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| faulty(UnknownWord(text.to_owned())))
}

pub(super) fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> sqlx::Result<T> {
    text.parse().map_err(faulty)
}

pub(super) fn optional_agent(text: &str) -> sqlx::Result<Option<AgentId>> {
    if text.is_empty() { Ok(None) } else { parsed(text).map(Some) }
}

pub(super) fn kind(text: &str) -> sqlx::Result<Kind> {
    let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| faulty(UnknownWord(text.to_owned())))
}

/// `dead_letters.task`.
pub(super) fn task_text(task: Option<&DeadTask>) -> Option<String> {
    // Texts, numbers and ids always print as JSON.
    task.and_then(|task| serde_json::to_string(task).ok())
}

/// What [`task_text`] wrote.
pub(super) fn task(text: Option<&str>) -> sqlx::Result<Option<DeadTask>> {
    text.map(serde_json::from_str).transpose().map_err(faulty)
}

/// The history of a message: its acceptance, and the lines that [`history_lines`] wrote.
pub(super) fn history(accepted_at: Timestamp, lines: &str) -> sqlx::Result<Vec<HistoryEvent>> {
    let mut history = vec![HistoryEvent { status: Status::Accepted, at: accepted_at, detail: String::new() }];
    for line in lines.lines() {
        let line: Line = serde_json::from_str(line).map_err(faulty)?;
        history.push(HistoryEvent { status: status(&line.status)?, at: line.at, detail: line.detail });
    }
    Ok(history)
}
