//! What every database of executions does, query for query.

use std::time::Duration;

use domain::{ExecutionId, Namespace, Timestamp, WorkflowId};
use settings::Database;
use workflow::{Counts, Failure, Status};

use super::{
    Append, AppendError, ExecutionFilter, Held, NewEvent, Owner, Pruned, Replica, Summary, WorkflowFilter, WorkflowRef,
    WorkflowRow, Written, open,
};

mod journal;
mod locks;
mod model;
mod moved;
mod plans;
mod silence;

testkit::conformance! {
    executions_read_back_as_they_were_written
    a_log_of_large_events_is_read_in_pages
    a_commit_is_all_or_nothing_and_an_event_is_written_once
    only_who_holds_a_shard_under_its_epoch_writes
    earlier_runs_are_removed_from_their_oldest_on
    what_was_removed_cannot_be_written_again
    shards_are_shared_and_change_hands
    executions_are_listed_newest_first_and_filtered
    a_workflow_keeps_its_versions
    a_name_belongs_to_one_active_workflow
    locks_are_given_in_the_order_of_those_who_ask
    orders_of_who_lost_the_shard_are_not_done
    which_executions_have_ended_is_told_of_many_at_once
    the_tables_of_a_later_release_are_left_alone
    two_replicas_do_what_a_map_does
}

use locks::{
    locks_are_given_in_the_order_of_those_who_ask, orders_of_who_lost_the_shard_are_not_done,
    which_executions_have_ended_is_told_of_many_at_once,
};
use model::two_replicas_do_what_a_map_does;

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);
pub(crate) const LEASE: Duration = Duration::from_mins(1);

pub(crate) fn summary(number: u128) -> Summary {
    Summary {
        id: ExecutionId::from_parts(1, number),
        namespace: Namespace::default(),
        shard: 0,
        workflow_id: WorkflowId::from_parts(1, 1),
        workflow_name: "a name".into(),
        workflow_version: 3,
        created_at: NOW + Duration::from_micros(u64::try_from(number).unwrap()),
        status: Status::Running,
        counts: Counts { pending: 1, running: 2, completed: 4_000, ..Counts::default() },
        failure: None,
        ended_at: None,
        last_sequence: 1,
        last_hash: vec![7; 32],
    }
}

