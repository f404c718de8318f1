//! Who writes which shard.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _, sqlite::SqliteRow};
use store::Sqlite;

use crate::store::{Held, Owner, Replica};

/// The clock of the database, in microseconds; with one file all replicas share the machine.
const NOW: &str = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";

fn micros(lease: Duration) -> i64 {
    i64::try_from(lease.as_micros()).unwrap_or(i64::MAX / 4)
}

fn held(row: &SqliteRow) -> sqlx::Result<Held> {
    Ok(Held { shard: row.try_get("id")?, epoch: row.try_get("epoch")? })
}

pub(super) async fn make(sqlite: &Sqlite, count: u32) -> sqlx::Result<u32> {
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    let insert = "WITH RECURSIVE ids (id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM ids WHERE id + 1 < ?) \
                  INSERT INTO shards (id, owner, epoch, lease_until) SELECT id, '', 0, 0 FROM ids \
                  WHERE NOT EXISTS (SELECT 1 FROM shards)";
    sqlx::query(insert).bind(count).execute(&mut *transaction).await?;
    let found = sqlx::query_scalar("SELECT count(*) FROM shards").fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(found)
}

pub(super) async fn announce(sqlite: &Sqlite, replica: &Replica, lease: Duration) -> sqlx::Result<Vec<Replica>> {
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    let write = format!(
        "INSERT INTO replicas (id, address, lives_until) VALUES (?, ?, {NOW} + ?) ON CONFLICT (id) DO UPDATE SET \
         address = excluded.address, lives_until = excluded.lives_until"
    );
    sqlx::query(AssertSqlSafe(write))
        .bind(&replica.id)
        .bind(&replica.address)
        .bind(micros(lease))
        .execute(&mut *transaction)
        .await?;
    // Long gone; a little late is not gone.
    let forget = format!("DELETE FROM replicas WHERE lives_until < {NOW} - 3600000000");
    sqlx::query(AssertSqlSafe(forget)).execute(&mut *transaction).await?;
    let read = format!("SELECT id, address FROM replicas WHERE lives_until > {NOW} ORDER BY id");
    let rows = sqlx::query(AssertSqlSafe(read)).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    rows.iter().map(|row| Ok(Replica { id: row.try_get("id")?, address: row.try_get("address")? })).collect()
}

pub(super) async fn claim(
    sqlite: &Sqlite,
    owner: &str,
    most: usize,
    lease: Duration,
    take_over: bool,
) -> sqlx::Result<Vec<Held>> {
    let update = format!(
        "UPDATE shards SET owner = ?1, epoch = epoch + 1, lease_until = {NOW} + ?2 WHERE id IN \
         (SELECT id FROM shards WHERE owner <> ?1 AND (owner = '' OR lease_until <= {NOW} OR ?3) \
          ORDER BY lease_until, id LIMIT ?4) RETURNING id, epoch"
    );
    let rows = sqlx::query(AssertSqlSafe(update))
        .bind(owner)
        .bind(micros(lease))
        .bind(take_over)
        .bind(most as i64)
        .fetch_all(&sqlite.writer)
        .await?;
    rows.iter().map(held).collect()
}

pub(super) async fn renew(sqlite: &Sqlite, owner: &str, lease: Duration) -> sqlx::Result<Vec<Held>> {
    let update = format!("UPDATE shards SET lease_until = {NOW} + ? WHERE owner = ? RETURNING id, epoch");
    let query = sqlx::query(AssertSqlSafe(update)).bind(micros(lease)).bind(owner);
    query.fetch_all(&sqlite.writer).await?.iter().map(held).collect()
}

pub(super) async fn release(sqlite: &Sqlite, owner: &str, shards: &[u32]) -> sqlx::Result<()> {
    let update =
        "UPDATE shards SET owner = '', lease_until = 0 WHERE owner = ? AND id IN (SELECT value FROM json_each(?))";
    let shards = serde_json::to_string(shards).unwrap_or_default();
    sqlx::query(update).bind(owner).bind(shards).execute(&sqlite.writer).await?;
    Ok(())
}

pub(super) async fn leave(sqlite: &Sqlite, owner: &str) -> sqlx::Result<()> {
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("UPDATE shards SET owner = '', lease_until = 0 WHERE owner = ?")
        .bind(owner)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("DELETE FROM replicas WHERE id = ?").bind(owner).execute(&mut *transaction).await?;
    transaction.commit().await
}

pub(super) async fn owners(sqlite: &Sqlite) -> sqlx::Result<Vec<Owner>> {
    let query = format!(
        "SELECT shards.id AS shard, replicas.id, address FROM shards JOIN replicas ON replicas.id = shards.owner \
         WHERE lease_until > {NOW} ORDER BY shards.id"
    );
    let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&sqlite.reader).await?;
    let owner = |row: &SqliteRow| {
        let replica = Replica { id: row.try_get("id")?, address: row.try_get("address")? };
        Ok(Owner { shard: row.try_get("shard")?, replica })
    };
    rows.iter().map(owner).collect()
}
