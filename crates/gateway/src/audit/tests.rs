use std::{net::Ipv4Addr, sync::atomic::AtomicU32};

use domain::ManualClock;
use lifecycle::{OnExit, Tasks};

use super::*;

testkit::conformance! {
    what_is_noted_is_read_and_verified
    the_database_refuses_to_change_what_was_written
    writers_of_one_log_make_one_chain
    an_entry_that_the_database_refuses_keeps_no_other_out
    an_entry_is_written_once_also_where_its_answer_is_lost
    what_is_no_status_is_not_taken_for_one
}

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn entry(number: u16) -> Entry {
    Entry {
        at: START + Duration::from_secs(u64::from(number)),
        actor: format!("key:key_{}", number % 2),
        role: "admin".to_owned(),
        action: "agents:write".to_owned(),
        route: "POST /api/v1/agents".to_owned(),
        target: "/api/v1/agents".to_owned(),
        resource: if number.is_multiple_of(2) { format!("/api/v1/agents/{number}") } else { String::new() },
        details: String::new(),
        namespace: if number.is_multiple_of(3) { "blue" } else { "red" }.to_owned(),
        address: "192.0.2.1".to_owned(),
        status: if number == 4 { 403 } else { 201 },
        code: String::new(),
        correlation_id: format!("order-{number}"),
        request_id: format!("req_{number}"),
    }
}

fn log(database: &::store::Database, tasks: &Tasks) -> Log {
    let store = crate::store::over!(AuditStore, database);
    let (log, writer) = Log::new(store, Arc::new(ManualClock::at(START)));
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("audit", OnExit::Continue, async move {
        writer.run(shutdown).await;
        Ok::<(), std::convert::Infallible>(())
    });
    log
}

async fn what_is_noted_is_read_and_verified(place: settings::Database) {
    let database = crate::store::open(&place).await.unwrap();
    let log = log(&database, &Tasks::new(Shutdown::new()));
    assert_eq!(log.verify(None).await.unwrap().head_text(), None);
    for number in 1..=6 {
        log.note(entry(number)).await.unwrap();
    }
    let seqs = async |filter: Filter| {
        let rows = log.read(&Filter { limit: 3, ..filter }).await.unwrap();
        rows.iter().map(|row| row.seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(Filter::default()).await, [6, 5, 4]);
    assert_eq!(seqs(Filter { after: Some(4), ..Filter::default() }).await, [3, 2, 1]);
    assert_eq!(seqs(Filter { is_ascending: true, after: Some(2), ..Filter::default() }).await, [3, 4, 5]);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(seqs(Filter { namespace: text("blue"), ..Filter::default() }).await, [6, 3]);
    assert_eq!(seqs(Filter { actor: text("key:key_1"), ..Filter::default() }).await, [5, 3, 1]);
    assert_eq!(seqs(Filter { action: text("nothing"), ..Filter::default() }).await, [] as [i64; 0]);
    assert_eq!(seqs(Filter { correlation_id: text("order-2"), ..Filter::default() }).await, [2]);
    assert_eq!(seqs(Filter { request_id: text("req_5"), ..Filter::default() }).await, [5]);
    assert_eq!(seqs(Filter { status: Some(400), ..Filter::default() }).await, [4]);
    let (since, until) = (Some(START + Duration::from_secs(2)), Some(START + Duration::from_secs(4)));
    assert_eq!(seqs(Filter { since, until, ..Filter::default() }).await, [3, 2]);

    let rows = log.read(&Filter { limit: 1, ..Filter::default() }).await.unwrap();
    assert_eq!(rows[0].entry, entry(6));
    let sound = log.verify(None).await.unwrap();
    let head = sound.head_text().unwrap();
    assert_eq!((sound.faults().len(), head.as_str()), (0, format!("6:{}", rows[0].hash_text()).as_str()));
    log.note(entry(7)).await.unwrap();
    let known = |text: &str| Some(text.parse::<Known>().unwrap());
    assert!(log.verify(known(&head)).await.unwrap().faults().is_empty(), "it has only grown");
    let other = format!("6:{}", "0".repeat(64));
    assert_eq!(log.verify(known(&other)).await.unwrap().faults().len(), 1);
    let cut = format!("9:{}", "0".repeat(64));
    assert!(log.verify(known(&cut)).await.unwrap().faults()[0].contains("cut off"));
    database.close().await;
}

async fn the_database_refuses_to_change_what_was_written(place: settings::Database) {
    let database = crate::store::open(&place).await.unwrap();
    let log = log(&database, &Tasks::new(Shutdown::new()));
    for number in 1..=3 {
        log.note(entry(number)).await.unwrap();
    }
    let changes = [
        "UPDATE audit_log SET actor = 'somebody else' WHERE seq = 2",
        "DELETE FROM audit_log WHERE seq = 2",
        "DROP TRIGGER audit_log_is_not_changed",
    ];
    let run = async |statement: &'static str| match &database {
        ::store::Database::Sqlite(sqlite) => sqlx::query(statement).execute(&sqlite.writer).await.map(drop),
        ::store::Database::Postgres(postgres) => {
            let statement = match statement {
                "DROP TRIGGER audit_log_is_not_changed" => "DROP TRIGGER audit_log_is_not_changed ON audit_log",
                other => other,
            };
            sqlx::query(statement).execute(&postgres.pool).await.map(drop)
        }
    };
    let row = "SELECT * FROM audit_log WHERE seq = 2";
    let more = match &database {
        ::store::Database::Sqlite(_) => vec![format!("INSERT OR REPLACE INTO audit_log {row}")],
        ::store::Database::Postgres(_) => vec![
            "TRUNCATE audit_log".to_owned(),
            "SET session_replication_role = replica; DELETE FROM audit_log WHERE seq = 2".to_owned(),
        ],
    };
    for change in changes[..2].iter().map(|change| (*change).to_owned()).chain(more) {
        let refused = raw(&database, &change).await.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{change}: {refused}");
    }
    assert!(log.verify(None).await.unwrap().faults().is_empty());
    // Whoever may change the tables themselves is found out.
    run(changes[2]).await.unwrap();
    run(changes[0]).await.unwrap();
    let faults = log.verify(None).await.unwrap();
    assert!(faults.faults()[0].starts_with("entry 2 "), "{faults:?}");
    database.close().await;
}

