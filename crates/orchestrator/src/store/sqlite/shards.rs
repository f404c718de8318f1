//! Who writes which shard.

use domain::Timestamp;
use store::Sqlite;

use crate::store::Leased;

pub(super) async fn lease(
    sqlite: &Sqlite,
    owner: &str,
    count: u32,
    now: Timestamp,
    until: Timestamp,
    take_over: bool,
) -> sqlx::Result<Leased> {
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    let found: i64 = sqlx::query_scalar("SELECT count(*) FROM shards").fetch_one(&mut *transaction).await?;
    if found == 0 {
        let insert = "WITH RECURSIVE ids (id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM ids WHERE id + 1 < ?) \
                      INSERT INTO shards (id, owner, epoch, lease_until) SELECT id, '', 0, 0 FROM ids";
        sqlx::query(insert).bind(count).execute(&mut *transaction).await?;
    }
    let others: i64 = sqlx::query_scalar("SELECT count(*) FROM shards WHERE owner <> ? AND lease_until > ?")
        .bind(owner.to_owned())
        .bind(now.as_micros())
        .fetch_one(&mut *transaction)
        .await?;
    if others > 0 && !take_over {
        return Ok(Leased::Others(others as usize));
    }
    sqlx::query("UPDATE shards SET owner = ?, epoch = epoch + 1, lease_until = ?")
        .bind(owner.to_owned())
        .bind(until.as_micros())
        .execute(&mut *transaction)
        .await?;
    let epochs = sqlx::query_scalar("SELECT epoch FROM shards ORDER BY id").fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Leased::Shards(epochs))
}

pub(super) async fn renew(sqlite: &Sqlite, owner: &str, until: Timestamp) -> sqlx::Result<u64> {
    let renewed = sqlx::query("UPDATE shards SET lease_until = ? WHERE owner = ?")
        .bind(until.as_micros())
        .bind(owner.to_owned())
        .execute(&sqlite.writer)
        .await?;
    Ok(renewed.rows_affected())
}
