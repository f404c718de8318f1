//! Access tokens: what a key is exchanged for, so that it need not travel with every request.
//!
//! An access token is a JWT that is good for an hour; with it comes a refresh token that is good once, for the next pair. All that
//! comes of one exchange is a family: revoking it ends all of it, and so does a refresh token that comes twice, since then two
//! have it. A family ends with its key, too, and with that secret of it which was exchanged. A replica believes what it knows of a
//! family [for a while](super::remembered::FOR).

mod issuer;
mod published;
mod settings;
mod signing;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc, time::Duration};

use access::{Credential, Kind, Permissions, Principal, RootSecret};
use domain::{Clock, Timestamp};
use errors::Error;
use tokio::sync::Notify;

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
    keys::no_secret,
    lookups::Lookups,
    minted::{Mint, Minted, random},
    remembered::Remembered,
};

/// What every refresh token begins with.
const MARK: &str = "trr_";
/// Hex digits of a family's id, and of the prefix of a refresh token, which begins with them: so it is known whose it is, and counts as
/// that, before anything is looked up.
const FAMILY: usize = 32;
const PREFIX: usize = FAMILY + 16;
/// How long it is kept that a family was revoked: longer than any access token of it can be about.
const KEPT_REVOKED: Duration = Duration::from_hours(25);

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
    /// Makes refresh tokens.
    mint: Option<Mint>,
    of_families: Lookups,
    of_renewals: Lookups,
    of_sessions: Lookups,
    outside: Option<Outside>,
    /// The key of the settings, as families name it.
    configured: Option<String>,
    /// By id; nothing where it is not there.
    families: Remembered<Option<Arc<Family>>>,
    /// Wakes whoever tells others.
    revoked: Notify,
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
        let mint = secret.map(|secret| Mint::new(MARK, PREFIX, secret, "refresh-tokens"));
        let (of_families, of_renewals, of_sessions) = Default::default();
        let families = Remembered::default();
        let revoked = Notify::new();
        Ok(Self {
            store,
            clock,
            settings,
            signing,
            shared,
            mint,
            of_families,
            of_renewals,
            of_sessions,
            outside,
            configured,
            families,
            revoked,
        })
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

    /// Who presents this text, and until when it is good, where that is known.
    pub(crate) async fn identify(&self, token: &str) -> Result<Result<(Principal, Option<Timestamp>), Refused>, Error> {
        let Ok(header) = jsonwebtoken::decode_header(token) else { return Ok(Err(Refused::Invalid)) };
        let now = self.clock.now();
        let kid = header.kid.as_deref().unwrap_or_default();
        if let Some(signing) = self.signing.as_ref().filter(|signing| signing.knows(kid)) {
            let claims = match signing.verify(kid, token, now) {
                Ok(claims) => claims,
                Err(refused) => return Ok(Err(refused)),
            };
            return Ok(match self.family(&claims.family).await? {
                Some(family) if family.is_good(now) && self.is_of_present_key(&family) => {
                    Ok((claims.principal(), Some(claims.expires_at().min(family.expires_at))))
                }
                Some(_) | None => Err(Refused::Revoked),
            });
        }
        if header.kid.is_none()
            && let Some((principal, credential)) = self.of_agent(token)
        {
            return Ok(if self.is_good(&credential.family, now).await? {
                Ok((Principal::clone(&principal), Some(credential.expires_at)))
            } else {
                Err(Refused::Revoked)
            });
        }
        match &self.outside {
            Some(outside) => outside.identify(token, &header, now).await,
            None => Ok(Err(Refused::Invalid)),
        }
    }

    /// The API key that was exchanged for a good token; none for one of another issuer. An agent's names the agent, so its family
    /// says it.
    pub(crate) async fn key_of(&self, principal: &Principal, token: &str) -> Result<Option<Arc<str>>, Error> {
        if principal.kind != Kind::Token {
            return Ok(None);
        }
        let Some((_, credential)) = principal.agent.and_then(|_| self.of_agent(token)) else {
            return Ok(Some(principal.subject.as_str().into()));
        };
        let family = self.family(&credential.family).await?;
        Ok(family.map(|family| family.key_id.split(':').next().unwrap_or_default().into()))
    }

    /// The agent that an access token for communication is made out to.
    fn of_agent(&self, token: &str) -> Option<(Arc<Principal>, Credential)> {
        let known = self.shared.as_ref()?.agent(token).ok()?;
        Some((known.principal, known.credential?))
    }

    /// Exchanges a key, by the secret with this prefix, for tokens within these scopes. The key of the settings has no prefix.
    pub(crate) async fn exchange(
        &self,
        principal: &Principal,
        secret: Option<&str>,
        scopes: Option<Permissions>,
    ) -> Result<Result<Pair, Refused>, Error> {
        let principal = principal.clone().scoped(scopes);
        let now = self.clock.now();
        let key_id = match secret {
            Some(_) => Some(&principal.subject),
            None => self.configured.as_ref().filter(|_| principal.subject == CONFIGURED),
        };
        let Some(key_id) = key_id.cloned() else { return Ok(Err(Refused::Invalid)) };
        let family = Family {
            id: family_of(&random(FAMILY / 2)?),
            key_id,
            secret: secret.map(str::to_owned),
            principal: serde_json::to_string(&principal).map_err(Error::internal)?,
            created_at: now,
            expires_at: now + self.settings.refresh_expiration,
            is_revoked: false,
        };
        let (refresh, kept) = self.fresh(&family.id, now)?;
        // What was remembered of the key may be of before it was revoked or rotated: the database knows.
        if !self.store.begin(&family, &kept).await.map_err(::store::error)? {
            return Ok(Err(Refused::Revoked));
        }
        // It knows, too, when they end.
        let family = self.store.family(&family.id).await.map_err(::store::error)?;
        let Some(family) = family.filter(|family| family.is_good(now)) else {
            return Ok(Err(Refused::Revoked));
        };
        self.pair(&family, &principal, refresh, now).map(Ok)
    }

    /// Gives the next pair for a refresh token.
    pub(crate) async fn refresh(&self, text: &str) -> Result<Result<Pair, Refused>, Error> {
        let now = self.clock.now();
        let Some((mint, prefix)) = self.minted(text) else { return Ok(Err(Refused::Invalid)) };
        let family = self.of_renewals.ask(self.store.family(&family_of(prefix))).await?;
        let Some(family) = family.filter(|family| !family.is_revoked && self.is_of_present_key(family)) else {
            return Ok(Err(Refused::Revoked));
        };
        if family.expires_at <= now {
            return Ok(Err(Refused::Expired));
        }
        // It was told when it was there already: where it is not, it was used up, and forgotten with the one after it.
        if let Some(used) = self.of_renewals.ask(self.store.refresh(prefix)).await? {
            if !mint.is(text, &used.hash) {
                return Ok(Err(Refused::Invalid));
            }
            let principal = serde_json::from_str(&family.principal).map_err(Error::internal)?;
            let (refresh, next) = self.fresh(&family.id, now)?;
            let pair = self.pair(&family, &principal, refresh, now)?;
            if self.store.succeed(&used, &next, now).await.map_err(::store::error)? {
                return Ok(Ok(pair));
            }
        }
        self.end(&family.id, now).await?;
        tracing::warn!(key.id = family.key_id, "a refresh token came twice, and its family is revoked");
        Ok(Err(Refused::Revoked))
    }

    /// Revokes all that comes of what a token of ours comes from. False where it is none.
    pub(crate) async fn revoke(&self, token: &str) -> Result<bool, Error> {
        let Some(family) = self.family_named_by(token) else { return Ok(false) };
        self.end(&family, self.clock.now()).await?;
        Ok(true)
    }

    async fn end(&self, family: &str, now: Timestamp) -> Result<(), Error> {
        self.store.revoke(family, now).await.map_err(::store::error)?;
        self.families.forget(family);
        self.revoked.notify_one();
        Ok(())
    }

    /// Does somebody besides the gateway take agents' tokens?
    pub(crate) const fn are_shown_elsewhere(&self) -> bool {
        self.shared.is_some()
    }

    /// Waits until something was revoked here. For one waiter; cancel-safe.
    pub(crate) async fn revoked(&self) {
        self.revoked.notified().await;
    }

    /// Those families of which nothing is good any more, as the database has it.
    pub(crate) async fn ended_of(&self, mut families: Vec<String>) -> Result<Vec<String>, Error> {
        let found = self.of_sessions.ask(self.store.families(&families)).await?;
        let now = self.clock.now();
        let good = found.iter().filter(|family| family.is_good(now) && self.is_of_present_key(family));
        let good: HashSet<_> = good.map(|family| family.id.as_str()).collect();
        families.retain(|id| !good.contains(id.as_str()));
        Ok(families)
    }

    /// The family of a token that was made or signed here, whether or not it is good: also one that has expired ends what it comes from.
    fn family_named_by(&self, token: &str) -> Option<String> {
        if let Some((_, prefix)) = self.minted(token) {
            return Some(family_of(prefix));
        }
        match jsonwebtoken::decode_header(token).ok()?.kid {
            Some(kid) => self.signing.as_ref()?.family(&kid, token),
            None => self.shared.as_ref()?.family(token),
        }
    }

    /// Where the key of the settings is another one now, what it was exchanged for is good no more.
    fn is_of_present_key(&self, family: &Family) -> bool {
        let is_configured = family.key_id.strip_prefix(CONFIGURED).is_some_and(|rest| rest.starts_with(':'));
        !is_configured || self.configured.as_ref() == Some(&family.key_id)
    }

    /// Forgets what is known of families: a key was revoked.
    pub(crate) fn forget(&self) {
        self.families.forget_all();
        self.revoked.notify_one();
    }

    /// Removes families of which nothing is good any more.
    pub(crate) async fn tidy(&self) {
        let now = self.clock.now();
        if let Err(error) = self.store.remove_expired(now, now - KEPT_REVOKED).await {
            tracing::warn!(error = errors::chain(&error), "cannot remove expired tokens");
        }
    }

    async fn is_good(&self, family: &str, now: Timestamp) -> Result<bool, Error> {
        let family = self.family(family).await?;
        Ok(family.is_some_and(|family| family.is_good(now) && self.is_of_present_key(&family)))
    }

    async fn family(&self, id: &str) -> Result<Option<Arc<Family>>, Error> {
        let load = async { self.of_families.ask(self.store.family(id)).await.map(|family| family.map(Arc::new)) };
        self.families.get(id, load).await
    }

    /// The prefix of a refresh token that was made here, and what has made it.
    fn minted<'a>(&self, text: &'a str) -> Option<(&Mint, &'a str)> {
        let mint = self.mint.as_ref()?;
        Some((mint, mint.prefix(text)?))
    }

    /// By what it is counted how often somebody comes with this, where it was made or signed here: then it is no guess. What comes of
    /// one exchange counts as one.
    pub(crate) fn shown(&self, text: &str) -> Option<String> {
        self.family_named_by(text)
    }

    fn fresh(&self, family: &str, now: Timestamp) -> Result<(String, Refresh), Error> {
        let mint = self.mint.as_ref().ok_or_else(no_secret)?;
        let Minted { text, prefix, hash } = mint.make(family.trim_start_matches("fam_"))?;
        Ok((text, Refresh { prefix, family: family.to_owned(), hash, created_at: now }))
    }

    fn pair(&self, family: &Family, principal: &Principal, refresh: String, now: Timestamp) -> Result<Pair, Error> {
        let life = self.settings.expiration.min(family.expires_at.since(now));
        let access = match (principal.agent, &self.shared) {
            (Some(agent), Some(keys)) => {
                let agent = Principal { kind: Kind::Token, subject: agent.to_string(), ..principal.clone() };
                keys.agent_token(&agent, &family.id, life).map_err(Error::internal)?
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
            jti: random(16)?,
            iat: seconds(now),
            nbf: seconds(now),
            exp: seconds(now + life),
        };
        signing.sign(&claims).map_err(Error::internal)
    }
}

/// The family of a refresh token, by its prefix.
fn family_of(prefix: &str) -> String {
    format!("fam_{}", &prefix[..FAMILY])
}

impl Family {
    fn is_good(&self, now: Timestamp) -> bool {
        !self.is_revoked && self.expires_at > now
    }
}