pub(crate) fn event(summary: &Summary, sequence: u64) -> NewEvent {
    let data = format!(r#"{{"n":{sequence},"text":"\u0000 é"}}"#).into_bytes();
    NewEvent { execution: summary.id, sequence, at: NOW, data, hash: [9; 32] }
}

/// The summaries end where the events do.
pub(crate) fn append(events: Vec<NewEvent>, mut summaries: Vec<Summary>, held: &[Held]) -> Append {
    for summary in &mut summaries {
        let own = events.iter().filter(|event| event.execution == summary.id).map(|event| event.sequence);
        summary.last_sequence = own.max().unwrap_or(summary.last_sequence);
    }
    Append { events, summaries, claims: held.iter().map(|held| (held.shard, held.epoch)).collect() }
}

async fn executions_read_back_as_they_were_written(place: Database) {
    let store = open(&place).await.unwrap();
    assert_eq!(store.make_shards(2).await.unwrap(), 2);
    let held = store.claim("one", 2, LEASE, false).await.unwrap();
    let first = summary(1);
    let second = Summary { shard: 1, ..summary(2) };
    let events = vec![event(&first, 1), event(&first, 2), event(&second, 1)];
    store.append("one", &append(events, vec![first.clone(), second.clone()], &held)).await.unwrap();
    let failure = Failure::fatal("broken", "\"why\"");
    let ended = Summary {
        status: Status::Failed,
        counts: Counts { failed: 7, ..Counts::default() },
        failure: Some(failure),
        ended_at: Some(NOW),
        last_sequence: 3,
        last_hash: vec![8; 32],
        ..first.clone()
    };
    store.append("one", &append(vec![event(&first, 3)], vec![ended.clone()], &held)).await.unwrap();
    store.close().await;

    let store = open(&place).await.unwrap();
    assert_eq!(store.summary(first.id).await.unwrap(), Some(ended));
    assert_eq!(store.summary(second.id).await.unwrap(), Some(second.clone()));
    assert_eq!(store.summary(summary(3).id).await.unwrap(), None);
    let page = store.events(first.id, 1, 1).await.unwrap();
    assert!(!page.is_last);
    assert_eq!((page.rows[0].sequence, page.rows[0].at), (2, NOW));
    assert_eq!((&page.rows[0].data, page.rows[0].hash.as_slice()), (&event(&first, 2).data, [9_u8; 32].as_slice()));
    assert_eq!(store.events(first.id, 0, 9).await.unwrap().rows.len(), 3);
    assert_eq!(store.live(&[0, 1]).await.unwrap(), [second.id]);
    assert_eq!(store.live(&[0]).await.unwrap(), []);
    store.close().await;
}

async fn a_commit_is_all_or_nothing_and_an_event_is_written_once(place: Database) {
    let store = open(&place).await.unwrap();
    store.make_shards(1).await.unwrap();
    let held = store.claim("one", 1, LEASE, false).await.unwrap();
    let (first, second) = (summary(1), summary(2));
    store.append("one", &append(vec![event(&first, 1)], vec![first.clone()], &held)).await.unwrap();
    let events = vec![event(&second, 1), event(&first, 1)];
    let refused = store.append("one", &append(events, vec![second.clone(), first.clone()], &held)).await.unwrap_err();
    assert!(matches!(refused, AppendError::Diverged) && refused.is_of_one(), "{refused:?}");
    assert_eq!(store.summary(second.id).await.unwrap(), None);
    assert_eq!(store.events(first.id, 0, 9).await.unwrap().rows.len(), 1);
    store.close().await;
}

async fn what_was_removed_cannot_be_written_again(place: Database) {
    let store = open(&place).await.unwrap();
    store.make_shards(1).await.unwrap();
    let held = store.claim("one", 1, LEASE, false).await.unwrap();
    let first = summary(1);
    for sequence in 1..=5 {
        store.append("one", &append(vec![event(&first, sequence)], vec![first.clone()], &held)).await.unwrap();
        store.events(first.id, 0, 1).await.unwrap();
    }
    assert_eq!(store.prune(first.id, 5, NOW + LEASE, 9).await.unwrap(), 2);
    let again = append(vec![event(&first, 2)], vec![first.clone()], &held);
    let again = store.append("one", &again).await;
    assert!(matches!(again, Err(AppendError::Diverged)), "{again:?}");
    assert_eq!(store.summary(first.id).await.unwrap().unwrap().last_sequence, 5);
    let left = store.events(first.id, 0, 9).await.unwrap().rows;
    assert_eq!(left.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1, 4, 5]);
    store.close().await;
}

async fn earlier_runs_are_removed_from_their_oldest_on(place: Database) {
    let store = open(&place).await.unwrap();
    store.make_shards(1).await.unwrap();
    let held = store.claim("one", 1, LEASE, false).await.unwrap();
    let (first, other) = (summary(1), summary(2));
    let at = |sequence: u64| NOW + Duration::from_secs(sequence);
    let hash_of = |sequence: u64| [u8::try_from(sequence).unwrap(); 32];
    for sequence in 1..=20 {
        let next = NewEvent { at: at(sequence), hash: hash_of(sequence), ..event(&first, sequence) };
        store.append("one", &append(vec![next], vec![first.clone()], &held)).await.unwrap();
        // Who reads has what was committed put in its place: each has a row of its own.
        store.events(first.id, 0, 1).await.unwrap();
    }
    for sequence in [1, 4, 7, 10] {
        let events = (sequence..sequence + 3).map(|sequence| event(&other, sequence)).collect();
        store.append("one", &append(events, vec![other.clone()], &held)).await.unwrap();
        store.events(other.id, 0, 1).await.unwrap();
    }
    let left = async || {
        let rows = store.events(first.id, 0, 100).await.unwrap().rows;
        rows.iter().map(|row| row.sequence).collect::<Vec<_>>()
    };
    // The present run began with the event 10.
    let with_first = |from: u64| [1].into_iter().chain(from..=20).collect::<Vec<_>>();
    for (before, limit, removed, from) in [
        (1, 100, 0, 2),
        (5, 2, 2, 4),
        (5, 100, 1, 5),
        (5, 100, 0, 5),
        (100, 3, 3, 8),
        (100, 100, 1, 9),
        (100, 100, 0, 9),
    ] {
        assert_eq!(store.prune(first.id, 10, at(before), limit).await.unwrap(), removed, "before {before}");
        assert_eq!(left().await, with_first(from), "before {before}");
        let noted = (from > 2).then(|| Pruned { to: from - 1, hash: hash_of(from - 1).to_vec() });
        assert_eq!(store.pruned(first.id).await.unwrap(), noted, "before {before}");
    }
    assert_eq!(store.events(first.id, 2, 1).await.unwrap().rows[0].sequence, 9);
    // What shares a row with what is kept is kept.
    assert_eq!(store.prune(other.id, 9, at(100), 100).await.unwrap(), 1);
    let rows = store.events(other.id, 0, 100).await.unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1, 2, 3, 7, 8, 9, 10, 11, 12]);
    assert_eq!(store.pruned(other.id).await.unwrap(), Some(Pruned { to: 6, hash: vec![9; 32] }));
    assert_eq!(store.prune(summary(3).id, 10, at(100), 9).await.unwrap(), 0);
    // One of them was written while a clock was ahead.
    let ahead = summary(4);
    for (sequence, seconds) in (1..).zip([1, 2, 90, 4, 5, 6, 7]) {
        let next = NewEvent { at: at(seconds), ..event(&ahead, sequence) };
        store.append("one", &append(vec![next], vec![ahead.clone()], &held)).await.unwrap();
        store.events(ahead.id, 0, 1).await.unwrap();
    }
    assert_eq!(store.prune(ahead.id, 7, at(3), 9).await.unwrap(), 1);
    assert_eq!(store.prune(ahead.id, 7, at(5), 9).await.unwrap(), 2);
    assert_eq!(store.events(ahead.id, 1, 1).await.unwrap().rows[0].sequence, 5);
    // It goes on.
    store.append("one", &append(vec![event(&first, 21)], vec![first.clone()], &held)).await.unwrap();
    assert_eq!(store.events(first.id, 0, 100).await.unwrap().rows.len(), 14);
    assert_eq!(store.pruned(first.id).await.unwrap().unwrap().to, 8);
    store.close().await;
}

