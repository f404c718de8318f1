//! API keys: create, look at, rotate, revoke.

use std::{sync::Arc, time::Duration};

use access::{Permissions, Principal};
use axum::{
    Extension,
    extract::{FromRequestParts, State},
    response::{IntoResponse as _, Response},
};
use contracts::registry::v1::GetAgentRequest;
use domain::{Namespace, Timestamp};
use errors::{Error, Violation};
use http::{StatusCode, request::Parts};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Done, Page};
use crate::{
    app::App,
    auth::{Asking, Presented, keys},
    context::IDEMPOTENCY_KEY,
    etag::{IfMatch, IfNoneMatch},
    extract::{Body, OptionalBody, Path},
    fields::Fields,
    middleware::Concerns,
    problem::Problem,
    query::Query,
    reply::Reply,
    words::{AgentId, ApiKeyId, Lifetime, Limit, Moment, Name, Role, Scope, Title},
};

/// How long the secret that was replaced still opens, where nothing is said.
const OVERLAP: Duration = Duration::from_hours(1);

/// A key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "nightly reports", "role": "operator", "namespace": "default", "expires_in": "90d"}))]
pub(crate) struct NewKey {
    /// For people.
    name: Title,
    /// What it is for.
    role: Role,
    /// Of what the role may, these alone; all of it where absent.
    #[serde(default)]
    scopes: Option<Vec<Scope>>,
    /// The only namespace that it opens. Absent: every one, or that of the key with which it is created.
    #[serde(default)]
    namespace: Option<Name>,
    /// With the role `agent`, which one; nobody else may have one.
    #[serde(default)]
    agent_id: Option<AgentId>,
    /// How long it opens; no longer than the key or token with which it is created is good, and as long where absent.
    #[serde(default)]
    expires_in: Option<Lifetime>,
}

/// How to rotate a key.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How long the secret that is replaced still opens; an hour where absent.
    #[serde(default)]
    overlap: Option<Lifetime>,
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKey {
    /// `key_…`
    id: String,
    /// For people.
    name: String,
    /// What it is for.
    role: Role,
    /// What it may do.
    scopes: Vec<Scope>,
    /// The only namespace that it opens; null: every one.
    namespace: Option<String>,
    /// The only agent that may use it; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    agent_id: Option<String>,
    /// Who created it.
    created_by: String,
    /// When.
    created_at: Moment,
    /// Until when it opens.
    expires_at: Option<Moment>,
    /// Since when it opens no more.
    revoked_at: Option<Moment>,
    /// When it was used last, to a minute or so.
    last_used_at: Option<Moment>,
}

/// A key with its secret, which is told once.
#[derive(Serialize, ToSchema)]
pub(crate) struct KeyWithSecret {
    /// What clients present as `X-API-Key`. Nobody can tell it again.
    secret: String,
    /// What it opens.
    key: ApiKey,
}

impl From<keys::Record> for ApiKey {
    fn from(record: keys::Record) -> Self {
        let scopes = record.principal().permissions.iter().map(Scope).collect();
        Self {
            id: record.id.to_string(),
            name: record.name,
            role: Role(record.role),
            scopes,
            namespace: record.namespace.map(|namespace| namespace.to_string()),
            agent_id: record.agent.map(|agent| agent.to_string()),
            created_by: record.created_by,
            created_at: Moment(record.created_at),
            expires_at: record.expires_at.map(Moment),
            revoked_at: record.revoked_at.map(Moment),
            last_used_at: record.last_used_at.map(Moment),
        }
    }
}

/// What a list can tell of each.
type ApiKeyFields = Fields<ApiKey>;

/// Which keys.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// Tell no more of each than these, with commas between them.
    #[param(inline, style = Form, explode = false, required = false, nullable = false)]
    fields: Option<ApiKeyFields>,
    /// At most this many.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<ApiKeyId>,
}

/// An answer that cannot be given again: it has a secret in it, of which only a hash is kept.
pub(crate) struct ToldOnce;

impl FromRequestParts<Arc<App>> for ToldOnce {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        if !parts.headers.contains_key(IDEMPOTENCY_KEY) {
            return Ok(Self);
        }
        let detail = "a key's secret is told once and not kept, so no Idempotency-Key can make the same answer come again: \
                      send the request without, and revoke what was made where no answer came";
        let fault = Violation::new("Idempotency-Key", "idempotency_unsupported", "must be absent here");
        Err(Problem::new(StatusCode::BAD_REQUEST, "idempotency_unsupported", detail).with_violations(vec![fault]))
    }
}

