//! Locks that executions share.

use std::collections::BTreeSet;

use domain::ExecutionId;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};
use store::Sqlite;
use workflow::Holder;

use crate::{
    hash::HashSet,
    store::{
        Granted, Held, LockKey, LockOrder, LockRow, id_of, key,
        locks::{Deed, GRANTED_AT_ONCE, holder_of, holder_text, shown},
    },
};

const HELD: &str = "SELECT shards.id, shards.epoch FROM json_each(?) AS claimed JOIN shards ON shards.id = claimed.value ->> 0 \
                    AND shards.epoch = claimed.value ->> 1 WHERE shards.owner = ?";
/// The first who wait get it while there is room for them and all before them.
const GRANT: &str = "WITH first AS (SELECT ticket, most FROM locks WHERE key = ?1 AND NOT granted ORDER BY ticket LIMIT ?2), \
    waiting AS (SELECT ticket, row_number() OVER line AS place, min(most) OVER line AS most FROM first \
                WINDOW line AS (ORDER BY ticket)) \
    UPDATE locks SET granted = 1 WHERE ticket IN (SELECT ticket FROM waiting \
    WHERE place + (SELECT count(*) FROM locks WHERE key = ?1 AND granted) <= most) RETURNING execution_id, holder";

pub(super) async fn change(sqlite: &Sqlite, owner: &str, orders: &[LockOrder]) -> sqlx::Result<Granted> {
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    let mut keys = BTreeSet::new();
    let mut done = Vec::with_capacity(orders.len());
    let held = held(&mut transaction, owner, orders).await?;
    for order in orders.iter().filter(|order| held.contains(&order.held)) {
        perform(&mut transaction, order).await?;
        keys.insert(order.key);
        done.push(order);
    }
    let (mut woken, mut asked) = (Vec::new(), Vec::new());
    for key in keys {
        let rows = sqlx::query(GRANT).bind(key.to_vec()).bind(GRANTED_AT_ONCE).fetch_all(&mut *transaction).await?;
        for row in rows {
            woken.push((id_of(row.try_get(0)?)?, holder_of(row.try_get(1)?)?, key));
        }
    }
    for order in done.into_iter().filter(|order| order.is_acquire()) {
        let query = "SELECT 1 FROM locks WHERE execution_id = ? AND holder = ? AND key = ? AND granted";
        let query = sqlx::query(query).bind(key(order.execution)).bind(holder_text(order.holder));
        if query.bind(order.key.to_vec()).fetch_optional(&mut *transaction).await?.is_some() {
            asked.push((order.execution, order.holder, order.key));
        }
    }
    transaction.commit().await?;
    Ok(Granted::new(asked, woken))
}

async fn held(connection: &mut SqliteConnection, owner: &str, orders: &[LockOrder]) -> sqlx::Result<HashSet<Held>> {
    let claimed: BTreeSet<_> = orders.iter().map(|order| (order.held.shard, order.held.epoch)).collect();
    let claimed = serde_json::to_string(&claimed).unwrap_or_default();
    let rows = sqlx::query(HELD).bind(claimed).bind(owner.to_owned()).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(Held { shard: row.try_get(0)?, epoch: row.try_get(1)? })).collect()
}

async fn perform(connection: &mut SqliteConnection, order: &LockOrder) -> sqlx::Result<()> {
    let (id, holder) = (key(order.execution), holder_text(order.holder));
    match &order.deed {
        Deed::Release => {
            let query = "DELETE FROM locks WHERE execution_id = ? AND holder = ? AND key = ?";
            sqlx::query(query).bind(id).bind(holder).bind(order.key.to_vec()).execute(connection).await.map(drop)
        }
        Deed::Acquire { name, most, at } => {
            let query = "INSERT INTO locks (key, name, execution_id, holder, shard, most, granted, asked_at) \
                         VALUES (?, ?, ?, ?, ?, ?, 0, ?) ON CONFLICT DO NOTHING";
            let query = sqlx::query(query).bind(order.key.to_vec()).bind(shown(name)).bind(id).bind(holder);
            let query = query.bind(order.held.shard).bind(*most).bind(at.as_micros());
            query.execute(connection).await.map(drop)
        }
    }
}

pub(super) async fn rows(sqlite: &Sqlite, shards: &[u32], after: i64, limit: i64) -> sqlx::Result<Vec<LockRow>> {
    let query = "SELECT ticket, execution_id, holder, key, granted, ended_at IS NOT NULL FROM locks \
                 JOIN executions ON executions.id = execution_id \
                 WHERE locks.shard IN (SELECT value FROM json_each(?)) AND ticket > ? ORDER BY ticket LIMIT ?";
    let shards = serde_json::to_string(shards).unwrap_or_default();
    let rows = sqlx::query(query).bind(shards).bind(after).bind(limit).fetch_all(&sqlite.reader).await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &SqliteRow) -> sqlx::Result<LockRow> {
    Ok(LockRow {
        ticket: row.try_get(0)?,
        execution: id_of(row.try_get(1)?)?,
        holder: holder_of(row.try_get(2)?)?,
        key: LockKey::read(row.try_get(3)?)?,
        is_granted: row.try_get(4)?,
        has_ended: row.try_get(5)?,
    })
}

pub(super) async fn places(sqlite: &Sqlite, id: ExecutionId) -> sqlx::Result<Vec<(Holder, u32)>> {
    let query = "SELECT holder, (SELECT count(*) FROM locks AS other WHERE other.key = locks.key AND NOT other.granted \
                 AND other.ticket < locks.ticket) FROM locks WHERE execution_id = ? AND NOT granted";
    let rows = sqlx::query(query).bind(key(id)).fetch_all(&sqlite.reader).await?;
    rows.iter().map(|row| Ok((holder_of(row.try_get(0)?)?, row.try_get::<i64, _>(1)? as u32))).collect()
}
