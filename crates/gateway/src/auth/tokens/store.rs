//! The SQL of what keys were exchanged for.

use async_trait::async_trait;
use domain::Timestamp;
use sqlx::Row as _;

use crate::store::{on_both, required};

/// What one exchange of a key has led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) id: String,
    pub(crate) key_id: String,
    /// As JSON.
    pub(crate) principal: String,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// It, or its key.
    pub(crate) is_revoked: bool,
}

/// A refresh token, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refresh {
    pub(crate) prefix: String,
    pub(crate) family: String,
    pub(crate) hash: Vec<u8>,
    pub(crate) created_at: Timestamp,
}

/// A database of families.
#[async_trait]
pub(crate) trait TokenStore: Send + Sync {
    /// Begins a family with its first refresh token.
    async fn begin(&self, family: &Family, first: &Refresh) -> sqlx::Result<()>;
    /// The family, whether or not it is good.
    async fn family(&self, id: &str) -> sqlx::Result<Option<Family>>;
    /// The refresh token with this prefix.
    async fn refresh(&self, prefix: &str) -> sqlx::Result<Option<Refresh>>;
    /// Uses it up for its successor. False where it was used before: then its family is revoked.
    async fn succeed(&self, used: &Refresh, next: &Refresh, now: Timestamp) -> sqlx::Result<bool>;
    /// Revokes a family.
    async fn revoke(&self, id: &str, at: Timestamp) -> sqlx::Result<()>;
    /// Removes families of which nothing is good any more.
    async fn remove_expired(&self, now: Timestamp) -> sqlx::Result<u64>;
}

const ADD: &str = "INSERT INTO refresh_tokens (prefix, family_id, hash, created_at) VALUES ($1, $2, $3, $4)";
const REVOKE: &str = "UPDATE token_families SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1";
const FAMILY: &str = "SELECT f.id, f.key_id, f.principal, f.created_at, f.expires_at, f.revoked_at,
    k.revoked_at AS key_revoked_at, k.expires_at AS key_expires_at
    FROM token_families f LEFT JOIN api_keys k ON k.id = f.key_id WHERE f.id = $1";

on_both! {
    impl TokenStore {
        async fn begin(&self, family: &Family, first: &Refresh) -> sqlx::Result<()> {
            const BEGIN: &str = "INSERT INTO token_families (id, key_id, principal, created_at, expires_at)
                VALUES ($1, $2, $3, $4, $5)";
            let mut transaction = self.writer().begin_with(Self::BEGIN).await?;
            sqlx::query(BEGIN)
                .bind(&family.id)
                .bind(&family.key_id)
                .bind(&family.principal)
                .bind(Self::time(family.created_at))
                .bind(Self::time(family.expires_at))
                .execute(&mut *transaction)
                .await?;
            sqlx::query(ADD)
                .bind(&first.prefix)
                .bind(&first.family)
                .bind(first.hash.as_slice())
                .bind(Self::time(first.created_at))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        }

        async fn family(&self, id: &str) -> sqlx::Result<Option<Family>> {
            let row = sqlx::query(FAMILY).bind(id).fetch_optional(self.reader()).await?;
            let Some(row) = &row else { return Ok(None) };
            let expires_at = required(Self::moment(row, "expires_at")?)?;
            let revoked = Self::moment(row, "revoked_at")?.or(Self::moment(row, "key_revoked_at")?);
            Ok(Some(Family {
                id: row.try_get("id")?,
                key_id: row.try_get("key_id")?,
                principal: row.try_get("principal")?,
                created_at: required(Self::moment(row, "created_at")?)?,
                // What a key was exchanged for ends with it.
                expires_at: Self::moment(row, "key_expires_at")?.map_or(expires_at, |key| key.min(expires_at)),
                is_revoked: revoked.is_some(),
            }))
        }

        async fn refresh(&self, prefix: &str) -> sqlx::Result<Option<Refresh>> {
            const GET: &str = "SELECT prefix, family_id, hash, created_at FROM refresh_tokens WHERE prefix = $1";
            let row = sqlx::query(GET).bind(prefix).fetch_optional(self.reader()).await?;
            let Some(row) = &row else { return Ok(None) };
            Ok(Some(Refresh {
                prefix: row.try_get("prefix")?,
                family: row.try_get("family_id")?,
                hash: row.try_get("hash")?,
                created_at: required(Self::moment(row, "created_at")?)?,
            }))
        }

        async fn succeed(&self, used: &Refresh, next: &Refresh, now: Timestamp) -> sqlx::Result<bool> {
            const USE: &str = "UPDATE refresh_tokens SET used_at = $2 WHERE prefix = $1 AND used_at IS NULL";
            let mut transaction = self.writer().begin_with(Self::BEGIN).await?;
            let now = Self::time(now);
            let first = sqlx::query(USE).bind(&used.prefix).bind(now).execute(&mut *transaction).await?;
            let is_first = first.rows_affected() > 0;
            if is_first {
                sqlx::query(ADD)
                    .bind(&next.prefix)
                    .bind(&next.family)
                    .bind(next.hash.as_slice())
                    .bind(now)
                    .execute(&mut *transaction)
                    .await?;
            } else {
                sqlx::query(REVOKE).bind(&used.family).bind(now).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(is_first)
        }

        async fn revoke(&self, id: &str, at: Timestamp) -> sqlx::Result<()> {
            sqlx::query(REVOKE).bind(id).bind(Self::time(at)).execute(self.writer()).await.map(drop)
        }

        async fn remove_expired(&self, now: Timestamp) -> sqlx::Result<u64> {
            const REMOVE: &str = "DELETE FROM token_families WHERE expires_at <= $1";
            Ok(sqlx::query(REMOVE).bind(Self::time(now)).execute(self.writer()).await?.rows_affected())
        }
    }
}
