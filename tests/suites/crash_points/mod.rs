//! A process dies at every point of the code where it can (`lifecycle::crash_point`), under load, on SQLite and in a cluster on
//! PostgreSQL and RabbitMQ; it is started again, and nothing that was accepted is lost, or has happened twice.
//!
//! - `TROUPE_CRASH_POINTS=all` dies at every point on both, and checks after each; unless it is set, at each point once on
//!   SQLite, and at a few others each day on PostgreSQL. Anything else is parts of the names to try, on both, with commas
//!   between them; a part of no name is an error.
//! - `TROUPE_CRASH_ROUNDS` says how often at each point: three times, and once where nobody asks for all. What is under way there
//!   differs each time, and so does how often a process has passed the point before.
//! - `TROUPE_CRASH_POINTS_REPORT` is the file whose table is written.

mod extras;
mod migrations;
mod on_cluster;
mod on_sqlite;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use rand::Rng;
use serde_json::{Value, json};
use testkit::Api;

use self::table::{How, POINTS, Point};
use crate::{
    kill::{
        driver::{Accepted, Driver},
        from_environment,
    },
    sections,
};

/// How long a process may take to pass its point.
const PATIENCE: Duration = Duration::from_mins(1);
/// Points of a cluster that are tried where nobody asks for all.
const FEW: usize = 4;

/// What is to be tried.
enum Wanted {
    Few,
    All,
    /// Parts of names.
    Named(Vec<String>),
}

fn wanted() -> Wanted {
    match std::env::var("TROUPE_CRASH_POINTS") {
        Err(_) => Wanted::Few,
        Ok(text) if text == "all" => Wanted::All,
        Ok(text) => {
            let parts: Vec<_> = text.split(',').map(str::to_owned).collect();
            for part in &parts {
                let is_one = !part.is_empty() && POINTS.iter().any(|point| point.name.contains(part));
                assert!(is_one, "TROUPE_CRASH_POINTS: no point has {part:?} in its name");
            }
            Wanted::Named(parts)
        }
    }
}

impl Wanted {
    /// Is everything looked at after each point? It takes its time.
    const fn is_thorough(&self) -> bool {
        !matches!(self, Self::Few)
    }

    fn rounds(&self) -> u64 {
        from_environment("TROUPE_CRASH_ROUNDS", || if self.is_thorough() { 3 } else { 1 })
    }

    fn on_sqlite(&self) -> Vec<Point> {
        let named = |point: &Point| match self {
            Self::Few | Self::All => true,
            Self::Named(parts) => is_named(point, parts),
        };
        under_load().filter(Point::is_on_sqlite).filter(named).collect()
    }

    fn on_cluster(&self) -> Vec<Point> {
        let points: Vec<_> = under_load().filter(Point::is_in_cluster).collect();
        match self {
            Self::All => points,
            Self::Named(parts) => points.into_iter().filter(|point| is_named(point, parts)).collect(),
            Self::Few => {
                // Others each day: in two weeks all have had their turn.
                let day = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
                let first = usize::try_from(day).unwrap_or(0) * FEW % points.len();
                points.iter().cycle().skip(first).take(FEW).copied().collect()
            }
        }
    }
}

fn is_named(point: &Point, parts: &[String]) -> bool {
    parts.iter().any(|part| point.name.contains(part))
}

/// Those that are passed while there is work.
fn under_load() -> impl Iterator<Item = Point> {
    POINTS.iter().copied().filter(|point| point.how != How::Migration)
}

/// By point: how often a process died there, and how many executions and messages were looked at after it.
type Outcomes = BTreeMap<&'static str, [usize; 3]>;

fn note(outcomes: &mut Outcomes, point: &Point, met: &Accepted) {
    let [deaths, executions, messages] = outcomes.entry(point.name).or_default();
    *deaths += 1;
    *executions += met.executions.len();
    *messages += met.messages.len();
}

/// At which passing a process is to die.
fn passing(point: &Point) -> u32 {
    match point.how {
        How::Load => rand::rng().random_range(1..8),
        How::Start | How::Stop | How::HandOver | How::Loss | How::Migration => 1,
    }
}