async fn the_tables_of_a_later_release_are_left_alone(place: Database) {
    let database = ::store::Database::open(&place, &super::MIGRATIONS).await.unwrap();
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99990101000001, 'later', TRUE, '', 0)";
    match &database {
        ::store::Database::Sqlite(sqlite) => drop(sqlx::query(later).execute(&sqlite.writer).await.unwrap()),
        ::store::Database::Postgres(postgres) => {
            let mut connection = postgres.lend().await.unwrap();
            sqlx::query(later).execute(&mut *connection).await.unwrap();
            connection.give_back();
        }
    }
    database.close().await;
    for migrate in [true, false] {
        let refused = open(&Database { migrate, ..place.clone() }).await.err().expect("it is refused");
        assert!(errors::chain(&refused).contains("99990101000001"), "{}", errors::chain(&refused));
    }
}

async fn only_who_holds_a_shard_under_its_epoch_writes(place: Database) {
    let store = open(&place).await.unwrap();
    store.make_shards(2).await.unwrap();
    let old = store.claim("one", 2, LEASE, false).await.unwrap();
    let new = store.claim("two", 2, LEASE, true).await.unwrap();
    assert!(old.iter().zip(&new).all(|(old, new)| new.epoch == old.epoch + 1), "{old:?} {new:?}");
    let written = async |owner: &str, held: &[Held]| {
        let first = summary(1);
        store.append(owner, &append(vec![event(&first, 1)], vec![first], held)).await
    };
    assert!(matches!(written("one", &old).await, Err(AppendError::Fenced)));
    assert!(matches!(written("one", &new).await, Err(AppendError::Fenced)), "the epoch alone is not enough");
    assert!(matches!(written("two", &old).await, Err(AppendError::Fenced)), "the owner alone is not enough");
    assert!(matches!(written("two", &[]).await, Err(AppendError::Fenced)), "nothing is written without a claim");
    written("two", &new).await.unwrap();
    store.close().await;
}

