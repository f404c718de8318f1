//! Tokens: get them for a key, renew them, revoke them; and who one is.

use std::sync::Arc;

use ::access::{Permission, Permissions, Rule};
use axum::{Extension, extract::State, response::Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Done;
use crate::{
    access,
    app::App,
    auth::{self, Asking, Presented, tokens},
    context::Found,
    extract::Body,
    problem::Problem,
    reply::Reply,
    words::{Key, Role, Scope},
};

/// What tokens are given for.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Grant {
    /// The API key of the request.
    ApiKey,
    /// A refresh token, which is used up.
    RefreshToken,
}

/// Asks for tokens.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"grant_type": "api_key"}))]
pub(crate) struct TokenRequest {
    /// What for.
    grant_type: Grant,
    /// With `refresh_token`, that.
    #[serde(default)]
    refresh_token: Option<Key>,
    /// With `api_key`: of what the key may, these alone.
    #[serde(default)]
    scopes: Option<Vec<Scope>>,
}

/// Tokens, as OAuth 2 names them (RFC 6749).
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenPair {
    /// What clients present as `authorization: Bearer …`.
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds until it expires.
    expires_in: u64,
    /// Good once, for the next pair.
    refresh_token: String,
    /// What it may do, with spaces in between.
    scope: String,
}

/// A token to revoke.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenToRevoke {
    /// An access token or a refresh token.
    token: String,
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Identity {
    /// `anonymous`, `key`, `token`, or `issuer` with a token of another issuer.
    kind: &'static str,
    /// A key's id, or what an issuer calls them.
    subject: String,
    /// Their role.
    role: Option<Role>,
    /// What they may do.
    scopes: Vec<Scope>,
    /// The only namespace in which they may; null: every one.
    namespace: Option<String>,
    /// The only agent that they may work as; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    agent_id: Option<String>,
}

/// Exchange an API key, or a refresh token, for an access token.
///
/// A refresh token is good once. One that comes twice was stolen, by whoever comes first or second: everything that comes of the same
/// exchange is revoked then.
#[utoipa::path(post, path = "/api/v1/auth/token", tag = "access", request_body = TokenRequest,
    responses((status = 200, description = "the tokens", body = TokenPair, links(
        ("renew" = (operation_id = "issue_token",
            request_body = json!({"grant_type": "refresh_token", "refresh_token": "$response.body#/refresh_token"}))),
        ("revoke" = (operation_id = "revoke_token", request_body = json!({"token": "$response.body#/refresh_token"}))),
    ))))]
pub(crate) async fn issue_token(
    State(app): State<Arc<App>>,
    Extension(found): Extension<Found>,
    presented: Option<Extension<Presented>>,
    Body { value, .. }: Body<TokenRequest>,
) -> Result<Response, Problem> {
    let pair = match value.grant_type {
        Grant::ApiKey => {
            let principal = found.principal().ok_or_else(auth::unauthenticated)?;
            if principal.kind != ::access::Kind::Key {
                return Err(auth::unauthenticated());
            }
            access::authorize(Rule::of(Permission::Own), principal)?;
            let scopes = value.scopes.map(|scopes| scopes.into_iter().map(|scope| scope.0).collect::<Permissions>());
            let secret = presented.as_ref().and_then(|Extension(presented)| presented.secret.as_deref());
            app.auth.tokens.exchange(principal, secret, scopes).await?.map_err(auth::refusal)?
        }
        Grant::RefreshToken => {
            let missing = || Problem::field("/refresh_token", "missing_field", "must be there");
            let token = value.refresh_token.ok_or_else(missing)?;
            let pair = app.auth.tokens.refresh(&token.0).await?.map_err(auth::refusal)?;
            // It is made out to whoever has exchanged the key.
            let key = pair.principal.subject.as_str().into();
            found.note(Arc::new(pair.principal.clone()), Some(key));
            pair
        }
    };
    let tokens::Pair { access, refresh, expires_in, principal } = pair;
    let reply = Reply::ok(&TokenPair {
        access_token: access,
        token_type: "Bearer",
        expires_in: expires_in.as_secs(),
        refresh_token: refresh,
        scope: principal.permissions.to_string(),
    })?;
    Ok(reply.into_secret())
}

/// Revoke a token, and all that comes of the same exchange. What is no token is revoked already.
#[utoipa::path(post, path = "/api/v1/auth/revoke", tag = "access", request_body = TokenToRevoke,
    responses((status = 200, description = "it is good no more, within seconds at every gateway", body = Done)))]
pub(crate) async fn revoke_token(
    State(app): State<Arc<App>>,
    Body { value, .. }: Body<TokenToRevoke>,
) -> Result<Reply, Problem> {
    // As RFC 7009 has it (2.2): nobody is told whether it was one, but that one goes on being good they are (2.2.1).
    if !app.auth.tokens.revoke(&value.token).await? && app.auth.tokens.identify(&value.token).await?.is_ok() {
        let detail = "this token is another issuer's, and good until it expires";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "token_not_revocable", detail));
    }
    Reply::ok(&Done { message: "the token is good no more".to_owned() })
}

/// Who one is, and what one may do.
#[utoipa::path(get, path = "/api/v1/auth/me", tag = "access",
    responses((status = 200, description = "what the credential of the request says", body = Identity)))]
pub(crate) async fn who_am_i(Asking(principal): Asking) -> Result<Reply, Problem> {
    Reply::ok(&Identity {
        kind: principal.kind.as_str(),
        subject: principal.subject.clone(),
        role: principal.role.map(Role),
        scopes: principal.permissions.iter().map(Scope).collect(),
        namespace: principal.namespace().map(ToString::to_string),
        agent_id: principal.agent.map(|agent| agent.to_string()),
    })
}
