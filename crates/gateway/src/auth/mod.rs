//! Who asks: by an API key, by a token, or by nothing where nobody has to say who they are.
//!
//! A credential that is presented is looked at, also where none is demanded: one that is wrong is refused, so that nobody
//! believes to be somebody else than they are.

pub(crate) mod agreed;
pub(crate) mod keys;
mod lookups;
mod minted;
pub(crate) mod remembered;
mod secret;
pub(crate) mod tokens;

use std::sync::Arc;

use access::{Kind, Principal, Reach, Role, RootSecret};
use domain::{Clock, Timestamp};
use errors::Error;
use http::{HeaderMap, HeaderValue, StatusCode, header};

pub use self::secret::{SecretError, secret};
use self::{
    agreed::{AgreedStore, agree},
    keys::{Closed, KeyStore, Keys},
    tokens::{Outside, Parts, Refused, TokenStore, Tokens},
};
use crate::{ApiKey, MetricsToken, Settings, StartError, context, problem::Problem, store::over};

/// With what the gateway knows people again, and itself.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The key of the settings, which opens everything.
    pub api_key: Option<ApiKey>,
    /// The gateway's own secret. Without one there are no keys but that, and no tokens of our own.
    pub secret: Option<RootSecret>,
    /// What processes sign with, for the tokens that agents show to communication.
    pub shared: Option<access::Keys>,
    /// What opens `/metrics` besides, and nothing else.
    pub metrics: Option<MetricsToken>,
}

/// The subject of whoever has the key of the settings.
pub(crate) const CONFIGURED: &str = "configured";
/// Where keys are presented.
pub(crate) const API_KEY: &str = "x-api-key";

/// Knows people again.
pub(crate) struct Auth {
    configured: Option<ApiKey>,
    metrics: Option<MetricsToken>,
    pub(crate) keys: Keys,
    pub(crate) tokens: Tokens,
}

/// Somebody, and by what they are counted.
pub(crate) struct Known {
    pub(crate) principal: Arc<Principal>,
    /// Names them where it is counted what they do; nothing where that is by their address.
    pub(crate) counted: Option<Arc<str>>,
    /// The API key that they have, or that was exchanged for what they have.
    pub(crate) key: Option<Arc<str>>,
    pub(crate) presented: Presented,
}

/// By what somebody is known. It goes with the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presented {
    /// The prefix of the secret, where it is a key of the store.
    pub(crate) secret: Option<Arc<str>>,
    /// Until when it is good; nothing where that has no end.
    pub(crate) until: Option<Timestamp>,
}

/// Why somebody is not let in.
pub(crate) enum Denied {
    /// They have presented nothing.
    Nobody,
    /// They have presented more than one credential, and none is looked at.
    Several,
    /// What they have presented is wrong, or good no more.
    Wrong(Problem),
    /// It cannot be found out.
    Failed(Error),
}

impl Auth {
    pub(crate) async fn new(
        settings: &Settings,
        credentials: Credentials,
        database: &::store::Database,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let Credentials { api_key, secret, shared, metrics } = credentials;
        if let Some(secret) = &secret {
            agree(&*over!(AgreedStore, database), secret, settings.replaces_secret.as_deref()).await?;
        }
        let keys = Keys::new(over!(KeyStore, database), secret.as_ref(), Arc::clone(clock));
        let outside = settings.token_issuer.clone().map(Outside::new).transpose()?;
        let parts = Parts {
            settings: settings.jwt.clone(),
            configured: api_key.as_ref().map(|key| format!("{CONFIGURED}:{}", key.fingerprint())),
            secret: secret.as_ref(),
            shared,
            outside,
            clock: Arc::clone(clock),
        };
        let tokens = Tokens::new(over!(TokenStore, database), parts)?;
        Ok(Self { configured: api_key, metrics, keys, tokens })
    }

    /// Has nobody to say who they are? On loopback only; the start has checked that.
    pub(crate) const fn is_open(&self) -> bool {
        self.configured.is_none() && !self.tokens.has_outside()
    }

    /// Are metrics for whoever sends these headers, whoever that is?
    pub(crate) fn opens_metrics(&self, headers: &HeaderMap) -> bool {
        let presented = headers.get(header::AUTHORIZATION).and_then(bearer);
        self.metrics.as_ref().zip(presented).is_some_and(|(token, presented)| token.is(presented))
    }