async fn shards_are_shared_and_change_hands(place: Database) {
    let store = open(&place).await.unwrap();
    assert_eq!(store.make_shards(4).await.unwrap(), 4);
    assert_eq!(store.make_shards(9).await.unwrap(), 4, "their number never changes");
    let replica = |id: &str| Replica { id: id.to_owned(), address: format!("{id}:1") };
    let (one, two) = (replica("one"), replica("two"));
    assert_eq!(store.announce(&one, LEASE).await.unwrap(), std::slice::from_ref(&one));
    assert_eq!(store.announce(&two, LEASE).await.unwrap(), [one.clone(), two.clone()]);
    let shards = |held: Vec<Held>| {
        let mut shards: Vec<_> = held.into_iter().map(|held| held.shard).collect();
        shards.sort_unstable();
        shards
    };
    assert_eq!(shards(store.claim("one", 3, LEASE, false).await.unwrap()), [0, 1, 2]);
    assert_eq!(shards(store.claim("two", 3, Duration::ZERO, false).await.unwrap()), [3]);
    assert_eq!(shards(store.renew("one", LEASE).await.unwrap()), [0, 1, 2]);
    let owners = store.owners().await.unwrap();
    assert_eq!(owners.len(), 3, "a lease that has ended is nobody's");
    assert_eq!(owners[0], Owner { shard: 0, replica: one });
    assert_eq!(shards(store.claim("one", 9, LEASE, false).await.unwrap()), [3], "of the other, whose lease has ended");
    assert_eq!(store.renew("two", LEASE).await.unwrap(), []);
    store.release("one", &[1, 2]).await.unwrap();
    assert_eq!(shards(store.claim("two", 1, LEASE, false).await.unwrap()), [1]);
    store.release("one", &[1]).await.unwrap();
    assert_eq!(shards(store.renew("two", LEASE).await.unwrap()), [1], "what another holds cannot be released");
    store.leave("two").await.unwrap();
    assert_eq!(store.renew("two", LEASE).await.unwrap(), []);
    assert_eq!(store.announce(&replica("one"), LEASE).await.unwrap().len(), 1);
    store.close().await;
}

async fn a_log_of_large_events_is_read_in_pages(place: Database) {
    let store = open(&place).await.unwrap();
    store.make_shards(1).await.unwrap();
    let held = store.claim("one", 1, LEASE, false).await.unwrap();
    let first = summary(1);
    // Two of them nearly fill a page, the third is larger than one.
    let sizes = [8_000_000, 8_000_000, 17 << 20, 1, 1];
    for (sequence, size) in (1..).zip(sizes) {
        let event = NewEvent { data: vec![b' '; size], ..event(&first, sequence) };
        store.append("one", &append(vec![event], vec![first.clone()], &held)).await.unwrap();
    }
    let (mut after, mut pages) = (0, Vec::new());
    loop {
        let page = store.events(first.id, after, 1_000).await.unwrap();
        after = page.rows.last().unwrap().sequence;
        pages.push(page.rows.iter().map(|row| row.sequence).collect::<Vec<_>>());
        if page.is_last {
            break;
        }
    }
    assert_eq!(pages, [vec![1, 2], vec![3], vec![4, 5]]);
    store.close().await;
}

fn everything() -> ExecutionFilter {
    ExecutionFilter {
        namespace: Namespace::default(),
        workflow_id: None,
        workflow_name: None,
        statuses: Vec::new(),
        created_after: None,
        created_before: None,
        after: None,
        oldest_first: false,
        limit: 9,
    }
}

async fn executions_are_listed_newest_first_and_filtered(place: Database) {
    let store = open(&place).await.unwrap();
    store.make_shards(1).await.unwrap();
    let held = store.claim("one", 1, LEASE, false).await.unwrap();
    let other = Summary { workflow_id: WorkflowId::from_parts(1, 2), workflow_name: "other".into(), ..summary(3) };
    let ended = Summary { status: Status::Completed, ended_at: Some(NOW), ..summary(4) };
    let elsewhere = Summary { namespace: "elsewhere".parse().unwrap(), ..summary(5) };
    let summaries = vec![summary(1), summary(2), other.clone(), ended.clone(), elsewhere];
    let events = summaries.iter().map(|summary| event(summary, 1)).collect();
    store.append("one", &append(events, summaries, &held)).await.unwrap();
    let all = everything();
    let list = async |filter: ExecutionFilter| {
        let rows = store.list(&filter).await.unwrap();
        rows.into_iter().map(|row| row.created_at.as_micros() - NOW.as_micros()).collect::<Vec<_>>()
    };
    assert_eq!(list(all.clone()).await, [4, 3, 2, 1]);
    assert_eq!(list(ExecutionFilter { limit: 2, ..all.clone() }).await, [4, 3]);
    let after = Some((other.created_at, other.id));
    assert_eq!(list(ExecutionFilter { after, ..all.clone() }).await, [2, 1]);
    let oldest = ExecutionFilter { oldest_first: true, ..all.clone() };
    assert_eq!(list(oldest.clone()).await, [1, 2, 3, 4]);
    assert_eq!(list(ExecutionFilter { after, ..oldest }).await, [4]);
    assert_eq!(list(ExecutionFilter { workflow_id: Some(other.workflow_id), ..all.clone() }).await, [3]);
    assert_eq!(list(ExecutionFilter { workflow_name: Some("other".to_owned()), ..all.clone() }).await, [3]);
    let statuses = vec![Status::Completed, Status::Failed];
    assert_eq!(list(ExecutionFilter { statuses, ..all.clone() }).await, [4]);
    let (from, to) = (summary(2).created_at, ended.created_at);
    assert_eq!(list(ExecutionFilter { created_after: Some(from), created_before: Some(to), ..all }).await, [3, 2]);
    store.close().await;
}