async fn raw(database: &::store::Database, statements: &str) -> sqlx::Result<()> {
    let statements = sqlx::AssertSqlSafe(statements.to_owned());
    match database {
        ::store::Database::Sqlite(sqlite) => sqlx::raw_sql(statements).execute(&sqlite.writer).await.map(drop),
        ::store::Database::Postgres(postgres) => sqlx::raw_sql(statements).execute(&postgres.pool).await.map(drop),
    }
}

async fn writers_of_one_log_make_one_chain(place: settings::Database) {
    let database = crate::store::open(&place).await.unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let logs = [log(&database, &tasks), log(&database, &tasks)];
    let noted = (0..100).map(|number| {
        let log = &logs[usize::from(number % 2)];
        async move { log.note(entry(number)).await }
    });
    for outcome in futures::future::join_all(noted).await {
        outcome.unwrap();
    }
    let found = logs[0].verify(None).await.unwrap();
    assert!(found.faults().is_empty(), "{found:?}");
    assert!(found.head_text().unwrap().starts_with("100:"), "{found:?}");
    database.close().await;
}

async fn an_entry_that_the_database_refuses_keeps_no_other_out(place: settings::Database) {
    let database = crate::store::open(&place).await.unwrap();
    let log = log(&database, &Tasks::new(Shutdown::new()));
    // PostgreSQL has no place for it in a text.
    let nul = Entry { actor: "a\0b".to_owned(), ..entry(2) };
    let noted = [entry(1), nul, entry(3)].map(|entry| log.note(entry));
    for noted in futures::future::join_all(noted).await {
        noted.unwrap();
    }
    let rows = log.read(&Filter { is_ascending: true, limit: 9, ..Filter::default() }).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| row.entry.correlation_id.as_str()).collect();
    assert_eq!(told, ["order-1", "order-2", "order-3"]);
    if matches!(database, ::store::Database::Postgres(_)) {
        let expected = Entry { actor: "ab".to_owned(), code: "refused_entry".to_owned(), ..entry(2) };
        assert_eq!(rows[1].entry, expected, "what is harmless of it is kept");
    }
    assert!(log.verify(None).await.unwrap().faults().is_empty());
    database.close().await;
}

/// A database whose answers are lost, of these calls, though it does what it is asked for.
struct Lossy {
    store: Arc<dyn AuditStore>,
    lost: &'static [u32],
    calls: AtomicU32,
}

