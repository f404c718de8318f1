//! The log's SQL.

use async_trait::async_trait;
use domain::Timestamp;
use sqlx::{QueryBuilder, Row as _};

use super::{Entry, chain};
use crate::hex::hex;
use crate::store::{on_both, required};

/// An entry as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) seq: i64,
    pub(crate) entry: Entry,
    pub(crate) hash: Vec<u8>,
}

impl Row {
    /// In hex.
    pub(crate) fn hash_text(&self) -> String {
        hex(&self.hash)
    }
}

/// Which entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    pub(crate) actor: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) correlation_id: Option<String>,
    /// At least this status: 400 for all that was not done.
    pub(crate) status: Option<u16>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    /// The oldest first.
    pub(crate) is_ascending: bool,
    pub(crate) after: Option<i64>,
    pub(crate) limit: i64,
}

/// A database with the log.
#[async_trait]
pub(crate) trait AuditStore: Send + Sync {
    /// Appends entries, all of them or none. Where that was tried before, and may have been done, those at their beginning that are
    /// there already are left out.
    async fn append(&self, entries: &[&Entry], is_again: bool) -> sqlx::Result<()>;
    /// Reads a part of it.
    async fn read(&self, filter: &Filter) -> sqlx::Result<Vec<Row>>;
}

const LAST: &str = "SELECT seq, hash FROM audit_log ORDER BY seq DESC LIMIT 1";
const FIND: &str = "SELECT 1 FROM audit_log WHERE request_id = $1 AND status = $2 AND at = $3";
const INSERT: &str =
    "INSERT INTO audit_log (seq, at, actor, role, action, route, target, resource, details, namespace, address,
    status, code, correlation_id, request_id, hash) ";
const SELECT: &str =
    "SELECT seq, at, actor, role, action, route, target, resource, details, namespace, address, status, code,
    correlation_id, request_id, hash FROM audit_log WHERE seq ";

/// One that is none was changed by somebody: it must not pass for one that is.
fn status(kept: i64) -> sqlx::Result<u16> {
    u16::try_from(kept).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

on_both! {
    impl AuditStore {
        async fn append(&self, mut entries: &[&Entry], is_again: bool) -> sqlx::Result<()> {
            let mut transaction = self.writer().begin_with(Self::BEGIN).await?;
            // Whoever was writing when the connection was lost has ended by now.
            sqlx::query(Self::LOCK_LOG).execute(&mut *transaction).await?;
            while let Some((first, rest)) = entries.split_first().filter(|_| is_again) {
                let find = sqlx::query(FIND).bind(&first.request_id).bind(i64::from(first.status));
                if find.bind(Self::time(first.at)).fetch_optional(&mut *transaction).await?.is_none() {
                    break;
                }
                entries = rest;
            }
            if entries.is_empty() {
                return Ok(());
            }
            let last = sqlx::query(LAST).fetch_optional(&mut *transaction).await?;
            let (mut seq, mut hash) = match &last {
                Some(row) => (row.try_get::<i64, _>("seq")?, row.try_get::<Vec<u8>, _>("hash")?),
                None => (0, chain::ROOT.to_vec()),
            };
            let mut insert = QueryBuilder::new(INSERT);
            insert.push_values(entries, |mut row, entry| {
                seq += 1;
                hash = chain::hash(&hash, seq, entry).to_vec();
                row.push_bind(seq)
                    .push_bind(Self::time(entry.at))
                    .push_bind(entry.actor.as_str())
                    .push_bind(entry.role.as_str())
                    .push_bind(entry.action.as_str())
                    .push_bind(entry.route.as_str())
                    .push_bind(entry.target.as_str())
                    .push_bind(entry.resource.as_str())
                    .push_bind(entry.details.as_str())
                    .push_bind(entry.namespace.as_str())
                    .push_bind(entry.address.as_str())
                    .push_bind(i64::from(entry.status))
                    .push_bind(entry.code.as_str())
                    .push_bind(entry.correlation_id.as_str())
                    .push_bind(entry.request_id.as_str())
                    .push_bind(hash.clone());
            });
            // As many shapes of it as there are sizes of batches: not worth remembering.
            insert.build().persistent(false).execute(&mut *transaction).await?;
            transaction.commit().await
        }

        async fn read(&self, filter: &Filter) -> sqlx::Result<Vec<Row>> {
            let mut select = QueryBuilder::new(SELECT);
            if filter.is_ascending {
                select.push("> ").push_bind(filter.after.unwrap_or(0));
            } else {
                select.push("< ").push_bind(filter.after.unwrap_or(i64::MAX));
            }
            for (column, wanted) in [
                (" AND namespace = ", &filter.namespace),
                (" AND actor = ", &filter.actor),
                (" AND action = ", &filter.action),
                (" AND request_id = ", &filter.request_id),
                (" AND correlation_id = ", &filter.correlation_id),
            ] {
                if let Some(wanted) = wanted {
                    select.push(column).push_bind(wanted.as_str());
                }
            }
            if let Some(status) = filter.status {
                select.push(" AND status >= ").push_bind(i64::from(status));
            }
            if let Some(since) = filter.since {
                select.push(" AND at >= ").push_bind(Self::time(since));
            }
            if let Some(until) = filter.until {
                select.push(" AND at < ").push_bind(Self::time(until));
            }
            select.push(if filter.is_ascending { " ORDER BY seq LIMIT " } else { " ORDER BY seq DESC LIMIT " });
            select.push_bind(filter.limit);
            let rows = select.build().persistent(false).fetch_all(self.reader()).await?;
            let read = rows.iter().map(|row| {
                let entry = Entry {
                    at: required(Self::moment(row, "at")?)?,
                    actor: row.try_get("actor")?,
                    role: row.try_get("role")?,
                    action: row.try_get("action")?,
                    route: row.try_get("route")?,
                    target: row.try_get("target")?,
                    resource: row.try_get("resource")?,
                    details: row.try_get("details")?,
                    namespace: row.try_get("namespace")?,
                    address: row.try_get("address")?,
                    status: status(row.try_get("status")?)?,
                    code: row.try_get("code")?,
                    correlation_id: row.try_get("correlation_id")?,
                    request_id: row.try_get("request_id")?,
                };
                Ok(Row { seq: row.try_get("seq")?, entry, hash: row.try_get("hash")? })
            });
            read.collect()
        }
    }
}
