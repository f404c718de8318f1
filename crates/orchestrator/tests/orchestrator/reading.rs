//! Lists, logs, and what can be said of them.

use contracts::orchestrator::v1::{
    CancelExecutionRequest, Execution, ExecutionStatus, GetExecutionRequest, ListEventsRequest, ListExecutionsRequest,
    WatchEventsRequest,
};
use futures::StreamExt as _;
use prost::Message as _;
use serde_json::json;
use sqlx::Connection as _;

use crate::world::{World, chain, reason};

impl World {
    async fn page(&self, request: &ListExecutionsRequest) -> (Vec<Execution>, String) {
        let page = self.executions().list_executions(request.clone()).await.unwrap().into_inner();
        (page.executions, page.next_page_token)
    }

    /// Every page, joined.
    async fn list(&self, mut request: ListExecutionsRequest) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let (page, next) = self.page(&request).await;
            assert!(page.len() <= request.page_size as usize);
            found.extend(page.into_iter().map(|execution| execution.id));
            if next.is_empty() {
                return found;
            }
            request.page_token = next;
        }
    }
}

#[tokio::test]
async fn executions_are_listed_newest_first_by_pages_and_filters() {
    let world = World::start().await;
    let one = world.define(&chain("one", &["a"])).await;
    let other = world.define(&chain("other", &["a"])).await;
    let mut started = Vec::new();
    for number in 0..5 {
        let workflow = if number == 2 { &other } else { &one };
        started.push(world.begin(workflow, &json!({})).await.id);
    }
    let cancel = CancelExecutionRequest { execution_id: started[4].clone(), ..CancelExecutionRequest::default() };
    world.executions().cancel_execution(cancel).await.unwrap();
    let newest_first: Vec<_> = started.iter().rev().cloned().collect();
    let all = ListExecutionsRequest { page_size: 2, ..ListExecutionsRequest::default() };
    assert_eq!(world.list(all.clone()).await, newest_first);
    let of_other = ListExecutionsRequest { workflow_name: "other".to_owned(), ..all.clone() };
    assert_eq!(world.list(of_other).await, [started[2].clone()]);
    let of_one = ListExecutionsRequest { workflow_id: one.id.clone(), ..all.clone() };
    assert_eq!(world.list(of_one).await.len(), 4);
    let cancelled = vec![ExecutionStatus::Cancelled.into(), ExecutionStatus::Failed.into()];
    let ended = ListExecutionsRequest { statuses: cancelled, ..all.clone() };
    assert_eq!(world.list(ended).await, [started[4].clone()]);
    let at = world.get(&started[3]).await.created_at;
    let before = ListExecutionsRequest { created_before: at, ..all.clone() };
    assert_eq!(world.list(before).await, newest_first[2..]);
    let after = ListExecutionsRequest { created_after: at, ..all.clone() };
    assert_eq!(world.list(after).await, newest_first[..2]);

    let elsewhere = ListExecutionsRequest { namespace: "other".to_owned(), ..all.clone() };
    assert_eq!(world.list(elsewhere).await, [""; 0]);
    let fenced = GetExecutionRequest { namespace: "other".to_owned(), execution_id: started[0].clone() };
    assert_eq!(reason(world.executions().get_execution(fenced).await), "execution_not_found");
    let garbled = ListExecutionsRequest { page_token: "?".to_owned(), ..all };
    assert!(world.executions().list_executions(garbled).await.is_err());
}