fn workflow(number: u128, name: &str) -> WorkflowRow {
    WorkflowRow {
        id: WorkflowId::from_parts(1, number),
        namespace: Namespace::default(),
        is_archived: false,
        newest: 1,
        created_at: NOW,
        updated_at: NOW,
        version: 1,
        name: name.to_owned(),
        description: "what it does".to_owned(),
        definition: r#"{"b": 1, "a": "\u0000"}"#.to_owned(),
        step_count: 2,
    }
}

async fn a_workflow_keeps_its_versions(place: Database) {
    let store = open(&place).await.unwrap();
    let first = workflow(1, "first");
    assert_eq!(store.create_workflow(&first).await.unwrap(), Written::Done);
    let second = WorkflowRow { version: 2, newest: 2, name: "second".to_owned(), step_count: 9, ..first.clone() };
    assert_eq!(store.update_workflow(&second).await.unwrap(), Written::Done);
    assert_eq!(store.update_workflow(&second).await.unwrap(), Written::Changed);
    let namespace = Namespace::default();
    let get = async |workflow: WorkflowRef, version| store.workflow(&namespace, &workflow, version).await.unwrap();
    assert_eq!(get(WorkflowRef::Id(first.id), Some(1)).await, Some(WorkflowRow { newest: 2, ..first.clone() }));
    assert_eq!(get(WorkflowRef::Name("second".to_owned()), None).await, Some(second.clone()));
    assert_eq!(get(WorkflowRef::Name("first".to_owned()), None).await, None);
    assert_eq!(get(WorkflowRef::Id(first.id), Some(3)).await, None);
    let elsewhere = "elsewhere".parse().unwrap();
    assert_eq!(store.workflow(&elsewhere, &WorkflowRef::Id(first.id), None).await.unwrap(), None);
    store.close().await;
}

async fn a_name_belongs_to_one_active_workflow(place: Database) {
    let store = open(&place).await.unwrap();
    store.create_workflow(&workflow(1, "name")).await.unwrap();
    assert_eq!(store.create_workflow(&workflow(2, "name")).await.unwrap(), Written::NameTaken);
    store.create_workflow(&workflow(3, "other")).await.unwrap();
    let renamed = WorkflowRow { version: 2, ..workflow(3, "name") };
    assert_eq!(store.update_workflow(&renamed).await.unwrap(), Written::NameTaken);
    assert!(store.create_workflow(&workflow(1, "new")).await.is_err(), "an id that is taken is a fault");
    let later = NOW + Duration::from_secs(1);
    assert!(!store.archive_workflow(workflow(1, "").id, Some(99), later).await.unwrap(), "at another version");
    assert!(store.archive_workflow(workflow(1, "").id, Some(1), later).await.unwrap());
    assert!(!store.archive_workflow(workflow(1, "").id, None, later).await.unwrap());
    assert_eq!(store.update_workflow(&renamed).await.unwrap(), Written::Done);
    let list = async |include_archived: bool, name: Option<&str>| {
        let (namespace, name) = (Namespace::default(), name.map(str::to_owned));
        let filter = WorkflowFilter { namespace, include_archived, name, after: None, newest_first: false, limit: 9 };
        let page = store.workflows(&filter).await.unwrap();
        page.rows.into_iter().map(|row| (row.id, row.version, row.is_archived)).collect::<Vec<_>>()
    };
    let (archived, active) = (workflow(1, "").id, workflow(3, "").id);
    assert_eq!(list(false, None).await, [(active, 2, false)]);
    assert_eq!(list(true, Some("name")).await, [(archived, 1, true), (active, 2, false)]);
    let filter = WorkflowFilter {
        namespace: Namespace::default(),
        include_archived: true,
        name: None,
        after: Some(archived),
        newest_first: false,
        limit: 9,
    };
    assert_eq!(store.workflows(&filter).await.unwrap().rows.len(), 1);
    let newest = async |after: Option<WorkflowId>| {
        let filter = WorkflowFilter { after, newest_first: true, ..filter.clone() };
        store.workflows(&filter).await.unwrap().rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(newest(None).await, [active, archived]);
    assert_eq!(newest(Some(active)).await, [archived]);
    store.close().await;
}
