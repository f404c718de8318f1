//! The SQL of what keys were exchanged for.

use std::time::Duration;

use async_trait::async_trait;
use domain::Timestamp;
use sqlx::Row as _;

use crate::{
    auth::CONFIGURED,
    store::{OnPostgres, OnSqlite, on_both, required},
};

/// What one exchange of a key has led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) id: String,
    pub(crate) key_id: String,
    /// The prefix of the key's secret that was presented; nothing where the key is the one of the settings.
    pub(crate) secret: Option<String>,
    /// As JSON.
    pub(crate) principal: String,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// It, or its key, or its secret is gone.
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
    /// Begins a family with its first refresh token. False where its key, or that secret of it, opens no more. Of a key's families
    /// that are good the newest [`MOST_OF_A_KEY`] go on being so.
    async fn begin(&self, family: &Family, first: &Refresh) -> sqlx::Result<bool>;
    /// The families with these ids that there are, in no order, whether or not they are good.
    async fn families(&self, ids: &[String]) -> sqlx::Result<Vec<Family>>;
    /// The family, whether or not it is good.
    async fn family(&self, id: &str) -> sqlx::Result<Option<Family>> {
        Ok(self.families(&[id.to_owned()]).await?.pop())
    }
    /// The refresh token with this prefix.
    async fn refresh(&self, prefix: &str) -> sqlx::Result<Option<Refresh>>;
    /// Uses it up for its successor, and forgets those of the family that were used up before. False where it was used before: then its
    /// family is revoked.
    async fn succeed(&self, used: &Refresh, next: &Refresh, now: Timestamp) -> sqlx::Result<bool>;
    /// Revokes a family.
    async fn revoke(&self, id: &str, at: Timestamp) -> sqlx::Result<()>;
    /// Removes families of which nothing is good any more at a time, or that were revoked before another; some at a time.
    async fn remove_expired(&self, now: Timestamp, revoked: Timestamp) -> sqlx::Result<u64>;
}

/// Families of one key that are good at a time: whoever has it may exchange it as often as they like.
pub(super) const MOST_OF_A_KEY: i64 = 1_000;
/// Families that one statement of the janitor removes, with all their tokens: it must not hold the database for long.
const REMOVED_AT_ONCE: i64 = 100;
/// Between two of these.
const PAUSE: Duration = Duration::from_millis(50);

const ADD: &str = "INSERT INTO refresh_tokens (prefix, family_id, hash, created_at) VALUES ($1, $2, $3, $4)";
const REVOKE: &str = "UPDATE token_families SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1";
/// By ids that are `$1` as a JSON array: neither database has a type of lists that the other has.
macro_rules! families {
    ($ids:literal) => {
        concat!(
            "SELECT f.id, f.key_id, f.secret_prefix, f.principal, f.created_at, f.expires_at, f.revoked_at,
            k.revoked_at AS key_revoked_at, k.expires_at AS key_expires_at, s.prefix AS kept_prefix,
            s.expires_at AS secret_expires_at FROM token_families f LEFT JOIN api_keys k ON k.id = f.key_id
            LEFT JOIN api_key_secrets s ON s.prefix = f.secret_prefix AND s.key_id = f.key_id WHERE f.id ",
            $ids
        )
    };
}
const BEGIN_CONFIGURED: &str = "INSERT INTO token_families (id, key_id, principal, created_at, expires_at)
    VALUES ($1, $2, $3, $4, $5)";
/// Nothing where the key or its secret is not good now.
const BEGIN: &str = "INSERT INTO token_families (id, key_id, principal, created_at, expires_at, secret_prefix)
    SELECT $1, k.id, $3, $4, $5, s.prefix FROM api_keys k JOIN api_key_secrets s ON s.key_id = k.id
    WHERE k.id = $2 AND s.prefix = $6 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $4)
    AND (s.expires_at IS NULL OR s.expires_at > $4)";
const CROWDED_OUT: &str = "UPDATE token_families SET revoked_at = $2
    WHERE key_id = $1 AND revoked_at IS NULL AND id NOT IN
    (SELECT id FROM token_families WHERE key_id = $1 AND revoked_at IS NULL ORDER BY created_at DESC, id DESC LIMIT $3)";
const REMOVE_USED: &str = "DELETE FROM refresh_tokens WHERE family_id = $1 AND used_at IS NOT NULL AND prefix <> $2";
const REMOVE_EXPIRED: &str = "DELETE FROM token_families WHERE id IN
    (SELECT id FROM token_families WHERE expires_at <= $1 LIMIT $2)";