#[async_trait::async_trait]
impl AuditStore for Lossy {
    async fn append(&self, entries: &[&Entry], is_again: bool) -> sqlx::Result<()> {
        let appended = self.store.append(entries, is_again).await;
        let is_lost = self.lost.contains(&self.calls.fetch_add(1, Ordering::Relaxed));
        if is_lost { Err(sqlx::Error::PoolTimedOut) } else { appended }
    }

    async fn read(&self, filter: &Filter) -> sqlx::Result<Vec<Row>> {
        self.store.read(filter).await
    }
}

async fn an_entry_is_written_once_also_where_its_answer_is_lost(place: settings::Database) {
    let database = crate::store::open(&place).await.unwrap();
    // With PostgreSQL the first call is refused, and they go one by one.
    let lost: &[u32] = if matches!(database, ::store::Database::Postgres(_)) { &[1, 3, 6, 11, 12] } else { &[0, 1] };
    let store = Lossy { store: crate::store::over!(AuditStore, &database), lost, calls: AtomicU32::new(0) };
    let (log, writer) = Log::new(Arc::new(store), Arc::new(ManualClock::at(START)));
    for number in 1..=4 {
        let actor = if number == 3 { "a\0b".to_owned() } else { entry(number).actor };
        log.note_later(Entry { actor, ..entry(number) }, Bound::None);
    }
    log.close();
    writer.run(Shutdown::new()).await;
    let rows = log.read(&Filter { is_ascending: true, limit: 9, ..Filter::default() }).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| row.entry.correlation_id.as_str()).collect();
    assert_eq!(told, ["order-1", "order-2", "order-3", "order-4"]);
    assert!(log.verify(None).await.unwrap().faults().is_empty());
    database.close().await;
}

async fn what_is_no_status_is_not_taken_for_one(place: settings::Database) {
    let database = crate::store::open(&place).await.unwrap();
    let log = log(&database, &Tasks::new(Shutdown::new()));
    log.note(Entry { status: BEGUN, ..entry(1) }).await.unwrap();
    let trigger = "DROP TRIGGER audit_log_is_not_changed";
    let on = if matches!(database, ::store::Database::Postgres(_)) { " ON audit_log" } else { "" };
    raw(&database, &format!("{trigger}{on}; UPDATE audit_log SET status = 65536")).await.unwrap();
    assert!(log.verify(None).await.is_err(), "it reads as what has begun");
    database.close().await;
}

/// A database that is away.
struct Away;

#[async_trait::async_trait]
impl AuditStore for Away {
    async fn append(&self, _: &[&Entry], _: bool) -> sqlx::Result<()> {
        Err(sqlx::Error::PoolTimedOut)
    }

    async fn read(&self, _: &Filter) -> sqlx::Result<Vec<Row>> {
        Err(sqlx::Error::PoolTimedOut)
    }
}

#[tokio::test]
async fn what_is_not_written_is_not_said_to_be() {
    let (log, writer) = Log::new(Arc::new(Away), Arc::new(ManualClock::at(START)));
    let shutdown = Shutdown::new();
    let (noted, ()) = futures::future::join(log.note(entry(1)), async {
        let cut = async {
            // It is under way, and found to fail.
            testkit::eventually("the log to fail", async || {
                log.0.is_failing.load(Ordering::Relaxed).then_some(()).ok_or(())
            })
            .await;
            shutdown.cut();
        };
        futures::future::join(writer.run(shutdown.clone()), cut).await;
    })
    .await;
    assert_eq!(noted.unwrap_err().reason, "audit_unavailable");
    let refused = log.note(entry(2)).await.unwrap_err();
    assert_eq!(refused.reason, "audit_unavailable", "at once");
}

