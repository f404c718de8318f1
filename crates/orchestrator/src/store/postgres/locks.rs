//! Locks that executions share. Whoever changes the rows of a key holds its advisory lock until the commit, so that tickets are
//! in the order of commits, and a grant sees everybody who holds the lock.

use std::collections::BTreeSet;

use domain::ExecutionId;
use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};
use store::Postgres;
use workflow::Holder;

use super::small;
use crate::{
    hash::HashSet,
    store::{
        Granted, Held, LockKey, LockOrder, LockRow, id_of, key,
        locks::{Deed, GRANTED_AT_ONCE, holder_of, holder_text, rounds, shown},
    },
};

/// Nobody can take a shard before the commit: who was stopped and wakes up changes nothing.
const HELD: &str = "SELECT shards.id, shards.epoch FROM shards JOIN unnest($1::int[], $2::bigint[]) AS claimed (id, epoch) \
                    ON shards.id = claimed.id AND shards.epoch = claimed.epoch WHERE shards.owner = $3 \
                    ORDER BY shards.id FOR SHARE OF shards";
const RELEASE: &str = "DELETE FROM locks USING unnest($1::bytea[], $2::text[], $3::bytea[]) AS given (execution_id, holder, key) \
                       WHERE locks.execution_id = given.execution_id AND locks.holder = given.holder AND locks.key = given.key";
const ACQUIRE: &str = "INSERT INTO locks (key, name, execution_id, holder, shard, most, granted, asked_at) \
                       SELECT key, name, execution_id, holder, shard, most, false, asked_at \
                       FROM unnest($1::bytea[], $2::text[], $3::bytea[], $4::text[], $5::int[], $6::int[], $7::timestamptz[]) \
                            WITH ORDINALITY AS given (key, name, execution_id, holder, shard, most, asked_at, place) \
                       ORDER BY place ON CONFLICT ON CONSTRAINT locks_holder DO NOTHING";
/// The first who wait get it while there is room for them and all before them.
const GRANT: &str = "WITH keys AS (SELECT unnest($1::bytea[]) AS key), \
    holding AS (\
        SELECT key, (SELECT count(*) FROM locks WHERE locks.key = keys.key AND granted) AS holders FROM keys), \
    waiting AS (\
        SELECT key, ticket, row_number() OVER line AS place, min(most) OVER line AS most \
        FROM keys CROSS JOIN LATERAL (\
            SELECT ticket, most FROM locks WHERE locks.key = keys.key AND NOT granted ORDER BY ticket LIMIT $2) AS first \
        WINDOW line AS (PARTITION BY key ORDER BY ticket)) \
    UPDATE locks SET granted = true FROM waiting JOIN holding USING (key) \
    WHERE locks.ticket = waiting.ticket AND holders + place <= waiting.most \
    RETURNING locks.execution_id, locks.holder, locks.key";
const ASKED: &str = "SELECT locks.execution_id, locks.holder, locks.key FROM locks \
                     JOIN unnest($1::bytea[], $2::text[], $3::bytea[]) AS given (execution_id, holder, key) \
                     USING (execution_id, holder, key) WHERE granted";

pub(super) async fn change(postgres: &Postgres, owner: &str, orders: &[LockOrder]) -> sqlx::Result<Granted> {
    let mut connection = postgres.lend().await?;
    let mut transaction = connection.begin().await?;
    let held = held(&mut transaction, owner, orders).await?;
    let orders: Vec<_> = orders.iter().filter(|order| held.contains(&order.held)).collect();
    let keys: BTreeSet<_> = orders.iter().map(|order| order.key).collect();
    // In one order, or two replicas could wait for each other.
    let advisory: BTreeSet<_> = keys.iter().map(|key| key.advisory()).collect();
    sqlx::query("SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS key")
        .bind(advisory.into_iter().collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
    for round in rounds(&orders) {
        let (acquires, releases): (Vec<_>, Vec<_>) = round.into_iter().partition(|order| order.is_acquire());
        release(&mut transaction, &releases).await?;
        acquire(&mut transaction, &acquires).await?;
    }
    let woken = sqlx::query(GRANT)
        .bind(keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>())
        .bind(GRANTED_AT_ONCE)
        .fetch_all(&mut *transaction)
        .await?;
    let acquires: Vec<_> = orders.iter().filter(|order| order.is_acquire()).copied().collect();
    let (ids, holders, keys) = names(&acquires);
    let asked = sqlx::query(ASKED).bind(ids).bind(holders).bind(keys).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    connection.give_back();
    let rows = |rows: Vec<PgRow>| rows.iter().map(granted).collect::<sqlx::Result<Vec<_>>>();
    Ok(Granted::new(rows(asked)?, rows(woken)?))
}

fn granted(row: &PgRow) -> sqlx::Result<(ExecutionId, Holder, LockKey)> {
    Ok((id_of(row.try_get(0)?)?, holder_of(row.try_get(1)?)?, LockKey::read(row.try_get(2)?)?))
}

async fn held(connection: &mut PgConnection, owner: &str, orders: &[LockOrder]) -> sqlx::Result<HashSet<Held>> {
    let claimed: BTreeSet<_> = orders.iter().map(|order| order.held).collect();
    let (ids, epochs): (Vec<_>, Vec<_>) = claimed.iter().map(|held| (held.shard as i32, held.epoch)).unzip();
    let rows = sqlx::query(HELD).bind(ids).bind(epochs).bind(owner).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(Held { shard: small(row.try_get(0)?)?, epoch: row.try_get(1)? })).collect()
}

