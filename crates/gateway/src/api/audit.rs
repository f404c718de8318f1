//! The audit log: read, export, verify.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::stream;
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Page, lasting::Lasting};
use crate::{
    app::App,
    audit::{self, BEGUN, Filter, Row},
    auth::Asking,
    problem::Problem,
    query::Query,
    reply::Reply,
    words::{Head, Instant, Key, Limit, Moment, Name, Position, Status},
};

/// The type of what is exported: a JSON document on each line.
const NDJSON: &str = "application/x-ndjson";
/// Entries that are read at once for an export.
const AT_ONCE: i64 = 500;

/// One entry.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    /// Its place, from 1 on, without gaps.
    seq: i64,
    /// When it was asked for.
    at: Moment,
    /// Who asked, as `key:key_…`; null where nobody known did.
    actor: Option<String>,
    /// Their role.
    role: Option<String>,
    /// The permission that it needs; null where the path is none of the API.
    action: Option<String>,
    /// Method and template of the path.
    route: String,
    /// The path.
    target: String,
    /// The path of what was made; null where nothing was.
    resource: Option<String>,
    /// Of an API key, what it may and where, as `role=… namespace=… scopes=…`; null elsewhere.
    details: Option<String>,
    /// The namespace of what was asked for; null where it is of none.
    namespace: Option<String>,
    /// From where.
    address: String,
    /// `begun`, `done`, `denied`, `failed`; or `unknown`, where it may have been done and nobody has an answer.
    outcome: &'static str,
    /// The answer's status; 499 where the client left before there was one, and null where there is none yet.
    status: Option<u16>,
    /// The failure's code.
    code: Option<String>,
    /// Ties requests together.
    correlation_id: String,
    /// Names the request in the log of the process.
    request_id: String,
    /// Over this entry and the hash of the one before.
    hash: String,
}

impl From<Row> for AuditEntry {
    fn from(row: Row) -> Self {
        let hash = row.hash_text();
        let entry = row.entry;
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let is_read = entry.route.starts_with("GET ") || entry.route.starts_with("HEAD ");
        Self {
            seq: row.seq,
            at: Moment(entry.at),
            actor: text(entry.actor),
            role: text(entry.role),
            action: text(entry.action),
            route: entry.route,
            target: entry.target,
            resource: text(entry.resource),
            details: text(entry.details),
            namespace: text(entry.namespace),
            address: entry.address,
            outcome: match entry.status {
                BEGUN => "begun",
                401 | 403 => "denied",
                // Of what changes nothing, nothing else is noted.
                404 if is_read => "denied",
                499 | 504 => "unknown",
                400.. => "failed",
                _ => "done",
            },
            status: Some(entry.status).filter(|status| *status != BEGUN),
            code: text(entry.code),
            correlation_id: entry.correlation_id,
            request_id: entry.request_id,
            hash,
        }
    }
}

/// Which entries.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditFilter {
    /// Of this actor, as `key:key_…`.
    #[param(inline, required = false, nullable = false)]
    actor: Option<Key>,
    /// That needed this permission.
    #[param(inline, required = false, nullable = false)]
    action: Option<Key>,
    /// In this namespace.
    #[param(inline, required = false, nullable = false)]
    namespace: Option<Name>,
    /// Of this request.
    #[param(inline, required = false, nullable = false)]
    request_id: Option<Key>,
    /// Of requests with this correlation.
    #[param(inline, required = false, nullable = false)]
    correlation_id: Option<Key>,
    /// With this status or a higher one: 400 for all that was not done.
    #[param(inline, required = false, nullable = false)]
    status: Option<Status>,
    /// Not before this.
    #[param(inline, required = false, nullable = false)]
    since: Option<Instant>,
    /// Before this.
    #[param(inline, required = false, nullable = false)]
    until: Option<Instant>,
    /// At most this many; does not bound an export.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<Position>,
}

