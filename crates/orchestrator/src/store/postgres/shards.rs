//! Who writes which shard. All times are the database's: the clocks of replicas need not agree.

use std::time::Duration;

use sqlx::{
    Connection as _, Row as _,
    postgres::{PgRow, types::PgInterval},
};
use store::Postgres;

use super::small;
use crate::store::{Held, Owner, Replica};

/// The advisory lock under which shards change hands: replicas that start together must not all take what is free.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('troupe.shards'))";

fn interval(lease: Duration) -> PgInterval {
    let microseconds = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

fn held(row: &PgRow) -> sqlx::Result<Held> {
    Ok(Held { shard: small(row.try_get("id")?)?, epoch: row.try_get("epoch")? })
}

fn numbers(shards: &[u32]) -> Vec<i32> {
    shards.iter().map(|shard| *shard as i32).collect()
}

pub(super) async fn make(postgres: &Postgres, count: u32) -> sqlx::Result<u32> {
    let mut connection = postgres.lend().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *transaction).await?;
    let insert = "INSERT INTO shards (id, owner, epoch, lease_until) SELECT id, '', 0, now() \
                  FROM generate_series(0, $1 - 1) AS id WHERE NOT EXISTS (SELECT 1 FROM shards)";
    sqlx::query(insert).bind(count as i32).execute(&mut *transaction).await?;
    let found: i64 = sqlx::query_scalar("SELECT count(*) FROM shards").fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    connection.give_back();
    Ok(found as u32)
}

pub(super) async fn announce(postgres: &Postgres, replica: &Replica, lease: Duration) -> sqlx::Result<Vec<Replica>> {
    let mut connection = postgres.lend().await?;
    let mut transaction = connection.begin().await?;
    let write = "INSERT INTO replicas (id, address, lives_until) VALUES ($1, $2, now() + $3) ON CONFLICT (id) DO UPDATE \
                 SET address = excluded.address, lives_until = excluded.lives_until";
    sqlx::query(write)
        .bind(&replica.id)
        .bind(&replica.address)
        .bind(interval(lease))
        .execute(&mut *transaction)
        .await?;
    // Long gone; a little late is not gone.
    sqlx::query("DELETE FROM replicas WHERE lives_until < now() - interval '1 hour'")
        .execute(&mut *transaction)
        .await?;
    let rows = sqlx::query("SELECT id, address FROM replicas WHERE lives_until > now() ORDER BY id")
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    connection.give_back();
    rows.iter().map(|row| Ok(Replica { id: row.try_get("id")?, address: row.try_get("address")? })).collect()
}

pub(super) async fn claim(
    postgres: &Postgres,
    owner: &str,
    most: usize,
    lease: Duration,
    take_over: bool,
) -> sqlx::Result<Vec<Held>> {
    let mut connection = postgres.lend().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *transaction).await?;
    let update = "UPDATE shards SET owner = $1, epoch = epoch + 1, lease_until = now() + $2 WHERE id IN \
                  (SELECT id FROM shards WHERE owner <> $1 AND (owner = '' OR lease_until <= now() OR $3) \
                   ORDER BY lease_until, id LIMIT $4) RETURNING id, epoch";
    let rows = sqlx::query(update)
        .bind(owner)
        .bind(interval(lease))
        .bind(take_over)
        .bind(most as i64)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    connection.give_back();
    rows.iter().map(held).collect()
}

pub(super) async fn renew(postgres: &Postgres, owner: &str, lease: Duration) -> sqlx::Result<Vec<Held>> {
    // Rows in one order: appends of this very replica hold share locks on them.
    let update = "UPDATE shards SET lease_until = now() + $2 WHERE id IN \
                  (SELECT id FROM shards WHERE owner = $1 ORDER BY id FOR UPDATE) AND owner = $1 RETURNING id, epoch";
    let mut connection = postgres.lend().await?;
    let rows = sqlx::query(update).bind(owner).bind(interval(lease)).fetch_all(&mut *connection).await;
    connection.give_back();
    rows?.iter().map(held).collect()
}

pub(super) async fn release(postgres: &Postgres, owner: &str, shards: &[u32]) -> sqlx::Result<()> {
    let update = "UPDATE shards SET owner = '', lease_until = now() WHERE owner = $1 AND id = ANY($2)";
    let mut connection = postgres.lend().await?;
    let done = sqlx::query(update).bind(owner).bind(numbers(shards)).execute(&mut *connection).await;
    connection.give_back();
    done.map(drop)
}

pub(super) async fn leave(postgres: &Postgres, owner: &str) -> sqlx::Result<()> {
    let mut connection = postgres.lend().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query("UPDATE shards SET owner = '', lease_until = now() WHERE owner = $1")
        .bind(owner)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("DELETE FROM replicas WHERE id = $1").bind(owner).execute(&mut *transaction).await?;
    transaction.commit().await?;
    connection.give_back();
    Ok(())
}

pub(super) async fn owners(postgres: &Postgres) -> sqlx::Result<Vec<Owner>> {
    let query = "SELECT shards.id AS shard, replicas.id, address FROM shards JOIN replicas ON replicas.id = shards.owner \
                 WHERE lease_until > now() ORDER BY shards.id";
    let mut connection = postgres.lend().await?;
    let rows = sqlx::query(query).fetch_all(&mut *connection).await;
    connection.give_back();
    let owner = |row: &PgRow| {
        let replica = Replica { id: row.try_get("id")?, address: row.try_get("address")? };
        Ok(Owner { shard: small(row.try_get("shard")?)?, replica })
    };
    rows?.iter().map(owner).collect()
}
