//! What people and programs read: tables, times, colours and failures.
//!
//! Results go to standard output and everything else to standard error. There is colour only where a terminal reads and
//! `NO_COLOR` is not set.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use chrono::{DateTime, Utc};
use domain::Clock as _;
use serde::Serialize;

use crate::client;

/// The place to which commands write.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

/// What a text's colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Ended well.
    Good,
    /// At work, or waiting.
    Busy,
    /// Failed.
    Bad,
    /// Of less interest.
    Faint,
    /// A heading.
    Strong,
    /// Nothing.
    Plain,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, colour: wanted && io::stdout().is_terminal() }
    }

    /// Does a program read?
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// One line, or several.
    #[expect(clippy::unused_self, reason = "commands write through what knows how")]
    pub(crate) fn line(&self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{}", text.as_ref())
    }

    /// A JSON document, indented.
    pub(crate) fn document(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.line(text)
    }

    /// A JSON document on one line, for streams of them.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        self.line(text)
    }

    /// A note for people beside the result: on standard error, so that pipes stay clean.
    #[expect(clippy::unused_self, reason = "commands write through what knows how")]
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        // Where nobody can read the note nothing is lost.
        let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
    }

    /// Why the command failed, with what to do about it.
    pub(crate) fn failure(&self, error: &anyhow::Error) {
        if self.json {
            return self.note(failure_document(error).to_string());
        }
        let mut text = format!("error: {error}");
        for cause in error.chain().skip(1) {
            let _ = write!(text, "\n  because {cause}");
        }
        if let Some(error) = error.downcast_ref::<client::Error>() {
            for fault in error.faults() {
                let _ = write!(text, "\n  {fault}");
            }
            if let Some(hint) = error.hint() {
                let _ = write!(text, "\nhint: {hint}");
            }
        }
        self.note(text);
    }

    /// Aligned columns under headings; nothing but `empty` where there are no rows.
    pub(crate) fn table(&self, headings: &[&str], rows: &[Vec<Cell>], empty: &str) -> io::Result<()> {
        if rows.is_empty() {
            return self.line(self.paint(Tone::Faint, empty));
        }
        self.line(self.render(headings, rows).trim_end_matches('\n'))
    }

    fn render(&self, headings: &[&str], rows: &[Vec<Cell>]) -> String {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            cells.chain([headings[column].len()]).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..headings.len()).map(width).collect();
        let mut text = String::new();
        let headings: Vec<_> = headings.iter().map(|heading| Cell::new(*heading, Tone::Faint)).collect();
        for row in std::iter::once(&headings).chain(rows) {
            let last = row.len().saturating_sub(1);
            for (column, cell) in row.iter().enumerate() {
                text.push_str(&self.paint(cell.tone, &cell.text));
                if column < last {
                    // Padding is computed on the bare text: colour takes no room.
                    let padding = widths[column].saturating_sub(cell.text.chars().count()) + 2;
                    text.extend(std::iter::repeat_n(' ', padding));
                }
            }
            text.push('\n');
        }
        text
    }

    /// The text in the colour of its tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Busy => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
            Tone::Plain => return text.to_owned(),
        };
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: printable(&text.into()), tone }
    }

    /// A status or state, in its colour.
    pub(crate) fn status(text: &str) -> Self {
        Self::new(text, tone_of(text))
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// What the colour of a status of anything is.
pub(crate) fn tone_of(status: &str) -> Tone {
    match status {
        "completed" | "acked" | "idle" | "active" | "compensated" => Tone::Good,
        "failed" | "dead" => Tone::Bad,
        "running" | "scheduled" | "retrying" | "waiting" | "waiting_for_agent" | "paused" | "compensating" | "busy"
        | "degraded" | "queued" | "delivered" | "accepted" => Tone::Busy,
        "pending" | "skipped" | "cancelled" | "offline" | "archived" => Tone::Faint,
        _ => Tone::Plain,
    }
}

/// The text without what could steer a terminal: names and messages come from anybody.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most `limit` characters, on one line.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    let text = printable(text);
    if text.chars().count() <= limit {
        return text;
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A length of time as people say it: `420ms`, `3.2s`, `4m 10s`, `2h 5m`, `3d 4h`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A time as the API writes it.
pub(crate) fn moment(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.to_utc())
}

/// How long after `from` `to` is; zero where it is before.
pub(crate) fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// The time now.
pub(crate) fn now() -> DateTime<Utc> {
    domain::SystemClock.now().to_datetime()
}

/// How long ago a time of the API is; empty where there is none.
pub(crate) fn age(text: &str) -> String {
    moment(text).map_or_else(String::new, |moment| format!("{} ago", duration(between(moment, now()))))
}

/// The same for programs, as one line on standard error.
fn failure_document(error: &anyhow::Error) -> serde_json::Value {
    let known = error.downcast_ref::<client::Error>();
    let code = known.and_then(|error| match error {
        client::Error::Problem(problem) => Some(problem.code.as_str()),
        _ => None,
    });
    serde_json::json!({ "error": {
        "code": code,
        "message": error.to_string(),
        "causes": error.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>(),
        "faults": known.map(client::Error::faults).unwrap_or_default(),
        "hint": known.and_then(client::Error::hint),
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        for (millis, text) in [
            (0, "0ms"),
            (420, "420ms"),
            (3_240, "3.2s"),
            (250_000, "4m 10s"),
            (7_500_000, "2h 5m"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn columns_line_up_whatever_their_length_and_colour() {
        let output = Output { json: false, colour: false };
        let rows =
            [vec!["short".into(), Cell::status("completed")], vec!["a longer one".into(), Cell::status("failed")]];
        let plain = output.render(&["NAME", "STATUS"], &rows);
        assert_eq!(plain, "NAME          STATUS\nshort         completed\na longer one  failed\n");
        let coloured = Output { json: false, colour: true }.render(&["NAME", "STATUS"], &rows);
        assert!(coloured.contains("a longer one  \u{1b}[31mfailed\u{1b}[0m"), "{coloured:?}");
    }

    #[test]
    fn what_could_steer_a_terminal_is_not_printed() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a [2Jb c");
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}