/// Create an API key.
///
/// An agent that it is to be for must be registered in its namespace. The secret is told once, so an `Idempotency-Key` is refused.
#[utoipa::path(post, path = "/api/v1/auth/keys", tag = "access", request_body = NewKey, responses(
    (status = 201, description = "created; the secret is told this once", body = KeyWithSecret,
     headers(("Location" = String, description = "its path")), links(
        ("get" = (operation_id = "get_key", parameters(("id" = "$response.body#/key/id")))),
        ("rotate" = (operation_id = "rotate_key", parameters(("id" = "$response.body#/key/id")))),
        ("revoke" = (operation_id = "revoke_key", parameters(("id" = "$response.body#/key/id")))),
    )),
))]
pub(crate) async fn create_key(
    _: ToldOnce,
    State(app): State<Arc<App>>,
    Asking(principal): Asking,
    Extension(presented): Extension<Presented>,
    Body { value, .. }: Body<NewKey>,
) -> Result<Response, Problem> {
    let now = app.clock.now();
    let is_agent = value.role.0 == access::Role::Agent;
    if is_agent != value.agent_id.is_some() {
        return Err(Problem::field(
            "/agent_id",
            "invalid_value",
            "must be there with the role agent, and with no other",
        ));
    }
    let record = keys::Record {
        id: domain::ApiKeyId::generate(&*app.clock),
        name: value.name.0,
        role: value.role.0,
        scopes: value.scopes.map(|scopes| scopes.into_iter().map(|scope| scope.0).collect::<Permissions>()),
        namespace: namespace(value.namespace, is_agent, &principal)?,
        agent: value.agent_id.map(|id| id.0),
        created_by: principal.to_string(),
        created_at: now,
        expires_at: expiry(value.expires_in.map(|life| now + life.0), presented.until)?,
        revoked_at: None,
        last_used_at: None,
        revision: 1,
    };
    within(&record, &principal)?;
    if let (Some(agent), Some(namespace)) = (record.agent, &record.namespace) {
        at_home(&app, agent, namespace).await?;
    }
    let fresh = app.auth.keys.fresh()?;
    app.auth.keys.add(&record, &fresh).await?;
    let location = format!("/api/v1/auth/keys/{}", record.id);
    let concerns = concerns(&record);
    let reply = with_secret(StatusCode::CREATED, fresh.text, record)?;
    Ok((concerns, reply.at(location).into_secret()).into_response())
}

/// Until when a new key opens: no longer than what it is created with is good, or a day's credential would make one for ever.
fn expiry(asked: Option<Timestamp>, until: Option<Timestamp>) -> Result<Option<Timestamp>, Problem> {
    match (asked, until) {
        (Some(asked), Some(until)) if asked > until => Err(too_long(until)),
        (asked, until) => Ok(asked.or(until)),
    }
}

fn too_long(until: Timestamp) -> Problem {
    let detail =
        format!("the credential of this request is good until {until}, and gives no secret that is good for longer");
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

/// What the audit log says of a key.
fn concerns(record: &keys::Record) -> Extension<Concerns> {
    let scopes = record.scopes.map_or_else(|| "*".to_owned(), |scopes| scopes.to_string().replace(' ', ","));
    let namespace = record.namespace.as_ref().map_or("*", Namespace::as_str);
    let details = format!("role={} namespace={namespace} scopes={scopes}", record.role);
    Extension(Concerns { namespace: record.namespace.clone(), details })
}

/// Refuses an agent that does not live there: its key would open sessions, and send messages, in the name of somebody else's.
async fn at_home(app: &App, agent: domain::AgentId, namespace: &Namespace) -> Result<(), Problem> {
    let request = GetAgentRequest { namespace: namespace.to_string(), agent_id: agent.to_string() };
    app.call(app.agents().get_agent(request)).await?;
    Ok(())
}

/// Where a new key opens: no farther than whoever creates it reaches. An agent is always at home somewhere.
fn namespace(asked: Option<Name>, is_agent: bool, principal: &Principal) -> Result<Option<Namespace>, Problem> {
    let asked = match asked {
        Some(name) => {
            let wrong = |error| Problem::field("/namespace", "invalid_value", error);
            Some(Namespace::from_field(&name.0).map_err(wrong)?)
        }
        None => principal.namespace().cloned().or_else(|| is_agent.then(Namespace::default)),
    };
    if asked.as_ref().is_some_and(|namespace| !principal.reaches(namespace)) {
        let detail = "this credential is bound to another namespace";
        return Err(Problem::new(StatusCode::FORBIDDEN, "namespace_forbidden", detail));
    }
    Ok(asked)
}

/// List API keys.
#[utoipa::path(get, path = "/api/v1/auth/keys", tag = "access", params(Part), responses(
    (status = 200, description = "in the order of their creation, without their secrets", body = Page<ApiKey>),
))]
pub(crate) async fn list_keys(
    State(app): State<Arc<App>>,
    Asking(principal): Asking,
    Query(part): Query<Part>,
) -> Result<Reply, Problem> {
    let size = store::PageSize::from_field(part.limit.map_or(0, |limit| limit.0));
    let after = part.cursor.map(|cursor| cursor.0);
    let which = keys::Which { namespace: principal.namespace(), after, limit: size.limit() };
    let found = app.auth.keys.list(&which).await?;
    let (found, next) = size.cut(found, |record| store::PageToken::after(record.id));
    let page = Page::new(found.into_iter().map(ApiKey::from).collect(), next.into_field());
    Reply::ok(&page)?.with_fields(part.fields.as_ref())
}

