//! Access tokens: what a key is exchanged for, so that it need not travel with every request.
//!
//! An access token is a JWT that is good for an hour; with it comes a refresh token that is good once, for the next pair. All that
//! comes of one exchange is a family: revoking it ends all of it, and so does a refresh token that comes twice, since then two
//! have it. A family ends with its key, too. A replica believes what it knows of a family for [`REMEMBERED`].

mod issuer;
mod published;
mod settings;
mod signing;
mod store;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use access::{Kind, Permissions, Principal, RootSecret};
use aws_lc_rs::hmac;
use domain::{Clock, Timestamp};
use errors::Error;

pub use self::{
    issuer::IssuerError,
    settings::{Algorithm, Issuer, Jwt},
    signing::SigningError,
};
pub(crate) use self::{issuer::Outside, store::TokenStore};
use self::{
    signing::{Claims, Signing},
    store::{Family, Refresh},
};
use super::{
    CONFIGURED,
    keys::{REMEMBERED, is_hex, no_secret, random},
};

/// What every refresh token begins with.
const MARK: &str = "trr_";
/// Hex digits of the prefix and of the secret.
const PREFIX: usize = 32;
const SECRET: usize = 64;
const MOST_REMEMBERED: u64 = 10_000;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is none, or not for us, or its signature is wrong.
    Invalid,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    Early,
    /// It, or what it comes from, was revoked.
    Revoked,
}

/// What is given for a key or a refresh token.
pub(crate) struct Pair {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) expires_in: Duration,
    /// Whom it is made out to.
    pub(crate) principal: Principal,
}

/// Gives tokens, and knows them again.
pub(crate) struct Tokens {
    store: Arc<dyn TokenStore>,
    clock: Arc<dyn Clock>,
    settings: Jwt,
    /// Nothing where there is no key to sign with: then there are no tokens.
    signing: Option<Signing>,
    /// Signs what agents show to communication as well.
    shared: Option<access::Keys>,
    pepper: Option<hmac::Key>,
    outside: Option<Outside>,
    /// The key of the settings, as families name it.
    configured: Option<String>,
    /// By id; nothing where it is not there.
    families: moka::future::Cache<String, Option<Arc<Family>>>,
}

