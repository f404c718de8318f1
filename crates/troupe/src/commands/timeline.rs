//! An execution drawn over time: a bar per step, and one per attempt where there were several.
//!
//! Steps come from the execution; attempts are read off its log, since an execution keeps only each step's last one.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::follow::{failure_sentence, step_of};
use crate::{
    client::{Event, number, text},
    output::{Cell, Tone, between, duration, moment, printable, tone_of},
};

/// How wide the bars are, in characters.
const WIDTH: usize = 32;

/// One try of a step, of an instance, or of an undo.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attempt {
    number: u64,
    state: &'static str,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
    note: String,
}

/// A step, or one instance of it.
type Place = (String, Option<u64>);

/// The attempts of every step and instance, in the order of the log; undoing is no attempt.
pub(super) fn attempts(events: &[Event]) -> HashMap<Place, Vec<Attempt>> {
    let mut found = HashMap::<Place, Vec<Attempt>>::new();
    for event in events {
        let Some(at) = moment(text(&event.document, "at")) else { continue };
        if event.data("purpose").is_some_and(|purpose| purpose == "undo") {
            continue;
        }
        let place =
            (step_of(event).to_owned(), event.data("index").or_else(|| event.data("voter")).and_then(Value::as_u64));
        let of_place = found.entry(place).or_default();
        let (state, is_end) = match event.kind.as_str() {
            "step_scheduled" => ("running", false),
            "step_retrying" | "step_failed" | "ballot_missed" => ("failed", true),
            "step_completed" | "ballot_cast" => ("completed", true),
            "step_cancelled" => ("cancelled", true),
            _ => continue,
        };
        if is_end {
            if let Some(open) = of_place.last_mut().filter(|attempt| attempt.to.is_none()) {
                open.state = state;
                open.to = Some(at);
                open.note = event.data("failure").map(failure_sentence).unwrap_or_default();
            }
        } else {
            let number = event.data("attempt").and_then(Value::as_u64).unwrap_or(of_place.len() as u64 + 1);
            of_place.push(Attempt { number, state, from: at, to: None, note: String::new() });
        }
    }
    found
}

/// The time that the drawing covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

impl Window {
    /// From an execution's start to its end, or to `now` while it runs.
    pub(super) fn of(execution: &Value, now: DateTime<Utc>) -> Option<Self> {
        let from = moment(text(execution, "created_at"))?;
        let to = moment(text(execution, "ended_at")).unwrap_or(now);
        Some(Self { from, to: to.max(from) })
    }

    /// A bar from `from` to `to`; at least one mark wide, so that short steps show.
    fn bar(self, from: DateTime<Utc>, to: DateTime<Utc>) -> String {
        let whole = between(self.from, self.to).as_secs_f64();
        let place = |at: DateTime<Utc>| {
            let share = if whole > 0.0 { between(self.from, at).as_secs_f64() / whole } else { 0.0 };
            (share.clamp(0.0, 1.0) * WIDTH as f64).round() as usize
        };
        let start = place(from).min(WIDTH - 1);
        let end = place(to).clamp(start + 1, WIDTH);
        format!("{}{}", " ".repeat(start), "━".repeat(end - start))
    }
}

/// The rows of the table: `STEP STATE TOOK <bar> NOTE`.
pub(super) struct Drawing<'a> {
    /// What it covers.
    pub(super) window: Window,
    /// What [`attempts`] found.
    pub(super) attempts: HashMap<Place, Vec<Attempt>>,
    /// Also every instance and voter?
    pub(super) instances: bool,
    /// The steps of the execution.
    pub(super) steps: &'a [Value],
}