    /// Who sends these headers.
    pub(crate) async fn identify(&self, headers: &HeaderMap) -> Result<Known, Denied> {
        // A variable that is set to nothing is no credential.
        let keys = || headers.get_all(API_KEY).iter().filter(|key| !key.is_empty());
        let authorizations = || headers.get_all(header::AUTHORIZATION).iter().filter(|value| !value.is_empty());
        // What a proxy takes for itself is none of ours. Of two that are, one would open unseen what the other is not to.
        if keys().count() + authorizations().filter(|value| is_bearer(value)).count() > 1 {
            return Err(Denied::Several);
        }
        let token = authorizations().find(|value| is_bearer(value)).or_else(|| authorizations().next());
        match (keys().next(), token) {
            (Some(key), _) => self.by_key(key).await,
            (None, Some(value)) => self.by_token(bearer(value).ok_or(Denied::Nobody)?).await,
            (None, None) if self.is_open() => {
                let principal = Arc::new(Principal::anonymous());
                Ok(Known { principal, counted: None, key: None, presented: Presented::default() })
            }
            (None, None) => Err(Denied::Nobody),
        }
    }

    async fn by_key(&self, presented: &HeaderValue) -> Result<Known, Denied> {
        if let Some(configured) = self.configured.as_ref().filter(|configured| configured.is(presented)) {
            let principal = Principal::of_role(Kind::Key, CONFIGURED, Role::Admin, Reach::Everything);
            let counted = Some(configured.fingerprint());
            let key = Some(CONFIGURED.into());
            return Ok(Known { principal: Arc::new(principal), counted, key, presented: Presented::default() });
        }
        let text = presented.to_str().unwrap_or_default();
        match self.keys.identify(text).await.map_err(Denied::Failed)? {
            Ok((principal, presented)) => {
                let key = Some(principal.subject.as_str().into());
                Ok(Known::of(principal, key, presented))
            }
            Err(closed) => Err(Denied::Wrong(match closed {
                Closed::Unknown => unauthenticated(),
                Closed::Expired => denied("key_expired", "this API key has expired"),
                Closed::Revoked => denied("key_revoked", "this API key was revoked"),
            })),
        }
    }

    async fn by_token(&self, token: &str) -> Result<Known, Denied> {
        match self.tokens.identify(token).await.map_err(Denied::Failed)? {
            Ok((principal, until)) => {
                let key = self.tokens.key_of(&principal, token).await.map_err(Denied::Failed)?;
                Ok(Known::of(principal, key, Presented { secret: None, until }))
            }
            Err(refused) => Err(Denied::Wrong(refusal(refused))),
        }
    }
}

impl Known {
    fn of(principal: Principal, key: Option<Arc<str>>, presented: Presented) -> Self {
        let counted = Some(Arc::from(principal.to_string()));
        Self { principal: Arc::new(principal), counted, key, presented }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Nobody => unauthenticated(),
            Denied::Several => self::denied(
                "several_credentials",
                "a request presents one credential: an API key in the header X-API-Key, or a token as `authorization: Bearer …`",
            ),
            Denied::Wrong(problem) => problem,
            Denied::Failed(error) => error.into(),
        }
    }
}

/// Is it one of ours, whether or not it can be read?
fn is_bearer(value: &HeaderValue) -> bool {
    value.as_bytes().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
}

/// The token of `authorization: Bearer …`.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

pub(crate) fn unauthenticated() -> Problem {
    denied(
        "unauthenticated",
        "this gateway wants an API key in the header X-API-Key, or a token as `authorization: Bearer …`",
    )
}

/// A token's refusal.
pub(crate) fn refusal(refused: Refused) -> Problem {
    match refused {
        Refused::Invalid => denied("token_invalid", "this is no token that the gateway takes"),
        Refused::Expired => denied("token_expired", "the token has expired: get another one"),
        Refused::Early => denied("token_invalid", "the token is not valid yet"),
        Refused::Revoked => denied("token_revoked", "the token, or the key that it comes from, was revoked"),
    }
}

fn denied(code: &'static str, detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, detail)
}

/// The principal that admission has found.
pub(crate) struct Asking(pub(crate) Arc<Principal>);

impl axum::extract::FromRequestParts<Arc<crate::app::App>> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &Arc<crate::app::App>) -> Result<Self, Problem> {
        context::principal(&parts.extensions).map(Self)
    }
}