impl AuditFilter {
    /// Whoever is bound to a namespace reads what concerns it, and no other.
    fn into_filter(self, principal: &access::Principal) -> Result<Filter, Problem> {
        let (own, asked) = (principal.namespace().map(ToString::to_string), self.namespace.map(|name| name.0));
        if let (Some(own), Some(asked)) = (&own, &asked)
            && own != asked
        {
            let detail = "this credential is bound to another namespace";
            return Err(Problem::new(StatusCode::FORBIDDEN, "namespace_forbidden", detail));
        }
        Ok(Filter {
            namespace: own.or(asked),
            actor: self.actor.map(|key| key.0),
            action: self.action.map(|key| key.0),
            request_id: self.request_id.map(|key| key.0),
            correlation_id: self.correlation_id.map(|key| key.0),
            status: self.status.map(|status| status.0 as u16),
            since: self.since.map(|at| at.0),
            until: self.until.map(|at| at.0),
            is_ascending: false,
            after: self.cursor.and_then(|cursor| i64::try_from(cursor.0).ok()),
            limit: 0,
        })
    }
}

/// Read the audit log.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(AuditFilter), responses(
    (status = 200, description = "the newest first", body = Page<AuditEntry>),
))]
pub(crate) async fn list_audit(
    State(app): State<Arc<App>>,
    Asking(principal): Asking,
    Query(filter): Query<AuditFilter>,
) -> Result<Reply, Problem> {
    let size = store::PageSize::from_field(filter.limit.map_or(0, |limit| limit.0));
    let filter = Filter { limit: size.limit(), ..filter.into_filter(&principal)? };
    let (rows, next) = size.cut(app.audit.read(&filter).await?, |row| store::PageToken::after(row.seq));
    Reply::ok(&Page::new(rows.into_iter().map(AuditEntry::from).collect(), next.into_field()))
}

/// Export the audit log.
///
/// What cannot be read any more in the middle breaks the answer off, and so does a credential that is good no more: a whole one has been
/// read to its end.
#[utoipa::path(get, path = "/api/v1/audit/export", tag = "audit", params(AuditFilter), responses(
    (status = 200, description = "the oldest first, an entry on each line", body = String,
     content_type = "application/x-ndjson"),
))]
pub(crate) async fn export_audit(
    State(app): State<Arc<App>>,
    Asking(principal): Asking,
    lasting: Lasting,
    Query(filter): Query<AuditFilter>,
) -> Result<Response, Problem> {
    let filter = Filter { limit: AT_ONCE, is_ascending: true, ..filter.into_filter(&principal)? };
    let first = app.audit.read(&filter).await?;
    let rest =
        stream::try_unfold((app, lasting, filter, Some(first)), |(app, mut lasting, mut filter, read)| async move {
            let rows = match read {
                Some(rows) => rows,
                None => {
                    lasting.check_on().await.map_err(|problem| broken(&problem))?;
                    app.audit.read(&filter).await?
                }
            };
            let Some(last) = rows.last() else { return Ok::<_, errors::Error>(None) };
            filter.after = Some(last.seq);
            let mut lines = Vec::new();
            for row in rows {
                serde_json::to_writer(&mut lines, &AuditEntry::from(row)).map_err(errors::Error::internal)?;
                lines.push(b'\n');
            }
            Ok(Some((Bytes::from(lines), (app, lasting, filter, None))))
        });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(rest)).into_response())
}

/// Why an export breaks off.
fn broken(problem: &Problem) -> errors::Error {
    let message = "the credential that the export was asked for with is not known to be good any more";
    errors::Error::new(errors::Code::Unauthenticated, problem.code(), message)
}

/// What a check is given.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ToVerify {
    /// The head that an earlier check has told: it must still be there.
    #[param(inline, required = false, nullable = false)]
    known: Option<Head>,
}

/// Verify the audit log: is every entry there, and what it was when it was written?
#[utoipa::path(get, path = "/api/v1/audit/verify", tag = "audit", params(ToVerify), responses(
    (status = 200, description = "what was found", body = audit::Verification),
))]
pub(crate) async fn verify_audit(
    State(app): State<Arc<App>>,
    Query(ToVerify { known }): Query<ToVerify>,
) -> Result<Reply, Problem> {
    Reply::ok(&app.audit.verify(known.map(|head| head.0)).await?)
}
