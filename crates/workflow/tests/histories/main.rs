//! Histories that releases have written, replayed by this one: to the same states, with the same hashes.
//!
//! `make record-histories` keeps those of the present format: each play of docs/patterns.md, and lives from the simulator that
//! have every kind of event. What is kept is never written again: where this test fails, the code has to learn to read it.

#![expect(clippy::unwrap_used, reason = "a test fails where what it expects is not there")]

#[path = "../recorded/mod.rs"]
#[expect(dead_code, reason = "others record")]
mod recorded;

use std::{collections::BTreeSet, fs, path::PathBuf};

use domain::Timestamp;
use serde_json::Value;
use workflow::{Event, Execution, Recorded, invariant::chained};

/// Kinds of events that there are.
const KINDS: usize = 36;

/// All files, of all releases.
fn files() -> Vec<PathBuf> {
    let folders = fs::read_dir(recorded::folder()).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.filter(|folder| folder.is_dir()).flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Replays a history; answers with the kinds of its events.
fn replay(text: &str) -> Result<BTreeSet<&'static str>, String> {
    let mut lines = text.lines();
    let (definition, end) = (lines.next().unwrap(), lines.next().unwrap());
    let mut execution = Execution::new(recorded::plan(definition));
    let (mut hash, mut kinds) = ([0; 32], BTreeSet::new());
    for (line, sequence) in lines.zip(1..) {
        let [at, known, state, data] = line.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap();
        let at = Timestamp::from_micros(at.parse().unwrap());
        let event = Event::decode(data.as_bytes());
        let event = event.map_err(|error| format!("event {sequence} cannot be read any more: {error:?}: {data}"))?;
        let bytes: Vec<u8> = (0..known.len())
            .step_by(2)
            .map(|place| u8::from_str_radix(&known[place..place + 2], 16).unwrap())
            .collect();
        hash = chained(&hash, sequence, at, data.as_bytes(), &bytes).map_err(|breach| breach.to_string())?;
        kinds.insert(event.kind());
        execution.apply(&Recorded { sequence, at, event });
        let view = recorded::view(&execution);
        if recorded::digest(&view) != state {
            return Err(format!("after event {sequence}, {data}, the state is another: {view}"));
        }
    }
    if let Some(breach) = execution.breaches().first() {
        return Err(breach.to_string());
    }
    let (end, view): (Value, _) = (serde_json::from_str(end).unwrap(), recorded::view(&execution));
    if view == end { Ok(kinds) } else { Err(format!("it ends as {view}, and not as {end}")) }
}

#[test]
fn every_history_that_is_kept_replays_to_the_same_states_and_hashes() {
    let mut kinds = BTreeSet::new();
    let files = files();
    for file in &files {
        let replayed = replay(&fs::read_to_string(file).unwrap());
        kinds.extend(replayed.unwrap_or_else(|fault| panic!("{}: {fault}", file.display())));
    }
    assert!(files.len() > 50, "histories are missing: {files:?}");
    assert_eq!(kinds.len(), KINDS, "`make record-histories` keeps one that has what is missing: {kinds:?}");
}

#[test]
fn a_history_that_does_not_replay_is_told_apart() {
    let text =
        files().iter().map(|file| fs::read_to_string(file).unwrap()).find(|text| text.contains("step_completed"));
    let text = text.unwrap();
    replay(&text).unwrap();
    let changes = [
        ("\"step_completed\"", "\"step_perfected\"", "cannot be read any more"),
        ("\"execution_id\":\"exe_0", "\"execution_id\":\"exe_1", "I6: event 1 is not what was written"),
        (" {\"accepted\"", "0 {\"accepted\"", "the state is another"),
        ("\"wakeups\":0", "\"wakeups\":7", "it ends as"),
    ];
    for (from, to, fault) in changes {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let found = replay(&changed).unwrap_err();
        assert!(found.contains(fault), "{from}: {found}");
    }
}
