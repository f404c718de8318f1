//! Server-sent events, as much of them as the gateway writes.

use std::collections::VecDeque;

use reqwest::Response;
use serde_json::Value;

use super::Error;

/// The most that one event may hold before the stream is given up, in bytes: outputs of steps are bounded far below.
const LONGEST: usize = 64 << 20;

/// What the types of problem documents begin with.
const PROBLEM: &str = "urn:troupe:problem:";

/// One event of an execution's log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// From 1, without gaps.
    pub(crate) sequence: u64,
    /// What happened, `step_completed` for one.
    pub(crate) kind: String,
    /// All of it, as the server wrote it.
    pub(crate) document: Value,
}

impl Event {
    /// From one entry of the log.
    pub(crate) fn from_document(document: Value) -> Result<Self, Error> {
        let sequence = document.get("sequence").and_then(Value::as_u64);
        let kind = document.get("type").and_then(Value::as_str).map(str::to_owned);
        match (sequence, kind) {
            (Some(sequence), Some(kind)) => Ok(Self { sequence, kind, document }),
            (_, None) | (None, _) => Err(Error::NotAnEvent(crate::output::shorten(&document.to_string(), 200))),
        }
    }

    /// A field of what happened.
    pub(crate) fn data(&self, field: &str) -> Option<&Value> {
        self.document.get("data")?.get(field).filter(|value| !value.is_null())
    }

    /// Is it the last of an execution that has ended?
    pub(crate) fn is_end(&self) -> bool {
        matches!(self.kind.as_str(), "completed" | "failed" | "cancelled")
    }
}

/// A live stream of events.
#[derive(Debug)]
pub(crate) struct EventStream {
    response: Response,
    parser: Parser,
    ready: VecDeque<String>,
}

impl EventStream {
    pub(super) fn new(response: Response) -> Self {
        Self { response, parser: Parser::default(), ready: VecDeque::new() }
    }

    /// The next event of an execution's log; `None` where the stream has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Error> {
        self.document().await?.map(Event::from_document).transpose()
    }

    /// The next event of any stream, as the server wrote it. Cancel-safe.
    pub(crate) async fn document(&mut self) -> Result<Option<Value>, Error> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                let document = serde_json::from_str(&data).map_err(|error| Error::NotAnEvent(error.to_string()))?;
                return refused(&document).map_or(Ok(Some(document)), Err);
            }
            match self.response.chunk().await.map_err(Error::Cut)? {
                Some(chunk) => self.parser.push(&chunk, &mut self.ready)?,
                None => return Ok(None),
            }
        }
    }
}

/// Why the stream could not go on, where it says so.
fn refused(document: &Value) -> Option<Error> {
    let is_problem = document.get("type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with(PROBLEM));
    let problem = is_problem.then(|| serde_json::from_value(document.clone()))?;
    problem.ok().map(|problem| Error::Problem(Box::new(problem)))
}

/// Cuts bytes into events; keeps what is not complete yet.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    data: String,
}

impl Parser {
    fn push(&mut self, chunk: &[u8], ready: &mut VecDeque<String>) -> Result<(), Error> {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > LONGEST {
                return Err(Error::NotAnEvent(format!("an event of more than {LONGEST} bytes")));
            }
            if part.ends_with(b"\n") {
                self.end_line(ready);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, ready: &mut VecDeque<String>) {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            if !self.data.is_empty() {
                ready.push_back(std::mem::take(&mut self.data));
            }
        } else if let Some(data) = line.strip_prefix("data:") {
            // Several data lines are one text; `id`, `event`, `retry` and comments say nothing that the data does not.
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_network_cuts_them() {
        let text = ": keep-alive\n\nid: 1\nevent: step_completed\ndata: {\"a\":\ndata: \"é\"}\n\r\nid: 2\ndata:{}\n\n";
        for size in 1..text.len() {
            let (mut parser, mut ready) = (Parser::default(), VecDeque::new());
            for chunk in text.as_bytes().chunks(size) {
                parser.push(chunk, &mut ready).unwrap();
            }
            assert_eq!(ready, ["{\"a\":\n\"é\"}", "{}"], "in chunks of {size}");
        }
    }

    #[test]
    fn a_stream_that_cannot_go_on_says_why() {
        let problem = serde_json::json!({ "type": "urn:troupe:problem:stopping", "status": 503, "code": "stopping" });
        let error = refused(&problem).unwrap();
        assert!(error.is_passing() && error.to_string().contains("stopping"), "{error}");
        assert!(refused(&serde_json::json!({ "sequence": 1, "type": "completed", "data": { "code": 1 } })).is_none());
    }

    #[test]
    fn what_is_no_event_is_refused() {
        assert!(Event::from_document(serde_json::json!({ "sequence": 1 })).is_err());
        let event = serde_json::json!({ "sequence": 7, "type": "completed", "data": { "output": null } });
        let event = Event::from_document(event).unwrap();
        assert!(event.is_end());
        assert_eq!((event.sequence, event.data("output")), (7, None));
    }
}