/// What [`Tokens`] are made of, besides their store.
pub(crate) struct Parts<'a> {
    pub(crate) settings: Jwt,
    pub(crate) secret: Option<&'a RootSecret>,
    pub(crate) shared: Option<access::Keys>,
    pub(crate) outside: Option<Outside>,
    /// The key of the settings, which differs where that is another one.
    pub(crate) configured: Option<String>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Tokens {
    pub(crate) fn new(store: Arc<dyn TokenStore>, parts: Parts<'_>) -> Result<Self, SigningError> {
        let Parts { settings, secret, shared, outside, configured, clock } = parts;
        let signing = Signing::of(&settings, secret)?;
        let pepper = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, &secret.derive("refresh-tokens")));
        let families = moka::future::Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build();
        Ok(Self { store, clock, settings, signing, shared, pepper, outside, configured, families })
    }

    /// Are there tokens of somebody else?
    pub(crate) const fn has_outside(&self) -> bool {
        self.outside.is_some()
    }

    /// Keeps the keys of another issuer at hand, for ever.
    pub(crate) async fn follow(&self) {
        match &self.outside {
            Some(outside) => outside.follow(&self.clock).await,
            None => std::future::pending().await,
        }
    }

    /// Who presents this text.
    pub(crate) async fn identify(&self, token: &str) -> Result<Result<Principal, Refused>, Error> {
        let Ok(header) = jsonwebtoken::decode_header(token) else { return Ok(Err(Refused::Invalid)) };
        let now = self.clock.now();
        let kid = header.kid.as_deref().unwrap_or_default();
        if let Some(signing) = self.signing.as_ref().filter(|signing| signing.knows(kid)) {
            let claims = match signing.verify(kid, token, now) {
                Ok(claims) => claims,
                Err(refused) => return Ok(Err(refused)),
            };
            return Ok(match self.family(&claims.family).await? {
                Some(family) if family.is_good(now) && self.is_of_present_key(&family) => Ok(claims.principal()),
                Some(_) | None => Err(Refused::Revoked),
            });
        }
        if header.kid.is_none()
            && let Some(principal) = self.shared.as_ref().and_then(|keys| keys.agent(token).ok())
        {
            return Ok(Ok(Principal::clone(&principal)));
        }
        match &self.outside {
            Some(outside) => outside.identify(token, &header, now).await,
            None => Ok(Err(Refused::Invalid)),
        }
    }

    /// Exchanges a key, which opens until then, for tokens within these scopes.
    pub(crate) async fn exchange(
        &self,
        principal: &Principal,
        until: Option<Timestamp>,
        scopes: Option<Permissions>,
    ) -> Result<Pair, Error> {
        let principal = principal.clone().scoped(scopes);
        let now = self.clock.now();
        let text = serde_json::to_string(&principal).map_err(Error::internal)?;
        let expires_at = now + self.settings.refresh_expiration;
        let configured = self.configured.as_ref().filter(|_| principal.subject == CONFIGURED);
        let family = Family {
            id: format!("fam_{}", random::<16>()?),
            key_id: configured.unwrap_or(&principal.subject).clone(),
            principal: text,
            created_at: now,
            expires_at: until.map_or(expires_at, |until| until.min(expires_at)),
            is_revoked: false,
        };
        let (refresh, kept) = self.fresh(&family.id, now)?;
        let pair = self.pair(&family, &principal, refresh, now)?;
        self.store.begin(&family, &kept).await.map_err(::store::error)?;
        Ok(pair)
    }

    /// Gives the next pair for a refresh token.
    pub(crate) async fn refresh(&self, text: &str) -> Result<Result<Pair, Refused>, Error> {
        let now = self.clock.now();
        let Some(used) = self.presented(text).await? else { return Ok(Err(Refused::Invalid)) };
        let family = self.store.family(&used.family).await.map_err(::store::error)?;
        let Some(family) = family else { return Ok(Err(Refused::Invalid)) };
        if family.is_revoked || !self.is_of_present_key(&family) {
            return Ok(Err(Refused::Revoked));
        }
        if family.expires_at <= now {
            return Ok(Err(Refused::Expired));
        }
        let principal = serde_json::from_str(&family.principal).map_err(Error::internal)?;
        let (refresh, next) = self.fresh(&family.id, now)?;
        let pair = self.pair(&family, &principal, refresh, now)?;
        if self.store.succeed(&used, &next, now).await.map_err(::store::error)? {
            return Ok(Ok(pair));
        }
        self.families.invalidate(&family.id).await;
        tracing::warn!(key.id = family.key_id, "a refresh token came twice, and its family is revoked");
        Ok(Err(Refused::Revoked))
    }

    /// Revokes all that comes of what a token of ours comes from. False where it is none.
    pub(crate) async fn revoke(&self, token: &str) -> Result<bool, Error> {
        let now = self.clock.now();
        let family = match self.presented(token).await? {
            Some(refresh) => refresh.family,
            None => {
                let kid = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid).unwrap_or_default();
                let verified = self.signing.as_ref().and_then(|signing| signing.verify(&kid, token, now).ok());
                let Some(claims) = verified else { return Ok(false) };
                claims.family
            }
        };
        self.store.revoke(&family, now).await.map_err(::store::error)?;
        self.families.invalidate(&family).await;
        Ok(true)
    }

    /// Where the key of the settings is another one now, what it was exchanged for is good no more.
    fn is_of_present_key(&self, family: &Family) -> bool {
        let is_configured = family.key_id.strip_prefix(CONFIGURED).is_some_and(|rest| rest.starts_with(':'));
        !is_configured || self.configured.as_ref() == Some(&family.key_id)
    }

    /// Forgets what is known of families: a key was revoked.
    pub(crate) fn forget(&self) {
        self.families.invalidate_all();
    }

    /// Removes families of which nothing is good any more.
    pub(crate) async fn tidy(&self) {
        if let Err(error) = self.store.remove_expired(self.clock.now()).await {
            tracing::warn!(error = errors::chain(&error), "cannot remove expired tokens");
        }
    }

    async fn family(&self, id: &str) -> Result<Option<Arc<Family>>, Error> {
        let load = async { self.store.family(id).await.map(|family| family.map(Arc::new)) };
        let found = self.families.try_get_with(id.to_owned(), load).await;
        found.map_err(|error: Arc<sqlx::Error>| {
            let message = "the database cannot be used now; see whether it runs, and whether its disk is full";
            Error::unavailable("database_unavailable", message).caused_by(error)
        })
    }

    /// The refresh token that a text is, used up or not.
    async fn presented(&self, text: &str) -> Result<Option<Refresh>, Error> {
        let Some(pepper) = &self.pepper else { return Ok(None) };
        let Some(prefix) = prefix(text) else { return Ok(None) };
        let found = self.store.refresh(prefix).await.map_err(::store::error)?;
        Ok(found.filter(|found| hmac::verify(pepper, text.as_bytes(), &found.hash).is_ok()))
    }

    fn fresh(&self, family: &str, now: Timestamp) -> Result<(String, Refresh), Error> {
        let pepper = self.pepper.as_ref().ok_or_else(no_secret)?;
        let (prefix, secret) = (random::<{ PREFIX / 2 }>()?, random::<{ SECRET / 2 }>()?);
        let text = format!("{MARK}{prefix}_{secret}");
        let hash = hmac::sign(pepper, text.as_bytes()).as_ref().to_vec();
        Ok((text, Refresh { prefix, family: family.to_owned(), hash, created_at: now }))
    }

    fn pair(&self, family: &Family, principal: &Principal, refresh: String, now: Timestamp) -> Result<Pair, Error> {
        let life = self.settings.expiration.min(family.expires_at.since(now));
        let access = match (principal.agent, &self.shared) {
            (Some(agent), Some(keys)) => {
                let agent = Principal { kind: Kind::Token, subject: agent.to_string(), ..principal.clone() };
                keys.agent_token(&agent, life).map_err(Error::internal)?
            }
            (Some(_), None) | (None, _) => self.signed(family, principal, now, life)?,
        };
        Ok(Pair { access, refresh, expires_in: life, principal: principal.clone() })
    }

    fn signed(&self, family: &Family, principal: &Principal, now: Timestamp, life: Duration) -> Result<String, Error> {
        let signing = self.signing.as_ref().ok_or_else(no_secret)?;
        let seconds = |at: Timestamp| at.as_micros().div_euclid(1_000_000);
        let claims = Claims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: principal.subject.clone(),
            role: principal.role,
            scope: principal.permissions.to_string(),
            namespace: principal.namespace().cloned(),
            agent: principal.agent,
            family: family.id.clone(),
            jti: random::<16>()?,
            iat: seconds(now),
            nbf: seconds(now),
            exp: seconds(now + life),
        };
        signing.sign(&claims).map_err(Error::internal)
    }
}

impl Family {
    fn is_good(&self, now: Timestamp) -> bool {
        !self.is_revoked && self.expires_at > now
    }
}

/// The part of a refresh token's text by which it is found; nothing where it cannot be one.
fn prefix(text: &str) -> Option<&str> {
    let (prefix, secret) = text.strip_prefix(MARK)?.split_once('_')?;
    (is_hex(prefix, PREFIX) && is_hex(secret, SECRET)).then_some(prefix)
}
