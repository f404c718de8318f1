//! The records' SQL.

mod postgres;
mod sqlite;

use std::sync::Arc;

use ::store::Database;
use async_trait::async_trait;
use domain::Timestamp;
use errors::Error;
use http::StatusCode;

use self::{postgres::PostgresStore, sqlite::SqliteStore};
use crate::reply::Reply;

/// The records in the database that is open.
pub(crate) fn over(database: &Database) -> Arc<dyn Store> {
    match database.clone() {
        Database::Sqlite(sqlite) => Arc::new(SqliteStore::new(sqlite)),
        Database::Postgres(postgres) => Arc::new(PostgresStore::new(postgres)),
    }
}

/// The largest answer that is kept, in bytes; a larger one is made anew from the same id.
const MAX_KEPT: usize = 256 * 1024;
/// Records that one statement of the janitor removes: it must not hold the database for long.
const REMOVED_AT_ONCE: i64 = 1_000;

/// What a key is bound to.
pub(crate) struct Binding<'a> {
    pub(crate) namespace: &'a str,
    /// Whose it is, and as they chose it.
    pub(crate) key: &'a str,
    pub(crate) route: &'a str,
    pub(crate) body_hash: [u8; 32],
}

/// What is known of a request that came before.
pub(crate) struct Kept {
    /// What it created, or will create.
    pub(crate) id: String,
    /// Its answer, where it got one.
    pub(crate) reply: Option<Reply>,
}

/// What became of a reservation.
pub(crate) enum Outcome {
    /// The key is ours, with our id.
    Reserved,
    /// The same request came before.
    Bound(Kept),
    /// The key belongs to another request.
    Other,
}

/// A database of records.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// Binds the key to the request, unless it is bound already.
    async fn reserve(
        &self,
        binding: &Binding<'_>,
        id: &str,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Outcome, Error>;
    /// Keeps the answer, and answers with the one that was kept before, if any.
    async fn keep(&self, binding: &Binding<'_>, id: &str, given: &Reply) -> Result<Option<Reply>, Error>;
    /// Removes what has expired, some at a time.
    async fn remove_expired(&self, now: Timestamp) -> Result<u64, Error>;
}

/// The janitor took it in this very moment: the client's next try reserves.
fn just_expired() -> Error {
    Error::unavailable("idempotency_record_expired", "the Idempotency-Key has just expired; try again")
}

/// A record as it was read: whose it is, and its answer.
struct Found<'a> {
    route: &'a str,
    body_hash: &'a [u8],
    id: String,
    status: Option<i64>,
    location: Option<String>,
    body: Option<Vec<u8>>,
}

impl Found<'_> {
    fn outcome(self, binding: &Binding<'_>) -> Result<Outcome, sqlx::Error> {
        if self.route != binding.route || self.body_hash != binding.body_hash {
            return Ok(Outcome::Other);
        }
        let Some(status) = self.status else { return Ok(Outcome::Bound(Kept { id: self.id, reply: None })) };
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.ok_or_else(|| sqlx::Error::Decode("status is none of HTTP".into()))?;
        let reply =
            Reply { status, location: self.location, tag: None, age: None, body: self.body.unwrap_or_default() };
        Ok(Outcome::Bound(Kept { id: self.id, reply: Some(reply) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    testkit::conformance! {
        expired_records_are_taken_over_and_removed
        the_first_answer_counts
    }

    const ROUTE: &str = "POST /api/v1/agents";

    fn binding(key: &str) -> Binding<'_> {
        Binding { namespace: "default", key, route: ROUTE, body_hash: [7; 32] }
    }

    async fn expired_records_are_taken_over_and_removed(place: settings::Database) {
        let database = crate::store::open(&place).await.unwrap();
        let store = over(&database);
        let at = Timestamp::from_millis;
        assert!(matches!(store.reserve(&binding("k"), "one", at(0), at(10)).await, Ok(Outcome::Reserved)));
        let again = store.reserve(&binding("k"), "two", at(9), at(20)).await;
        assert!(matches!(again, Ok(Outcome::Bound(Kept { id, reply: None })) if id == "one"));
        assert!(matches!(store.reserve(&binding("k"), "two", at(10), at(20)).await, Ok(Outcome::Reserved)));
        assert_eq!(store.remove_expired(at(19)).await.unwrap(), 0);
        assert_eq!(store.remove_expired(at(20)).await.unwrap(), 1);
        database.close().await;
    }

    async fn the_first_answer_counts(place: settings::Database) {
        let database = crate::store::open(&place).await.unwrap();
        let store = over(&database);
        let at = Timestamp::from_millis;
        store.reserve(&binding("k"), "one", at(0), at(10)).await.unwrap();
        let reply =
            |body: &str| Reply { status: StatusCode::CREATED, location: None, tag: None, age: None, body: body.into() };
        assert!(store.keep(&binding("k"), "one", &reply("1")).await.unwrap().is_none());
        let kept = store.keep(&binding("k"), "one", &reply("2")).await.unwrap().unwrap();
        assert_eq!((kept.status, kept.body.as_slice()), (StatusCode::CREATED, b"1".as_slice()));
        database.close().await;
    }

    #[tokio::test]
    async fn no_statement_reads_all_records() {
        let url = testkit::Servers::shared().database().await;
        let place = settings::Database::postgres(url.clone());
        crate::store::open(&place).await.unwrap().close().await;
        let many = "INSERT INTO idempotency_records
            (namespace, idempotency_key, route, body_hash, reserved_id, created_at, expires_at)
            SELECT 'default', 'key ' || n, 'POST /api/v1/agents', '', n::text, 'epoch', 'epoch'::timestamptz + n * interval '1 s'
            FROM generate_series(1, 10000) AS n";
        testkit::fill(&url, "gateway", many).await;
        let before = testkit::Scans::of(&url).await;
        let database = crate::store::open(&place).await.unwrap();
        let (store, at) = (over(&database), Timestamp::from_millis);
        assert!(matches!(store.reserve(&binding("k"), "one", at(0), at(10)).await, Ok(Outcome::Reserved)));
        assert!(matches!(store.reserve(&binding("key 9000"), "two", at(0), at(10)).await, Ok(Outcome::Other)));
        let reply = Reply { status: StatusCode::CREATED, location: None, tag: None, age: None, body: Vec::new() };
        assert!(store.keep(&binding("k"), "one", &reply).await.unwrap().is_none());
        assert_eq!(store.remove_expired(at(100_000)).await.unwrap(), 101);
        database.close().await;
        let after = testkit::Scans::of(&url).await;
        assert_eq!(after.read_whole_since(&before), [].into());
        assert!(!after.unused_since(&before).contains(&"idempotency_records_expiry"));
    }
}
