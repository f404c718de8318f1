//! Records in SQLite.

use async_trait::async_trait;
use domain::Timestamp;
use errors::Error;
use sqlx::Row as _;
use store::Sqlite;

use super::{Binding, Found, MAX_KEPT, Outcome, REMOVED_AT_ONCE, Store, just_expired};
use crate::reply::Reply;

/// The table.
pub(super) struct SqliteStore(Sqlite);

impl SqliteStore {
    pub(super) const fn new(database: Sqlite) -> Self {
        Self(database)
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
        let row = row.ok_or_else(just_expired)?;
        let read = || -> Result<Outcome, sqlx::Error> {
            let found = Found {
                route: row.try_get("route")?,
                body_hash: row.try_get("body_hash")?,
                id: row.try_get("reserved_id")?,
                status: row.try_get("status")?,
                location: row.try_get("location")?,
                body: row.try_get("response")?,
            };
            found.outcome(binding)
        };
        read().map_err(store::error)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn reserve(
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

    async fn keep(&self, binding: &Binding<'_>, id: &str, given: &Reply) -> Result<Option<Reply>, Error> {
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

    async fn remove_expired(&self, now: Timestamp) -> Result<u64, Error> {
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
}
