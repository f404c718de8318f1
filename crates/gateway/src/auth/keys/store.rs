//! The keys' SQL.

use access::{Permissions, Role};
use async_trait::async_trait;
use domain::{AgentId, ApiKeyId, Namespace, Timestamp};
use sqlx::Row as _;

use crate::store::{on_both, parsed, required};

/// What is known of a key, but for its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: ApiKeyId,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) scopes: Option<Permissions>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) agent: Option<AgentId>,
    pub(crate) created_by: String,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
    pub(crate) last_used_at: Option<Timestamp>,
    /// Grows by one when it is rotated or revoked.
    pub(crate) revision: i64,
}

/// One of its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeySecret {
    pub(crate) prefix: String,
    pub(crate) hash: Vec<u8>,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
}

/// Which keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Which<'a> {
    /// Those of this namespace alone.
    pub(crate) namespace: Option<&'a Namespace>,
    pub(crate) after: Option<ApiKeyId>,
    pub(crate) limit: i64,
}

/// A database of keys.
#[async_trait]
pub(crate) trait KeyStore: Send + Sync {
    /// Adds a key with its secret. Nothing where its id is there already.
    async fn add(&self, record: &Record, secret: &KeySecret) -> sqlx::Result<()>;
    /// The key whose secret has this prefix, and that secret.
    async fn find(&self, prefix: &str) -> sqlx::Result<Option<(Record, KeySecret)>>;
    /// One key.
    async fn get(&self, id: ApiKeyId) -> sqlx::Result<Option<Record>>;
    /// Until when the secrets of a key open that are being replaced.
    async fn list(&self, which: &Which<'_>) -> sqlx::Result<Vec<Record>>;
    /// Replaces its secrets by a new one; those that there are open until `overlap` ends. Answers with the key's new revision;
    /// nothing where it is revoked, not there, or not at the expected revision.
    async fn rotate(
        &self,
        id: ApiKeyId,
        expected: Option<i64>,
        fresh: &KeySecret,
        overlap: Timestamp,
    ) -> sqlx::Result<Option<i64>>;
    /// Revokes it, with everything that it was exchanged for. False where it is not there, or not at the expected revision.
    async fn revoke(&self, id: ApiKeyId, expected: Option<i64>, at: Timestamp) -> sqlx::Result<bool>;
    /// Notes when keys were used last.
    async fn note_use(&self, uses: &[(ApiKeyId, Timestamp)]) -> sqlx::Result<()>;
    /// Removes secrets that opened no more at a time.
    async fn remove_expired(&self, now: Timestamp) -> sqlx::Result<u64>;
}

/// A row as a record; for either database.
macro_rules! record {
    ($row:expr) => {{
        let row = $row;
        let text = |column: &str| row.try_get::<Option<String>, _>(column);
        Record {
            id: parsed(&row.try_get::<String, _>("id")?)?,
            name: row.try_get("name")?,
            role: parsed(&row.try_get::<String, _>("role")?)?,
            scopes: text("scopes")?.map(|scopes| Permissions::known_of(&scopes)),
            namespace: text("namespace")?.as_deref().map(parsed).transpose()?,
            agent: text("agent_id")?.as_deref().map(parsed).transpose()?,
            created_by: row.try_get("created_by")?,
            created_at: required(Self::moment(row, "created_at")?)?,
            expires_at: Self::moment(row, "expires_at")?,
            revoked_at: Self::moment(row, "revoked_at")?,
            last_used_at: Self::moment(row, "last_used_at")?,
            revision: row.try_get("revision")?,
        }
    }};
}

const ADD: &str = "INSERT INTO api_keys
    (id, name, role, scopes, namespace, agent_id, created_by, created_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING";
const ADD_SECRET: &str = "INSERT INTO api_key_secrets (prefix, key_id, hash, created_at) VALUES ($1, $2, $3, $4)";
const FIND: &str =
    "SELECT k.id, k.name, k.role, k.scopes, k.namespace, k.agent_id, k.created_by, k.created_at, k.expires_at,
    k.revoked_at, k.last_used_at, k.revision, s.prefix, s.hash, s.created_at AS secret_created_at, s.expires_at AS secret_expires_at
    FROM api_key_secrets s JOIN api_keys k ON k.id = s.key_id WHERE s.prefix = $1";

on_both! {
    impl KeyStore {
        async fn add(&self, record: &Record, secret: &KeySecret) -> sqlx::Result<()> {
            let mut transaction = self.writer().begin_with(Self::BEGIN).await?;
            let added = sqlx::query(ADD)
                .bind(record.id.to_string())
                .bind(&record.name)
                .bind(record.role.as_str())
                .bind(record.scopes.map(|scopes| scopes.to_string()))
                .bind(record.namespace.as_ref().map(Namespace::as_str))
                .bind(record.agent.map(|agent| agent.to_string()))
                .bind(&record.created_by)
                .bind(Self::time(record.created_at))
                .bind(record.expires_at.map(Self::time))
                .execute(&mut *transaction)
                .await?;
            if added.rows_affected() > 0 {
                sqlx::query(ADD_SECRET)
                    .bind(&secret.prefix)
                    .bind(record.id.to_string())
                    .bind(secret.hash.as_slice())
                    .bind(Self::time(secret.created_at))
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await
        }

        async fn find(&self, prefix: &str) -> sqlx::Result<Option<(Record, KeySecret)>> {
            let row = sqlx::query(FIND).bind(prefix).fetch_optional(self.reader()).await?;
            let Some(row) = &row else { return Ok(None) };
            let secret = KeySecret {
                prefix: row.try_get("prefix")?,
                hash: row.try_get("hash")?,
                created_at: required(Self::moment(row, "secret_created_at")?)?,
                expires_at: Self::moment(row, "secret_expires_at")?,
            };
            Ok(Some((record!(row), secret)))
        }

        async fn get(&self, id: ApiKeyId) -> sqlx::Result<Option<Record>> {
            const GET: &str = "SELECT id, name, role, scopes, namespace, agent_id, created_by, created_at, expires_at, revoked_at,
                last_used_at, revision FROM api_keys WHERE id = $1";
            let row = sqlx::query(GET).bind(id.to_string()).fetch_optional(self.reader()).await?;
            let Some(row) = &row else { return Ok(None) };
            Ok(Some(record!(row)))
        }

        async fn list(&self, which: &Which<'_>) -> sqlx::Result<Vec<Record>> {
            const LIST: &str = "SELECT id, name, role, scopes, namespace, agent_id, created_by, created_at, expires_at, revoked_at,
                last_used_at, revision FROM api_keys
                WHERE id > $1 AND (CAST($2 AS TEXT) IS NULL OR namespace = $2) ORDER BY id LIMIT $3";
            let rows = sqlx::query(LIST)
                .bind(which.after.map(|id| id.to_string()).unwrap_or_default())
                .bind(which.namespace.map(Namespace::as_str))
                .bind(which.limit)
                .fetch_all(self.reader())
                .await?;
            rows.iter().map(|row| Ok(record!(row))).collect()
        }

        async fn rotate(
            &self,
            id: ApiKeyId,
            expected: Option<i64>,
            fresh: &KeySecret,
            overlap: Timestamp,
        ) -> sqlx::Result<Option<i64>> {
            const LOCK: &str = "UPDATE api_keys SET revision = revision + 1
                WHERE id = $1 AND revoked_at IS NULL AND revision = COALESCE($2, revision)
                RETURNING revision";
            const EXPIRE: &str = "UPDATE api_key_secrets SET expires_at = $2
                WHERE key_id = $1 AND (expires_at IS NULL OR expires_at > $2)";
            let mut transaction = self.writer().begin_with(Self::BEGIN).await?;
            let id = id.to_string();
            let locked = sqlx::query_scalar(LOCK).bind(&id).bind(expected).fetch_optional(&mut *transaction).await?;
            let Some(revision) = locked else { return Ok(None) };
            sqlx::query(EXPIRE).bind(&id).bind(Self::time(overlap)).execute(&mut *transaction).await?;
            sqlx::query(ADD_SECRET)
                .bind(&fresh.prefix)
                .bind(&id)
                .bind(fresh.hash.as_slice())
                .bind(Self::time(fresh.created_at))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(Some(revision))
        }

        async fn revoke(&self, id: ApiKeyId, expected: Option<i64>, at: Timestamp) -> sqlx::Result<bool> {
            const REVOKE: &str = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $2),
                revision = revision + CASE WHEN revoked_at IS NULL THEN 1 ELSE 0 END
                WHERE id = $1 AND revision = COALESCE($3, revision)";
            let query = sqlx::query(REVOKE).bind(id.to_string()).bind(Self::time(at)).bind(expected);
            let revoked = query.execute(self.writer()).await?;
            Ok(revoked.rows_affected() > 0)
        }

        async fn note_use(&self, uses: &[(ApiKeyId, Timestamp)]) -> sqlx::Result<()> {
            const NOTE: &str = "UPDATE api_keys SET last_used_at = $2
                WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";
            let mut transaction = self.writer().begin_with(Self::BEGIN).await?;
            for (id, at) in uses {
                sqlx::query(NOTE).bind(id.to_string()).bind(Self::time(*at)).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        }

        async fn remove_expired(&self, now: Timestamp) -> sqlx::Result<u64> {
            const REMOVE: &str = "DELETE FROM api_key_secrets WHERE expires_at <= $1";
            Ok(sqlx::query(REMOVE).bind(Self::time(now)).execute(self.writer()).await?.rows_affected())
        }
    }
}
