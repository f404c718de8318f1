//! An execution's log, in pages and live.

use axum::body::Body;
use http::{Method, header};
use serde_json::Value;

use crate::{
    backend::EVENTS,
    rig::{self, Answer, Rig},
};

async fn follow(rig: &Rig, path: &str, last: Option<&str>) -> Answer {
    let mut request = rig::request(Method::GET, path).header(header::ACCEPT, "text/event-stream");
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    rig.send(request.body(Body::empty()).unwrap()).await
}

fn ids(answer: &Answer) -> Vec<u64> {
    answer.text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_that_the_client_knows_and_ends_at_the_end() {
    let rig = Rig::start().await;
    let path = format!("/api/v1/executions/{}/events", rig.execution().await);
    let whole = follow(&rig, &path, None).await;
    assert_eq!(whole.header("content-type"), "text/event-stream");
    assert_eq!(ids(&whole), (1..=EVENTS).collect::<Vec<_>>());
    let first: Value = whole.text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap().parse().unwrap();
    assert_eq!((&first["sequence"], &first["type"]), (&1.into(), &"step_completed".into()));
    assert_eq!((&first["data"]["step"], &first["hash"]), (&"a".into(), &"abab".into()));
    assert_eq!(ids(&follow(&rig, &path, Some("3")).await), [4, 5]);
    assert_eq!(follow(&rig, &path, Some("x")).await.expect(400)["errors"][0]["field"], "Last-Event-ID");
    let missing = "/api/v1/executions/exe_00000000000000000000000000/events";
    assert_eq!(follow(&rig, missing, None).await.expect(404)["code"], "execution_not_found");
}

#[tokio::test]
async fn pages_go_on_where_the_one_before_ended() {
    let rig = Rig::start().await;
    let path = format!("/api/v1/executions/{}/events?limit=2", rig.execution().await);
    let (mut sequences, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = rig.get(&format!("{path}{cursor}")).await.expect(200);
        sequences.extend(page["items"].as_array().unwrap().iter().map(|event| event["sequence"].as_u64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(sequences, (1..=EVENTS).collect::<Vec<_>>());
}