const REMOVE_REVOKED: &str = "DELETE FROM token_families WHERE id IN
    (SELECT id FROM token_families WHERE revoked_at <= $1 LIMIT $2)";

impl OnSqlite {
    const FAMILIES: &str = families!("IN (SELECT value FROM json_each($1))");
}

impl OnPostgres {
    const FAMILIES: &str = families!("= ANY(ARRAY(SELECT jsonb_array_elements_text($1::text::jsonb)))");
}

on_both! {
    impl TokenStore {
        async fn begin(&self, family: &Family, first: &Refresh) -> sqlx::Result<bool> {
            let mut transaction = self.writer().begin_with(Self::BEGIN).await?;
            // Nobody revokes or rotates the key before this is written.
            sqlx::query(Self::HOLD_KEY).bind(&family.key_id).execute(&mut *transaction).await?;
            let begin = sqlx::query(if family.secret.is_some() { BEGIN } else { BEGIN_CONFIGURED })
                .bind(&family.id)
                .bind(&family.key_id)
                .bind(&family.principal)
                .bind(Self::time(family.created_at))
                .bind(Self::time(family.expires_at));
            let begin = match &family.secret {
                Some(secret) => begin.bind(secret),
                None => begin,
            };
            if begin.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(false);
            }
            sqlx::query(ADD)
                .bind(&first.prefix)
                .bind(&first.family)
                .bind(first.hash.as_slice())
                .bind(Self::time(first.created_at))
                .execute(&mut *transaction)
                .await?;
            let crowded = sqlx::query(CROWDED_OUT).bind(&family.key_id).bind(Self::time(family.created_at));
            crowded.bind(MOST_OF_A_KEY).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(true)
        }

        async fn families(&self, ids: &[String]) -> sqlx::Result<Vec<Family>> {
            let ids = serde_json::Value::from(ids).to_string();
            let rows = sqlx::query(Self::FAMILIES).bind(ids).fetch_all(self.reader()).await?;
            rows.iter()
                .map(|row| {
                    let secret: Option<String> = row.try_get("secret_prefix")?;
                    let key_id: String = row.try_get("key_id")?;
                    let is_kept = match secret {
                        Some(_) => row.try_get::<Option<String>, _>("kept_prefix")?.is_some(),
                        // A gateway of before notes no secret, so nobody knows whether it still opens.
                        None => key_id.starts_with(CONFIGURED),
                    };
                    let revoked = Self::moment(row, "revoked_at")?.or(Self::moment(row, "key_revoked_at")?);
                    // What a key was exchanged for ends with it, and with the secret that was presented.
                    let ends = [Self::moment(row, "key_expires_at")?, Self::moment(row, "secret_expires_at")?];
                    let expires_at = required(Self::moment(row, "expires_at")?)?;
                    Ok(Family {
                        id: row.try_get("id")?,
                        key_id,
                        secret,
                        principal: row.try_get("principal")?,
                        created_at: required(Self::moment(row, "created_at")?)?,
                        expires_at: ends.into_iter().flatten().fold(expires_at, Timestamp::min),
                        is_revoked: revoked.is_some() || !is_kept,
                    })
                })
                .collect()
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
                let used_up = sqlx::query(REMOVE_USED).bind(&used.family).bind(&used.prefix);
                used_up.execute(&mut *transaction).await?;
            } else {
                sqlx::query(REVOKE).bind(&used.family).bind(now).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(is_first)
        }

        async fn revoke(&self, id: &str, at: Timestamp) -> sqlx::Result<()> {
            sqlx::query(REVOKE).bind(id).bind(Self::time(at)).execute(self.writer()).await.map(drop)
        }

        async fn remove_expired(&self, now: Timestamp, revoked: Timestamp) -> sqlx::Result<u64> {
            let mut removed = 0;
            for (statement, before) in [(REMOVE_EXPIRED, now), (REMOVE_REVOKED, revoked)] {
                loop {
                    let portion = sqlx::query(statement).bind(Self::time(before)).bind(REMOVED_AT_ONCE);
                    let rows = portion.execute(self.writer()).await?.rows_affected();
                    removed += rows;
                    if rows < REMOVED_AT_ONCE.unsigned_abs() {
                        break;
                    }
                    // Others write meanwhile.
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Ok(removed)
        }
    }
}
