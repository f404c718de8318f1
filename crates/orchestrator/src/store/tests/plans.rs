//! That PostgreSQL answers every statement through an index where the tables are large, and that every index is for something.

use testkit::{Scans, Servers, fill};

use super::*;

/// One execution in a hundred has not ended; each has two events. Workflows have two versions, and one in ten is archived.
const LARGE: &str = "
    INSERT INTO executions SELECT decode(md5(n::text), 'hex'), 'default', n % 64, 'wf_' || lpad((n % 50)::text, 26, '0'),
        'a name', 3, now() - n * interval '1 second', CASE n % 100 WHEN 0 THEN 'running' ELSE 'completed' END,
        '{0,0,0,0,0,1,0,0,0,0}', NULL, CASE n % 100 WHEN 0 THEN NULL ELSE now() END, 2, '\\x07'
        FROM generate_series(1, 40000) AS n;
    INSERT INTO execution_events SELECT decode(md5(n::text), 'hex'), sequence, now(), '{}', '\\x07'
        FROM generate_series(1, 40000) AS n, generate_series(1, 2) AS sequence;
    INSERT INTO workflows SELECT 'wf_' || lpad(n::text, 26, '0'), 'default', 'name-' || n, 2,
        CASE n % 10 WHEN 0 THEN 'archived' ELSE 'active' END, now(), now() FROM generate_series(0, 4999) AS n;
    INSERT INTO workflow_versions SELECT 'wf_' || lpad(n::text, 26, '0'), version, 'name-' || n, '', '{}', 1
        FROM generate_series(0, 4999) AS n, generate_series(1, 2) AS version;
    INSERT INTO locks (key, name, execution_id, holder, shard, most, granted, asked_at)
        SELECT sha256((n % 1000)::text::bytea), 'a name', decode(md5(n::text), 'hex'), '\"execution\"', n % 64, 1, n <= 1000, now()
        FROM generate_series(1, 40000) AS n;";

#[tokio::test]
async fn no_statement_reads_a_table_from_end_to_end_and_every_index_is_used() {
    let url = Servers::shared().database().await;
    let place = Database::postgres(url.clone());
    let store = open(&place).await.unwrap();
    store.make_shards(64).await.unwrap();
    let held = store.claim("one", 64, LEASE, false).await.unwrap();
    store.append("one", &append(vec![event(&summary(1), 1)], vec![summary(1)], &held)).await.unwrap();
    store.close().await;
    fill(&url, "orchestrator", LARGE).await;
    let before = Scans::of(&url).await;

    let store = open(&place).await.unwrap();
    let first = summary(1);
    store.summary(first.id).await.unwrap().unwrap();
    store.events(first.id, 0, 50).await.unwrap();
    store
        .append("one", &append(vec![event(&first, 2), event(&summary(2), 1)], vec![first, summary(2)], &held))
        .await
        .unwrap();
    assert!(store.live(&[1, 2, 3]).await.unwrap().len() < 400);
    let all = ExecutionFilter {
        namespace: Namespace::default(),
        workflow_id: None,
        workflow_name: None,
        statuses: Vec::new(),
        created_after: None,
        created_before: None,
        after: None,
        oldest_first: false,
        limit: 51,
    };
    let after = store.list(&all).await.unwrap().last().map(|last| (last.created_at, last.id));
    let of_workflow =
        ExecutionFilter { workflow_id: Some("wf_00000000000000000000000007".parse().unwrap()), ..all.clone() };
    let running = ExecutionFilter { statuses: vec![Status::Running], ..all.clone() };
    for filter in [
        ExecutionFilter { after, ..all.clone() },
        ExecutionFilter { after, ..of_workflow.clone() },
        ExecutionFilter { oldest_first: true, ..all.clone() },
        of_workflow,
        running,
    ] {
        assert_eq!(store.list(&filter).await.unwrap().len(), 51);
    }

    let namespace = Namespace::default();
    let (id, name) = ("wf_00000000000000000000000007".parse().unwrap(), "name-8".to_owned());
    for reference in [WorkflowRef::Id(id), WorkflowRef::Name(name)] {
        store.workflow(&namespace, &reference, None).await.unwrap().unwrap();
        store.workflow(&namespace, &reference, Some(1)).await.unwrap().unwrap();
    }
    assert_eq!(store.prune(summary(1).id, 9, NOW, 9).await.unwrap(), 0);
    locks::touch(store.as_ref(), held[0]).await;
    store.archive_workflow(id, None, NOW).await.unwrap();
    store.create_workflow(&workflow(1, "new")).await.unwrap();
    store.update_workflow(&WorkflowRow { version: 2, ..workflow(1, "new") }).await.unwrap();
    for (name, newest_first) in [(None, false), (None, true), (Some("name-9".to_owned()), false)] {
        let filter = WorkflowFilter {
            namespace: namespace.clone(),
            include_archived: false,
            name,
            after: Some(id),
            newest_first,
            limit: 50,
        };
        store.workflows(&filter).await.unwrap();
    }
    store.close().await;

    let after = Scans::of(&url).await;
    let mut whole = after.read_whole_since(&before);
    // As many rows as there are shards and replicas: one page.
    whole.retain(|table, _| !["shards", "replicas"].contains(table));
    assert_eq!(whole, [].into());
    assert_eq!(after.unused_since(&before), [""; 0]);
}

/// Compiling takes longer than all there is to read of tables that are small for ever.
#[tokio::test]
async fn a_statement_that_has_no_index_to_go_by_is_not_compiled_first() {
    let url = Servers::shared().database().await;
    let database = ::store::Database::open(&Database::postgres(url), &super::super::MIGRATIONS).await.unwrap();
    let ::store::Database::Postgres(postgres) = &database else { panic!("it is PostgreSQL") };
    let mut connection = postgres.lend().await.unwrap();
    let plan = "EXPLAIN ANALYZE DELETE FROM replicas WHERE lives_until < now()";
    let lines: Vec<String> = sqlx::query_scalar(plan).fetch_all(&mut *connection).await.unwrap();
    connection.give_back();
    assert!(lines.iter().any(|line| line.contains("Seq Scan")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("JIT")), "{lines:?}");
    database.close().await;
}