#[tokio::test]
async fn a_log_is_read_by_pages() {
    let world = World::start().await;
    world.communication.echo();
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let id = world.begin(&workflow, &json!({ "n": 1 })).await.id;
    world.until(&id, ExecutionStatus::Completed).await;
    let all = world.events(&id).await;
    assert_eq!(all.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let scheduled: serde_json::Value = serde_json::from_slice(&all[1].data).unwrap();
    assert_eq!((&scheduled["step"], &scheduled["attempt"]), (&json!("a"), &json!(1)));
    let page = ListEventsRequest { execution_id: id, after_sequence: 1, page_size: 2, ..ListEventsRequest::default() };
    let page = world.executions().list_events(page).await.unwrap().into_inner();
    assert_eq!((page.events, page.has_more), (all[1..3].to_vec(), true));
}

#[tokio::test]
async fn a_watcher_sees_every_event_once_and_then_the_end() {
    let world = World::start().await;
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    let watch = |after_sequence| WatchEventsRequest {
        execution_id: id.clone(),
        after_sequence,
        ..WatchEventsRequest::default()
    };
    let mut events = world.executions().watch_events(watch(0)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    for count in 1..=2 {
        let task = world.communication.dispatched(count).await;
        seen.push(events.next().await.unwrap().unwrap().event.unwrap());
        world.communication.complete(&task, "1");
    }
    while let Some(event) = events.next().await {
        seen.push(event.unwrap().event.unwrap());
    }
    assert_eq!(seen, world.events(&id).await);
    let late = world.executions().watch_events(watch(4)).await.unwrap().into_inner();
    assert_eq!(late.count().await, 2);
    let missing = WatchEventsRequest { execution_id: crate::world::new_id(), ..WatchEventsRequest::default() };
    assert_eq!(reason(world.executions().watch_events(missing).await.map(|_| ())), "execution_not_found");
}

/// The events of a row of the log.
#[derive(Clone, PartialEq, prost::Message)]
struct Pack {
    #[prost(message, repeated, tag = "1")]
    events: Vec<Packed>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Packed {
    #[prost(int64, tag = "1")]
    at: i64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
}

impl World {
    /// Changes the log, which is that of one execution, behind the orchestrator's back.
    async fn tamper(&self, change: fn(&mut Vec<Packed>)) {
        let mut database = self.database().await;
        let query = "SELECT data FROM execution_events ORDER BY sequence";
        let packs: Vec<Vec<u8>> = sqlx::query_scalar(query).fetch_all(&mut database).await.unwrap();
        let mut events: Vec<_> = packs.iter().flat_map(|pack| Pack::decode(pack.as_slice()).unwrap().events).collect();
        change(&mut events);
        sqlx::query("DELETE FROM execution_events WHERE sequence > 1").execute(&mut database).await.unwrap();
        let count = u32::try_from(events.len()).unwrap();
        let query = sqlx::query("UPDATE execution_events SET data = ?, count = ?");
        query.bind(Pack { events }.encode_to_vec()).bind(count).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_log_that_somebody_changed_is_found_out() {
    type Change = fn(&mut Vec<Packed>);
    let changes: [(Change, _); 4] = [
        (
            |events| {
                let text = String::from_utf8(events[0].data.clone()).unwrap();
                events[0].data = text.replace("two", "tow").into_bytes();
            },
            "event 1 is not what was written",
        ),
        (|events| events[2].at += 1, "event 3 is not what was written"),
        (|events| drop(events.remove(3)), "event 4 is not what was written"),
        (|events| events.truncate(5), "events after 5 are missing"),
    ];
    for (change, fault) in changes {
        let (world, id) = completed().await;
        world.tamper(change).await;
        is_found_out(&world, &id, fault).await;
    }
    let (world, id) = completed().await;
    world.sql("UPDATE execution_events SET sequence = 2").await;
    is_found_out(&world, &id, "event 1 is missing").await;
    let (world, id) = completed().await;
    world.sql("UPDATE executions SET status = 'failed'").await;
    is_found_out(&world, &id, "the summary's status is not what the log replays to").await;
    for damage in [
        "UPDATE execution_events SET data = substr(data, 1, length(data) - 1)",
        "UPDATE execution_events SET count = count + 1",
    ] {
        let (world, id) = completed().await;
        world.sql(damage).await;
        is_found_out(&world, &id, "events after 0 cannot be read").await;
    }
}

/// An execution that has completed, and all of its log is well.
async fn completed() -> (World, String) {
    let world = World::start().await;
    world.communication.echo();
    let workflow = world.define(&chain("two", &["a", "b"])).await;
    let id = world.begin(&workflow, &json!({ "to": "a" })).await.id;
    world.until(&id, ExecutionStatus::Completed).await;
    assert_eq!(world.verify(&id).await.faults, [""; 0]);
    (world, id)
}

async fn is_found_out(world: &World, id: &str, fault: &str) {
    let faults = world.verify(id).await.faults;
    assert!(faults.len() == 1 && faults[0].starts_with(fault), "{faults:?}");
}

#[tokio::test]
async fn an_execution_that_nothing_will_wake_is_counted() {
    let world = World::with(|settings| settings.ended_kept = 0).await;
    world.communication.echo();
    let workflow = world.define(&chain("one", &["a"])).await;
    let id = world.begin(&workflow, &json!({})).await.id;
    world.until(&id, ExecutionStatus::Completed).await;
    // Who reads has it in its place.
    assert_eq!(world.verify(&id).await.faults, [""; 0]);
    world.sql("UPDATE executions SET status = 'running', ended_at = NULL").await;
    let liveness = world.liveness().await;
    assert_eq!((liveness.stuck, liveness.stuck_execution_ids), (1, vec![id]));
}

#[tokio::test]
async fn a_page_of_large_events_is_shorter_than_asked_for() {
    let world = World::start().await;
    world.communication.echo();
    let workflow = world.define(&chain("one", &["a"])).await;
    let id = world.begin(&workflow, &json!("x".repeat(6 << 20))).await.id;
    world.until(&id, ExecutionStatus::Completed).await;
    let mut request = ListEventsRequest { execution_id: id.clone(), ..ListEventsRequest::default() };
    let mut sequences = Vec::new();
    for has_more in [true, false] {
        let page = world.executions().list_events(request.clone()).await.unwrap().into_inner();
        assert_eq!(page.has_more, has_more);
        sequences.extend(page.events.iter().map(|event| event.sequence));
        request.after_sequence = *sequences.last().unwrap();
    }
    assert_eq!(sequences, [1, 2, 3, 4]);
    assert_eq!(world.verify(&id).await.faults, [""; 0]);
}
