//! Tables are made, and the process dies between those of one service and those of the next.

use std::{fs, path::Path};

use serde_json::json;
use testkit::{Server, Servers, troupe_with};

use super::{
    Outcomes, assert_died_there, note, order, report,
    table::{How, POINTS, Point},
};
use crate::kill::driver::Accepted;

/// Services with a database.
const SERVICES: [&str; 4] = ["registry", "communication", "orchestrator", "gateway"];

fn points() -> impl Iterator<Item = &'static Point> {
    POINTS.iter().filter(|point| point.how == How::Migration)
}

/// Writes settings, with what `database` says of each service.
fn configure(path: &Path, database: impl Fn(&str) -> String) {
    let sections = SERVICES.map(|service| format!("[{service}]\ndatabase = {{ {} }}\n", database(service)));
    fs::write(path, sections.concat()).expect("settings can be written");
}

/// Dies while it brings the tables of one service after the other up to date, is run again, and does it.
async fn die(point: &Point, times: u32, settings: &Path) {
    let arguments = ["migrate", "--config", settings.to_str().expect("a path is text")];
    let died = troupe_with(&[("TROUPE_CRASH_POINT", &order(point, times))], &arguments).await;
    assert_eq!(died.code, None, "{}{}", died.stdout, died.stderr);
    assert_died_there(&died.stderr, point);
    let again = troupe_with(&[], &arguments).await;
    let done = again.stdout.matches("up to date").count();
    assert_eq!((again.code, done), (Some(0), SERVICES.len()), "{}{}", again.stdout, again.stderr);
}

/// Each point, for each service.
fn deaths() -> impl Iterator<Item = (&'static Point, u32)> {
    points().flat_map(|point| (1..).zip(SERVICES).map(move |(times, _)| (point, times)))
}

#[tokio::test]
async fn tables_on_sqlite_are_made_whatever_dies_meanwhile() {
    let mut outcomes = Outcomes::new();
    for (point, times) in deaths() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (data, settings) = (directory.path().join("data"), directory.path().join("troupe.toml"));
        fs::create_dir(&data).expect("a folder can be made");
        configure(&settings, |service| format!("path = {:?}", data.join(format!("{service}.db"))));
        die(point, times, &settings).await;
        let server = Server::start_on(&data).await;
        let steps = json!([{ "id": "a", "agent_type": "echo", "action": "echo", "input": 1 }]);
        let definition = json!({ "name": "first", "steps": steps, "output": "${{ steps.a.output }}" });
        let workflow = server.api().define(&definition).await;
        let execution = server.api().execute(&workflow, &json!({})).await;
        assert_eq!(server.api().ended(&execution).await["output"], json!(1));
        note(&mut outcomes, point, &Accepted::default());
    }
    report("sqlite", &outcomes);
}

#[tokio::test]
async fn tables_on_postgres_are_made_whatever_dies_meanwhile() {
    let mut outcomes = Outcomes::new();
    for (point, times) in deaths() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let settings = directory.path().join("troupe.toml");
        let url = Servers::shared().database().await;
        configure(&settings, |_| format!("url = {url:?}"));
        die(point, times, &settings).await;
        note(&mut outcomes, point, &Accepted::default());
    }
    report("postgres", &outcomes);
}
