//! The records' SQL.

use domain::Timestamp;
use errors::Error;
use http::StatusCode;
use sqlx::Row as _;
use store::Sqlite;

use crate::reply::Reply;

/// The largest answer that is kept, in bytes; a larger one is made anew from the same id.
const MAX_KEPT: usize = 256 * 1024;
/// Records that one statement of the janitor removes: it must not hold the writer for long.
const REMOVED_AT_ONCE: i64 = 1_000;

/// What a key is bound to.
pub(super) struct Binding<'a> {
    pub(super) namespace: &'a str,
    pub(super) key: &'a str,
    pub(super) route: &'a str,
    pub(super) body_hash: [u8; 32],
}

/// What is known of a request that came before.
pub(super) struct Kept {
    /// What it created, or will create.
    pub(super) id: String,
    /// Its answer, where it got one.
    pub(super) reply: Option<Reply>,
}

/// What became of a reservation.
pub(super) enum Outcome {
    /// The key is ours, with our id.
    Reserved,
    /// The same request came before.
    Bound(Kept),
    /// The key belongs to another request.
    Other,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Store(Sqlite);

impl Store {
    pub(crate) const fn new(database: Sqlite) -> Self {
        Self(database)
    }

    /// Binds the key to the request, unless it is bound already.
    pub(super) async fn reserve(
        &self,
        binding: &Binding<'_>,
        id: &str,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Outcome, Error> {
        const RESERVE: &str = "INSERT INTO idempotency_records
            (namespace, idempotency_key, route, body_hash, reserved_id, created_at, expires_at)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (namespace, idempotency_key) DO UPDATE SET
                route = excluded.route, body_hash = excluded.body_hash, reserved_id = excluded.reserved_id,
                status = NULL, location = NULL, response = NULL,
                created_at = excluded.created_at, expires_at = excluded.expires_at
            WHERE idempotency_records.expires_at <= excluded.created_at";
        let written = sqlx::query(RESERVE)
            .bind(binding.namespace)
            .bind(binding.key)
            .bind(binding.route)
            .bind(binding.body_hash.as_slice())
            .bind(id)
            .bind(now.as_micros())
            .bind(expires_at.as_micros())
            .execute(&self.0.writer)
            .await
            .map_err(store::error)?;
        if written.rows_affected() > 0 {
            return Ok(Outcome::Reserved);
        }
        self.find(binding).await
    }

    async fn find(&self, binding: &Binding<'_>) -> Result<Outcome, Error> {
        const FIND: &str = "SELECT route, body_hash, reserved_id, status, location, response FROM idempotency_records
            WHERE namespace = ? AND idempotency_key = ?";
        let row = sqlx::query(FIND)
            .bind(binding.namespace)
            .bind(binding.key)
            .fetch_optional(&self.0.reader)
            .await
            .map_err(store::error)?;
        // The janitor took it in this very moment: the client's next try reserves.
        let Some(row) = row else {
            return Err(Error::unavailable(
                "idempotency_record_expired",
                "the Idempotency-Key has just expired; try again",
            ));
        };
        let read = || -> Result<Outcome, sqlx::Error> {
            let (route, body_hash): (&str, &[u8]) = (row.try_get("route")?, row.try_get("body_hash")?);
            if route != binding.route || body_hash != binding.body_hash {
                return Ok(Outcome::Other);
            }
            Ok(Outcome::Bound(Kept { id: row.try_get("reserved_id")?, reply: reply(&row)? }))
        };
        read().map_err(store::error)
    }

    /// Keeps the answer, and answers with the one that was kept before, if any.
    pub(super) async fn keep(&self, binding: &Binding<'_>, id: &str, given: &Reply) -> Result<Option<Reply>, Error> {
        const KEEP: &str = "UPDATE idempotency_records SET status = ?, location = ?, response = ?
            WHERE namespace = ? AND idempotency_key = ? AND reserved_id = ? AND status IS NULL";
        if given.body.len() > MAX_KEPT {
            return Ok(None);
        }
        let written = sqlx::query(KEEP)
            .bind(i64::from(given.status.as_u16()))
            .bind(given.location.as_deref())
            .bind(given.body.as_slice())
            .bind(binding.namespace)
            .bind(binding.key)
            .bind(id)
            .execute(&self.0.writer)
            .await
            .map_err(store::error)?;
        if written.rows_affected() > 0 {
            return Ok(None);
        }
        match self.find(binding).await? {
            Outcome::Bound(kept) => Ok(kept.reply),
            Outcome::Reserved | Outcome::Other => Ok(None),
        }
    }

    /// Removes what has expired, some at a time.
    pub(super) async fn remove_expired(&self, now: Timestamp) -> Result<u64, Error> {
        const REMOVE: &str = "DELETE FROM idempotency_records WHERE (namespace, idempotency_key) IN
            (SELECT namespace, idempotency_key FROM idempotency_records WHERE expires_at <= ? LIMIT ?)";
        let mut removed = 0;
        loop {
            let statement = sqlx::query(REMOVE).bind(now.as_micros()).bind(REMOVED_AT_ONCE);
            let rows = statement.execute(&self.0.writer).await.map_err(store::error)?.rows_affected();
            removed += rows;
            if rows < REMOVED_AT_ONCE.unsigned_abs() {
                return Ok(removed);
            }
        }
    }

    pub(super) async fn close(&self) {
        self.0.close().await;
    }
}

fn reply(row: &sqlx::sqlite::SqliteRow) -> Result<Option<Reply>, sqlx::Error> {
    let Some(status) = row.try_get::<Option<i64>, _>("status")? else { return Ok(None) };
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| sqlx::Error::Decode("status is none of HTTP".into()))?;
    let body: Option<Vec<u8>> = row.try_get("response")?;
    Ok(Some(Reply { status, location: row.try_get("location")?, body: body.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "POST /api/v1/agents";

    async fn open(folder: &tempfile::TempDir) -> Store {
        let settings = settings::Database { path: folder.path().join("gateway.db"), ..settings::Database::default() };
        Store(Sqlite::open(&settings, &crate::MIGRATIONS).await.unwrap())
    }

    fn binding(key: &str) -> Binding<'_> {
        Binding { namespace: "default", key, route: ROUTE, body_hash: [7; 32] }
    }

    #[tokio::test]
    async fn expired_records_are_taken_over_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        let at = Timestamp::from_millis;
        assert!(matches!(store.reserve(&binding("k"), "one", at(0), at(10)).await, Ok(Outcome::Reserved)));
        let again = store.reserve(&binding("k"), "two", at(9), at(20)).await;
        assert!(matches!(again, Ok(Outcome::Bound(Kept { id, reply: None })) if id == "one"));
        assert!(matches!(store.reserve(&binding("k"), "two", at(10), at(20)).await, Ok(Outcome::Reserved)));
        assert_eq!(store.remove_expired(at(19)).await.unwrap(), 0);
        assert_eq!(store.remove_expired(at(20)).await.unwrap(), 1);
        store.close().await;
    }

    #[tokio::test]
    async fn the_first_answer_counts() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        let at = Timestamp::from_millis;
        store.reserve(&binding("k"), "one", at(0), at(10)).await.unwrap();
        let reply = |body: &str| Reply { status: StatusCode::CREATED, location: None, body: body.into() };
        assert!(store.keep(&binding("k"), "one", &reply("1")).await.unwrap().is_none());
        let kept = store.keep(&binding("k"), "one", &reply("2")).await.unwrap().unwrap();
        assert_eq!((kept.status, kept.body.as_slice()), (StatusCode::CREATED, b"1".as_slice()));
        store.close().await;
    }
}