/// Who, as columns.
fn names(orders: &[&LockOrder]) -> (Vec<Vec<u8>>, Vec<String>, Vec<Vec<u8>>) {
    let ids = orders.iter().map(|order| key(order.execution)).collect();
    let holders = orders.iter().map(|order| holder_text(order.holder)).collect();
    (ids, holders, orders.iter().map(|order| order.key.to_vec()).collect())
}

async fn release(connection: &mut PgConnection, orders: &[&LockOrder]) -> sqlx::Result<()> {
    if orders.is_empty() {
        return Ok(());
    }
    let (ids, holders, keys) = names(orders);
    sqlx::query(RELEASE).bind(ids).bind(holders).bind(keys).execute(connection).await.map(drop)
}

async fn acquire(connection: &mut PgConnection, orders: &[&LockOrder]) -> sqlx::Result<()> {
    let (mut shards, mut texts, mut mosts, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for order in orders {
        if let Deed::Acquire { name, most, at } = &order.deed {
            shards.push(order.held.shard as i32);
            texts.push(shown(name));
            mosts.push(i32::try_from(*most).unwrap_or(i32::MAX));
            times.push(at.to_datetime());
        }
    }
    if shards.is_empty() {
        return Ok(());
    }
    let (ids, holders, keys) = names(orders);
    let query =
        sqlx::query(ACQUIRE).bind(keys).bind(texts).bind(ids).bind(holders).bind(shards).bind(mosts).bind(times);
    query.execute(connection).await.map(drop)
}

pub(super) async fn rows(postgres: &Postgres, shards: &[u32], after: i64, limit: i64) -> sqlx::Result<Vec<LockRow>> {
    let shards: Vec<_> = shards.iter().map(|shard| *shard as i32).collect();
    let query = "SELECT ticket, execution_id, holder, key, granted, ended_at IS NOT NULL FROM locks \
                 JOIN executions ON executions.id = execution_id \
                 WHERE locks.shard = ANY($1) AND ticket > $2 ORDER BY ticket LIMIT $3";
    let mut connection = postgres.lend().await?;
    let rows = sqlx::query(query).bind(shards).bind(after).bind(limit).fetch_all(&mut *connection).await;
    connection.give_back();
    rows?.iter().map(decode).collect()
}

fn decode(row: &PgRow) -> sqlx::Result<LockRow> {
    Ok(LockRow {
        ticket: row.try_get(0)?,
        execution: id_of(row.try_get(1)?)?,
        holder: holder_of(row.try_get(2)?)?,
        key: LockKey::read(row.try_get(3)?)?,
        is_granted: row.try_get(4)?,
        has_ended: row.try_get(5)?,
    })
}

pub(super) async fn places(postgres: &Postgres, id: ExecutionId) -> sqlx::Result<Vec<(Holder, u32)>> {
    let query = "SELECT holder, (SELECT count(*) FROM locks AS other WHERE other.key = locks.key AND NOT other.granted \
                 AND other.ticket < locks.ticket) FROM locks WHERE execution_id = $1 AND NOT granted";
    let mut connection = postgres.lend().await?;
    let rows = sqlx::query(query).bind(key(id)).fetch_all(&mut *connection).await;
    connection.give_back();
    let place = |row: &PgRow| Ok((holder_of(row.try_get(0)?)?, row.try_get::<i64, _>(1)? as u32));
    rows?.iter().map(place).collect()
}