#[tokio::test]
async fn a_log_that_is_closed_writes_what_waits_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let database = crate::store::open(&settings::Database::sqlite(folder.path().join("test.db"))).await.unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let log = log(&database, &tasks);
    log.note_later(entry(1), Bound::None);
    log.close();
    tasks.shutdown().drain();
    let begun = tokio::time::Instant::now();
    tasks.join(PATIENCE).await.unwrap();
    assert!(begun.elapsed() < PATIENCE, "nothing has to be cut");
    assert_eq!(log.read(&Filter { limit: 9, ..Filter::default() }).await.unwrap().len(), 1);
    assert_eq!(log.note(entry(2)).await.unwrap_err().reason, "audit_unavailable");
    database.close().await;
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_written_as_begun() {
    let folder = tempfile::tempdir().unwrap();
    let database = crate::store::open(&settings::Database::sqlite(folder.path().join("test.db"))).await.unwrap();
    let (log, writer) = Log::new(crate::store::over!(AuditStore, &database), Arc::new(ManualClock::at(START)));
    // Nothing writes yet, and whoever waits gives up.
    assert!(futures::FutureExt::now_or_never(log.note(entry(1))).is_none());
    log.note_later(entry(2), Bound::None);
    log.close();
    writer.run(Shutdown::new()).await;
    let rows = log.read(&Filter { limit: 9, ..Filter::default() }).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.entry.clone()).collect::<Vec<_>>(), [entry(2)]);
    database.close().await;
}

#[tokio::test]
async fn a_flood_of_strangers_is_cut_short_and_nobody_known_is() {
    let folder = tempfile::tempdir().unwrap();
    let database = crate::store::open(&settings::Database::sqlite(folder.path().join("test.db"))).await.unwrap();
    let log = log(&database, &Tasks::new(Shutdown::new()));
    let at = |number: u32| Caller::at(Ipv4Addr::from(number).into());
    for _ in 0..200 {
        log.note_later(entry(1), Bound::Stranger(at(1)));
        log.note_later(entry(4), Bound::Missing(Caller::Key("key:key_1".into())));
    }
    log.note_later(Entry { at: entry(1).at, ..entry(5) }, Bound::Stranger(at(2)));
    log.note_later(entry(2), Bound::None);
    log.note(entry(3)).await.unwrap();
    let noted = async || {
        let rows = log.read(&Filter { limit: 500, ..Filter::default() }).await.unwrap();
        [1, 2, 3, 4, 5].map(|number| rows.iter().filter(|row| row.entry.request_id == entry(number).request_id).count())
    };
    let few = ::access::MOST_NOTED_OF_ONE;
    assert_eq!(noted().await, [few, 1, 1, few, 1], "of one address, not of all others");
    for number in 0..1_000 {
        log.note_later(entry(1), Bound::Stranger(at(number)));
    }
    log.note_later(entry(2), Bound::None);
    log.note(entry(3)).await.unwrap();
    assert_eq!(noted().await, [::access::MOST_NOTED - 1, 2, 2, few, 1], "of all addresses together, too");
    database.close().await;
}

/// But for filters that nothing is sorted by, which read backwards from the newest.
#[tokio::test]
async fn no_statement_reads_all_entries_and_every_index_is_used() {
    let url = testkit::Servers::shared().database().await;
    let place = settings::Database::postgres(url.clone());
    crate::store::open(&place).await.unwrap().close().await;
    let many = "INSERT INTO audit_log (seq, at, actor, role, action, route, target, namespace, address, status, code,
        correlation_id, request_id, hash) SELECT n, 'epoch', 'key:key_' || n % 500, '', '', '', '', 'n' || n % 500, '', 200, '', '',
        'req_' || n, '' FROM generate_series(1, 20000) AS n";
    testkit::fill(&url, "gateway", many).await;
    let before = testkit::Scans::of(&url).await;
    let database = crate::store::open(&place).await.unwrap();
    let store = crate::store::over!(AuditStore, database);
    store.append(&[&entry(1)], false).await.unwrap();
    store.append(&[&entry(1)], true).await.unwrap();
    let all = || Filter { limit: 10, ..Filter::default() };
    let filters = [
        (all(), 10),
        (Filter { is_ascending: true, after: Some(9_000), ..all() }, 10),
        (Filter { namespace: Some("n7".to_owned()), ..all() }, 10),
        (Filter { actor: Some("key:key_7".to_owned()), ..all() }, 10),
        (Filter { request_id: Some("req_7".to_owned()), ..all() }, 1),
    ];
    for (filter, found) in &filters {
        assert_eq!(store.read(filter).await.unwrap().len(), *found, "{filter:?}");
    }
    database.close().await;
    let after = testkit::Scans::of(&url).await;
    assert_eq!(after.read_whole_since(&before), [].into());
    let unused = after.unused_since(&before).into_iter().filter(|index| index.starts_with("audit_log"));
    assert_eq!(unused.collect::<Vec<_>>(), [""; 0]);
}