/// Get an API key, without its secret.
#[utoipa::path(get, path = "/api/v1/auth/keys/{id}", tag = "access",
    params(("id" = inline(ApiKeyId), Path, description = "the key")),
    responses((status = 200, description = "the key", body = ApiKey)))]
pub(crate) async fn get_key(
    State(app): State<Arc<App>>,
    Asking(principal): Asking,
    Path(id): Path<ApiKeyId>,
    known: IfNoneMatch,
) -> Result<Reply, Problem> {
    let record = find(&app, &principal, &id).await?;
    let revision = record.revision.unsigned_abs();
    Ok(Reply::ok(&ApiKey::from(record))?.tagged(revision, &known))
}

/// Give an API key a new secret.
///
/// The one that it has opens for a while longer, so that clients can be changed one after the other. The new one is told once, so an
/// `Idempotency-Key` is refused.
#[utoipa::path(post, path = "/api/v1/auth/keys/{id}/rotate", tag = "access",
    request_body = inline(Option<Rotation>),
    params(("id" = inline(ApiKeyId), Path, description = "the key")),
    responses((status = 200, description = "the new secret is told this once", body = KeyWithSecret, links(
        ("get" = (operation_id = "get_key", parameters(("id" = "$response.body#/key/id")))),
        ("revoke" = (operation_id = "revoke_key", parameters(("id" = "$response.body#/key/id")))),
    ))))]
pub(crate) async fn rotate_key(
    _: ToldOnce,
    State(app): State<Arc<App>>,
    Asking(principal): Asking,
    Extension(presented): Extension<Presented>,
    Path(id): Path<ApiKeyId>,
    seen: IfMatch,
    OptionalBody { value, .. }: OptionalBody<Rotation>,
) -> Result<Response, Problem> {
    let record = find(&app, &principal, &id).await?;
    within(&record, &principal)?;
    // Nor does somebody get for ever, by another secret, what they have for a day.
    if let Some(until) = presented.until.filter(|until| record.expires_at.is_none_or(|end| end > *until)) {
        return Err(too_long(until));
    }
    let fresh = app.auth.keys.fresh()?;
    let overlap = value.overlap.map_or(OVERLAP, |overlap| overlap.0);
    let rotate = |revision: i64| app.auth.keys.rotate(record.id, non_zero(revision), &fresh, overlap);
    let Some(revision) = seen.change(None, rotate).await? else {
        return Err(Error::conflict("key_revoked", "this API key was revoked").into());
    };
    app.auth.tokens.forget();
    let concerns = concerns(&record);
    let reply = with_secret(StatusCode::OK, fresh.text, keys::Record { revision, ..record })?;
    Ok((concerns, reply.into_secret()).into_response())
}

/// Revoke an API key, and all tokens that it was exchanged for.
#[utoipa::path(delete, path = "/api/v1/auth/keys/{id}", tag = "access",
    params(("id" = inline(ApiKeyId), Path, description = "the key")),
    responses((status = 200, description = "it opens no more, within seconds at every gateway", body = Done)))]
pub(crate) async fn revoke_key(
    State(app): State<Arc<App>>,
    Asking(principal): Asking,
    Path(id): Path<ApiKeyId>,
    seen: IfMatch,
) -> Result<Response, Problem> {
    let record = find(&app, &principal, &id).await?;
    within(&record, &principal)?;
    if !seen.change(None, |revision: i64| app.auth.keys.revoke(record.id, non_zero(revision))).await? {
        return Err(missing(&id));
    }
    app.auth.tokens.forget();
    Ok((concerns(&record), Reply::ok(&Done { message: format!("key {id} revoked") })?).into_response())
}

/// Nobody gives, gets or takes away by a key what they may not do themselves.
fn within(record: &keys::Record, principal: &Principal) -> Result<(), Problem> {
    if record.principal().permissions.is_within(principal.permissions) {
        return Ok(());
    }
    let detail = "this key may do what the credential of this request may not";
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

/// A key with its secret, and the tag of the key without it.
fn with_secret(status: StatusCode, secret: String, record: keys::Record) -> Result<Reply, Problem> {
    let revision = record.revision.unsigned_abs();
    let key = ApiKey::from(record);
    let tag = Reply::ok(&key)?.with_tag(revision).tag;
    Ok(Reply { tag, ..Reply::new(status, &KeyWithSecret { secret, key })? })
}

/// The revision that a client has seen, where it says so.
fn non_zero(revision: i64) -> Option<i64> {
    Some(revision).filter(|revision| *revision != 0)
}

/// A key that whoever asks may see.
async fn find(app: &App, principal: &Principal, id: &ApiKeyId) -> Result<keys::Record, Problem> {
    let found = app.auth.keys.get(id.0).await?;
    let theirs = found.filter(|record| match (principal.namespace(), &record.namespace) {
        (None, _) => true,
        (Some(own), namespace) => namespace.as_ref() == Some(own),
    });
    theirs.ok_or_else(|| missing(id))
}

fn missing(id: &ApiKeyId) -> Problem {
    Error::not_found("key_not_found", format!("there is no API key {id}")).into()
}