impl Drawing<'_> {
    pub(super) const HEADINGS: [&'static str; 5] = ["STEP", "STATE", "TOOK", "TIMELINE", ""];

    pub(super) fn rows(&self) -> Vec<Vec<Cell>> {
        let mut rows = Vec::new();
        for step in self.steps {
            let id = text(step, "step_id");
            rows.push(self.row(id, step, &self.note(step)));
            self.push_attempts(&(id.to_owned(), None), "  ", &mut rows);
            let instances = step.get("instances").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            for instance in instances.iter().filter(|instance| self.instances || text(instance, "state") == "failed") {
                let index = number(instance, "index");
                rows.push(self.row(&format!("  {id}[{index}]"), instance, &self.note(instance)));
                self.push_attempts(&(id.to_owned(), Some(index)), "    ", &mut rows);
            }
        }
        rows
    }

    fn row(&self, label: &str, step: &Value, note: &str) -> Vec<Cell> {
        let state = text(step, "state");
        let from = moment(text(step, "started_at"));
        let to = moment(text(step, "ended_at")).unwrap_or(self.window.to);
        let took = from.map(|from| duration(between(from, to))).unwrap_or_default();
        let bar = from.map(|from| self.window.bar(from, to)).unwrap_or_default();
        line(label, state, &took, &bar, note)
    }

    fn note(&self, step: &Value) -> String {
        if let Some(failure) = step.get("failure").filter(|failure| failure.is_object()) {
            return failure_sentence(failure);
        }
        let instances = step.get("instances").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if instances.is_empty() || self.instances {
            return printable(text(step, "child_id"));
        }
        let completed = instances.iter().filter(|instance| text(instance, "state") == "completed").count();
        format!("{completed} of {} instances", instances.len())
    }

    fn push_attempts(&self, place: &Place, indent: &str, rows: &mut Vec<Vec<Cell>>) {
        let attempts = self.attempts.get(place).map_or(&[][..], Vec::as_slice);
        if attempts.len() < 2 {
            return;
        }
        for attempt in attempts {
            let to = attempt.to.unwrap_or(self.window.to);
            let took = duration(between(attempt.from, to));
            let label = format!("{indent}attempt {}", attempt.number);
            rows.push(line(&label, attempt.state, &took, &self.window.bar(attempt.from, to), &attempt.note));
        }
    }
}

fn line(label: &str, state: &str, took: &str, bar: &str, note: &str) -> Vec<Cell> {
    vec![
        label.into(),
        Cell::status(state),
        took.into(),
        Cell::new(format!("{bar:<WIDTH$}"), tone_of(state)),
        Cell::new(note, Tone::Faint),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(sequence: u64, kind: &str, second: u64, data: &Value) -> Event {
        let at = format!("2026-01-01T00:00:{second:02}Z");
        Event::from_document(json!({ "sequence": sequence, "type": kind, "at": at, "data": data })).unwrap()
    }

    #[test]
    fn attempts_are_read_off_the_log() {
        let task =
            |attempt: u32| json!({ "step": "a", "attempt": attempt, "failure": { "message": "lost", "code": "x" } });
        let undo = json!({ "step": "a", "attempt": 1, "purpose": "undo" });
        let log = [
            event(1, "step_scheduled", 0, &task(1)),
            event(2, "step_retrying", 2, &task(1)),
            event(3, "step_scheduled", 3, &task(2)),
            event(4, "step_completed", 5, &json!({ "step": "a" })),
            event(5, "step_scheduled", 6, &undo),
        ];
        let found = attempts(&log);
        let found = &found[&("a".to_owned(), None)];
        let shown: Vec<_> =
            found.iter().map(|attempt| (attempt.number, attempt.state, attempt.note.as_str())).collect();
        assert_eq!(shown, [(1, "failed", "lost (x)"), (2, "completed", "")]);
    }

    #[test]
    fn bars_lie_where_their_time_lies() {
        let execution = json!({ "created_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:10Z" });
        let window = Window::of(&execution, DateTime::UNIX_EPOCH).unwrap();
        let at = |second: u32| moment(&format!("2026-01-01T00:00:{second:02}Z")).unwrap();
        assert_eq!(window.bar(at(0), at(10)), "━".repeat(WIDTH));
        assert_eq!(window.bar(at(5), at(5)), format!("{}━", " ".repeat(WIDTH / 2)));
        assert_eq!(window.bar(at(10), at(10)).chars().count(), WIDTH);
    }
}
