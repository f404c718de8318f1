//! Tokens of somebody else: verified with the public keys that they publish.
//!
//! Their keys are asked for when they are needed, at most once in [`SELDOM`] however many tokens with unknown keys come, and one
//! request at a time. While they do not answer, the keys that are known go on being good for [`STALE`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use access::{Kind, Permissions, Principal, Reach, Role};
use bytes::BytesMut;
use domain::{Namespace, Timestamp};
use errors::Error;
use jsonwebtoken::{
    DecodingKey, Header, Validation,
    jwk::{JwkSet, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Refused, settings::Issuer, signing::in_time};

/// The shortest time between two requests for keys.
const SELDOM: Duration = Duration::from_secs(10);
/// How long keys are good that could not be asked for again.
const STALE: Duration = Duration::from_hours(24);
/// The largest set of keys, in bytes and in keys.
const MOST_BYTES: usize = 256 * 1024;
const MOST_KEYS: usize = 100;

/// Why another issuer cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("token_issuer cannot be used")]
pub struct IssuerError(#[from] reqwest::Error);

/// Another issuer.
pub(crate) struct Outside {
    settings: Issuer,
    client: reqwest::Client,
    validation: Validation,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: Arc<HashMap<String, DecodingKey>>,
    /// When they came.
    at: Option<Timestamp>,
    /// When they were asked for last.
    asked: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    nbf: Option<i64>,
    scope: Option<String>,
    #[serde(flatten)]
    rest: HashMap<String, Value>,
}

impl Outside {
    pub(crate) fn new(settings: Issuer) -> Result<Self, IssuerError> {
        let client = reqwest::Client::builder()
            .connect_timeout(settings.timeout)
            .timeout(settings.timeout)
            // Who publishes keys does so where it is said: a redirect could lead anywhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let algorithms: Vec<_> = settings.algorithms.iter().map(|algorithm| algorithm.of_jwt()).collect();
        let mut validation = Validation { algorithms, ..Validation::default() };
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // By our clock.
        validation.validate_exp = false;
        Ok(Self { settings, client, validation, state: Mutex::default() })
    }

    /// Who presents this text.
    pub(crate) async fn identify(
        &self,
        token: &str,
        header: &Header,
        now: Timestamp,
    ) -> Result<Result<Principal, Refused>, Error> {
        let Some(kid) = header.kid.as_deref().filter(|_| self.validation.algorithms.contains(&header.alg)) else {
            return Ok(Err(Refused::Invalid));
        };
        let Some(key) = self.key(kid, now).await? else { return Ok(Err(Refused::Invalid)) };
        // One of those that are allowed, and it must be one for this kind of key.
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let Ok(verified) = jsonwebtoken::decode::<Claims>(token, &key, &validation) else {
            return Ok(Err(Refused::Invalid));
        };
        let claims = verified.claims;
        let leeway = self.settings.leeway.as_secs() as i64;
        let in_time = in_time(now, leeway, claims.exp, claims.nbf);
        Ok(in_time.and_then(|()| self.principal(claims).ok_or(Refused::Invalid)))
    }

    /// Whoever it is made out to; nothing where it does not say what they may, and where.
    fn principal(&self, claims: Claims) -> Option<Principal> {
        let text = |claim: &str| claims.rest.get(claim).and_then(Value::as_str);
        let role = text(&self.settings.role_claim)?.parse::<Role>().ok()?;
        let reach = match text(&self.settings.namespace_claim)? {
            "*" => Reach::Everything,
            name => Reach::Namespace(name.parse::<Namespace>().ok()?),
        };
        // An agent has to be bound to itself, which only a key of ours does.
        if role == Role::Agent {
            return None;
        }
        let scopes = claims.scope.as_deref().map(Permissions::known_of).filter(|scopes| !scopes.is_empty());
        Some(Principal::of_role(Kind::Token, claims.sub, role, reach).scoped(scopes))
    }

    async fn key(&self, kid: &str, now: Timestamp) -> Result<Option<DecodingKey>, Error> {
        let mut state = self.state.lock().await;
        let is_within = |at: Option<Timestamp>, time: Duration| at.is_some_and(|at| now.since(at) < time);
        let is_fresh = is_within(state.at, self.settings.refresh);
        if is_fresh && let Some(key) = state.keys.get(kid) {
            return Ok(Some(key.clone()));
        }
        if !is_within(state.asked, SELDOM) {
            state.asked = Some(now);
            match self.fetch().await {
                Ok(keys) => (state.keys, state.at) = (Arc::new(keys), Some(now)),
                Err(error) => {
                    tracing::warn!(error = errors::chain(&*error), "the keys of token_issuer cannot be asked for");
                }
            }
        }
        if is_within(state.at, STALE) {
            return Ok(state.keys.get(kid).cloned());
        }
        let message = "the issuer of tokens cannot be asked for its keys now";
        Err(Error::unavailable("issuer_unavailable", message))
    }

    async fn fetch(&self) -> Result<HashMap<String, DecodingKey>, Box<dyn std::error::Error + Send + Sync>> {
        let mut answer = self.client.get(&self.settings.jwks_url).send().await?.error_for_status()?;
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MOST_BYTES {
                return Err("the set of keys is too large".into());
            }
        }
        let set: JwkSet = serde_json::from_slice(&body)?;
        let usable = set.keys.iter().take(MOST_KEYS).filter_map(|key| {
            let is_for_signatures = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
            let kid = key.common.key_id.clone().filter(|_| is_for_signatures)?;
            DecodingKey::from_jwk(key).ok().map(|key| (kid, key))
        });
        Ok(usable.collect())
    }
}