/// Waits until something is under way, where it is looked at what the point has met; answers with it.
async fn load(wanted: &Wanted, driver: &Driver) -> Accepted {
    const ENOUGH: usize = 12;
    let mut met = driver.accepted();
    while wanted.is_thorough() && met.executions.len() < ENOUGH {
        tokio::time::sleep(Duration::from_millis(20)).await;
        met.extend(driver.accepted());
    }
    met
}

/// An agent that is registered and that nobody runs.
async fn absent_agent(api: &Api) -> String {
    let agent = json!({ "agent_type": "nobody", "name": "absent", "capabilities": [] });
    let agent = api.post("/api/v1/agents", &agent).await.expect(201);
    agent["id"].as_str().expect("an agent has an id").to_owned()
}

/// What the environment of a process says that is to die at its `times`th passing.
fn order(point: &Point, times: u32) -> String {
    format!("{}:{times}", point.name)
}

/// The process said that it died where it was told to, and nothing has panicked.
fn assert_died_there(log: &str, point: &Point) {
    assert!(log.contains(&format!("crash point {}", point.name)), "it ended otherwise:\n{log}");
}

/// Writes one column of the table.
fn report(column: &str, outcomes: &Outcomes) {
    let Some(path) = std::env::var_os("TROUPE_CRASH_POINTS_REPORT") else { return };
    // Columns are written by tests of their own, and a part of the points may be tried again: what is known is kept beside.
    let folder = testkit::workspace().join("target/crash-points");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let read = |column: &str| -> serde_json::Map<String, Value> {
        let text = fs::read_to_string(folder.join(column)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    let mut known = read(column);
    known.extend(outcomes.iter().map(|(name, counts)| ((*name).to_owned(), json!(counts))));
    fs::write(folder.join(column), json!(known).to_string()).expect("the outcomes can be written");
    let (sqlite, postgres) = (read("sqlite"), read("postgres"));
    let cell = |column: &serde_json::Map<String, Value>, point: &Point| match column
        .get(point.name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([deaths, executions, messages]) if *executions == json!(0) && *messages == json!(0) => {
            format!("{deaths} times: all right")
        }
        Some([deaths, executions, messages]) => {
            format!("{deaths} times; {executions} executions, {messages} messages: all right")
        }
        Some(_) | None => "—".to_owned(),
    };
    let row = |point: &Point| {
        let (one, other) = (cell(&sqlite, point), cell(&postgres, point));
        format!("| `{}` | {} | {one} | {other} |", point.name, point.when)
    };
    let rows: Vec<_> = POINTS.iter().map(row).collect();
    let text = format!(
        "## Crash points\n\n\
         Written by `make test-crash-points`: every boundary in the code where a process can die is named. Under load, a process\n\
         was made to die exactly there (`abort`, as by `kill -9`), and was started again: `troupe dev` on SQLite, and the process of\n\
         the service in a cluster of two orchestrators and one of each other service on PostgreSQL, RabbitMQ and Redis. All that\n\
         had been accepted since the point before was then looked at: every execution ended as it must with the right output, each\n\
         result once in its log; every message was dealt with; every agent and workflow is there once. A dash: there is no such\n\
         moment on this way of running.\n\n\
         | crash point | the process dies when | SQLite | PostgreSQL |\n| --- | --- | --- | --- |\n{}\n",
        rows.join("\n"),
    );
    sections::write(Path::new(&path), "crash points", &text);
}

/// The names in the sources.
fn names(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            names(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source is text");
            let calls = text.split("crash_point(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(calls.map(str::to_owned));
        }
    }
}

#[test]
fn every_crash_point_of_the_code_is_in_the_table_and_the_other_way_round() {
    let mut found = BTreeSet::new();
    names(&testkit::workspace().join("crates"), &mut found);
    let table: BTreeSet<_> = POINTS.iter().map(|point| point.name.to_owned()).collect();
    assert_eq!(found, table);
    assert_eq!(table.len(), POINTS.len(), "each stands there once");
}
