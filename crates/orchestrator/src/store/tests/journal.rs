//! What SQLite puts off.

use std::path::Path;

use super::*;
use crate::store::{Arrears, MIGRATIONS, SqliteStore, Store};

async fn opened(path: &Path) -> (std::sync::Arc<dyn Store>, Vec<Held>) {
    let store = open(&Database::sqlite(path)).await.unwrap();
    store.make_shards(1).await.unwrap();
    store.claim("one", 1, LEASE, true).await.unwrap();
    let held = store.renew("one", LEASE).await.unwrap();
    (store, held)
}

async fn begin(store: &dyn Store, held: &[Held], numbers: std::ops::Range<u128>) {
    for number in numbers {
        let first = summary(number);
        store.append("one", &append(vec![event(&first, 1)], vec![first], held)).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_process_left_in_the_journal_is_put_in_its_place_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let (killed, held) = opened(&path).await;
    begin(killed.as_ref(), &held, 1..4).await;
    let second = Summary { last_sequence: 2, ..summary(1) };
    killed.append("one", &append(vec![event(&second, 2)], vec![second.clone()], &held)).await.unwrap();
    assert_eq!(killed.arrears(), Arrears::Some);
    drop(killed);

    let (store, held) = opened(&path).await;
    assert_eq!(store.arrears(), Arrears::None);
    assert_eq!(store.summary(second.id).await.unwrap(), Some(second.clone()));
    assert_eq!(store.events(second.id, 0, 9).await.unwrap().rows.len(), 2);
    let diverged = store.append("one", &append(vec![event(&second, 2)], vec![second.clone()], &held)).await;
    assert!(matches!(diverged, Err(AppendError::Diverged)), "{diverged:?}");
    store.close().await;
}

/// Each process knows what it has committed itself, and the journal is one.
#[tokio::test]
async fn who_takes_shards_over_sees_all_that_was_committed_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let (before, held) = opened(&path).await;
    begin(before.as_ref(), &held, 1..2).await;
    let after = open(&Database::sqlite(&path)).await.unwrap();
    let second = Summary { last_sequence: 2, ..summary(1) };
    before.append("one", &append(vec![event(&second, 2)], vec![second.clone()], &held)).await.unwrap();

    let taken = after.claim("two", 1, LEASE, true).await.unwrap();
    let fenced = before.append("one", &append(vec![event(&second, 3)], vec![second.clone()], &held)).await;
    assert!(matches!(fenced, Err(AppendError::Fenced)), "{fenced:?}");
    assert_eq!(after.events(second.id, 0, 9).await.unwrap().rows.len(), 2);
    assert_eq!(after.summary(second.id).await.unwrap(), Some(second.clone()));
    let diverged = after.append("two", &append(vec![event(&second, 2)], vec![second.clone()], &taken)).await;
    assert!(matches!(diverged, Err(AppendError::Diverged)), "{diverged:?}");
    let early = after.append("two", &append(vec![event(&second, 4)], vec![second.clone()], &taken)).await;
    assert!(matches!(early, Err(AppendError::Diverged)), "{early:?}");
    after.append("two", &append(vec![event(&second, 3)], vec![second.clone()], &taken)).await.unwrap();
    let early = after.append("two", &append(vec![event(&second, 5)], vec![second.clone()], &taken)).await;
    assert!(matches!(early, Err(AppendError::Diverged)), "{early:?}");
    assert_eq!(after.events(second.id, 0, 9).await.unwrap().rows.len(), 3);
    before.close().await;
    after.close().await;
}

#[tokio::test]
async fn what_is_much_is_due_and_done_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let (store, held) = opened(&folder.path().join("orchestrator.db")).await;
    let first = summary(1);
    let events: Vec<_> = (1..=1_500).map(|sequence| event(&first, sequence)).collect();
    store.append("one", &append(events, vec![first.clone()], &held)).await.unwrap();
    assert_eq!(store.arrears(), Arrears::Due);
    begin(store.as_ref(), &held, 2..4).await;
    store.settle().await.unwrap();
    assert_eq!(store.arrears(), Arrears::Some, "the large commit alone was enough for once");
    begin(store.as_ref(), &held, 4..5).await;
    assert_eq!(store.live(&[0]).await.unwrap().len(), 4, "who reads has the rest put in its place");
    assert_eq!(store.arrears(), Arrears::None);
    store.close().await;
}

#[tokio::test]
async fn who_reads_does_not_wait_for_what_is_committed_meanwhile() {
    const COMMITS: u64 = 40;
    const EVENTS: u64 = 1_500;
    let folder = tempfile::tempdir().unwrap();
    let (store, held) = opened(&folder.path().join("orchestrator.db")).await;
    let (first, done) = (summary(1), std::cell::Cell::new(0));
    let commit = async |number: u64| {
        let events = (number * EVENTS + 1..=(number + 1) * EVENTS).map(|sequence| event(&first, sequence)).collect();
        store.append("one", &append(events, vec![first.clone()], &held)).await.unwrap();
        done.set(number);
    };
    commit(0).await;
    let others = async {
        for number in 1..COMMITS {
            commit(number).await;
        }
    };
    let read = async {
        assert_eq!(store.live(&[0]).await.unwrap(), [first.id]);
        done.get()
    };
    let ((), seen) = futures::join!(others, read);
    assert!(seen < COMMITS / 2, "it has waited for {seen} commits");
    assert_eq!(store.events(first.id, COMMITS * EVENTS - 2, 9).await.unwrap().rows.len(), 2);
    store.close().await;
}

#[tokio::test]
async fn on_a_full_disk_executions_are_listed_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let place = Database::sqlite(folder.path().join("orchestrator.db"));
    let ::store::Database::Sqlite(sqlite) = ::store::Database::open(&place, &MIGRATIONS).await.unwrap() else {
        panic!("it is a file");
    };
    let store = SqliteStore::open(sqlite.clone()).await.unwrap();
    store.make_shards(1).await.unwrap();
    let held = store.claim("one", 1, LEASE, true).await.unwrap();
    begin(&store, &held, 1..2).await;
    assert_eq!(store.list(&everything()).await.unwrap().len(), 1);
    let events = (1..=900).map(|sequence| event(&summary(2), sequence)).collect();
    store.append("one", &append(events, vec![summary(2)], &held)).await.unwrap();
    // It cannot grow any more, until the connection that has failed is replaced.
    let fill = async || sqlx::query("PRAGMA max_page_count = 1").execute(&sqlite.writer).await.unwrap();
    fill().await;
    assert!(store.events(summary(2).id, 0, 1).await.is_err(), "it cannot be put in its place");
    fill().await;
    assert_eq!(store.list(&everything()).await.unwrap().len(), 1, "what is in its place is listed");
    assert_eq!(store.events(summary(1).id, 0, 9).await.unwrap().rows.len(), 1);
    assert_eq!(store.list(&everything()).await.unwrap().len(), 2);
    store.close().await;
}
