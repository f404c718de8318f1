//! API keys: made, shown once, found again by their prefix, and compared by a keyed hash.
//!
//! The text of a key is `trk_<prefix>_<secret>`, with a check at its end ([`minted`](super::minted)): what was not made here is not even
//! looked for. A replica remembers what it has found [for a while](super::remembered::FOR): that is how long a revoked
//! key may still open elsewhere.

mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use access::{Kind, Principal, Reach, RootSecret};
use domain::{ApiKeyId, Clock, Timestamp};
use errors::{Code, Error};
use lifecycle::crash_point;

pub(crate) use self::store::{KeySecret, KeyStore, Record, Which};
use super::{
    Presented,
    lookups::Lookups,
    minted::{Mint, Minted},
    remembered::Remembered,
};

/// What every key begins with.
const MARK: &str = "trk_";
/// Hex digits of the prefix.
const PREFIX: usize = 16;

/// A new secret in plain, and what is kept of it.
pub(crate) struct Fresh {
    pub(crate) text: String,
    kept: KeySecret,
}

/// Why a key does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It is none of ours.
    Unknown,
    /// It, or the secret that a rotation replaced, has expired.
    Expired,
    /// It was revoked.
    Revoked,
}

/// All keys.
pub(crate) struct Keys {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    /// Nothing where the gateway has no secret: then there are no keys.
    mint: Option<Mint>,
    lookups: Lookups,
    /// By prefix.
    found: Remembered<Option<Arc<(Record, KeySecret)>>>,
    used: Mutex<HashMap<ApiKeyId, Timestamp>>,
}

impl Keys {
    pub(crate) fn new(store: Arc<dyn KeyStore>, secret: Option<&RootSecret>, clock: Arc<dyn Clock>) -> Self {
        let mint = secret.map(|secret| Mint::new(MARK, PREFIX, secret, "api-keys"));
        Self { store, clock, mint, lookups: Lookups::default(), found: Remembered::default(), used: Mutex::default() }
    }

    /// Who presents this text, and by what.
    pub(crate) async fn identify(&self, text: &str) -> Result<Result<(Principal, Presented), Closed>, Error> {
        let Some(mint) = &self.mint else { return Ok(Err(Closed::Unknown)) };
        let Some(prefix) = mint.prefix(text) else { return Ok(Err(Closed::Unknown)) };
        let find = async { self.lookups.ask(self.store.find(prefix)).await.map(|found| found.map(Arc::new)) };
        let Some(found) = self.found.get(prefix, find).await? else { return Ok(Err(Closed::Unknown)) };
        let (record, secret) = &*found;
        if !mint.is(text, &secret.hash) {
            return Ok(Err(Closed::Unknown));
        }
        let now = self.clock.now();
        if record.revoked_at.is_some() {
            return Ok(Err(Closed::Revoked));
        }
        let until = [record.expires_at, secret.expires_at].into_iter().flatten().min();
        if until.is_some_and(|until| until <= now) {
            return Ok(Err(Closed::Expired));
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(record.id, now);
        Ok(Ok((record.principal(), Presented { secret: Some(secret.prefix.as_str().into()), until })))
    }

    /// A new secret.
    pub(crate) fn fresh(&self) -> Result<Fresh, Error> {
        let Minted { text, prefix, hash } = self.mint.as_ref().ok_or_else(no_secret)?.make("")?;
        Ok(Fresh { text, kept: KeySecret { prefix, hash, created_at: self.clock.now(), expires_at: None } })
    }

    /// Adds a key.
    pub(crate) async fn add(&self, record: &Record, fresh: &Fresh) -> Result<(), Error> {
        self.store.add(record, &fresh.kept).await.map_err(::store::error)?;
        crash_point("gateway.key.stored");
        Ok(())
    }

    pub(crate) async fn get(&self, id: ApiKeyId) -> Result<Option<Record>, Error> {
        self.store.get(id).await.map_err(::store::error)
    }

    pub(crate) async fn list(&self, which: &Which<'_>) -> Result<Vec<Record>, Error> {
        self.store.list(which).await.map_err(::store::error)
    }

    /// Gives a key a new secret; the one that it has opens for `overlap` longer. Answers with its new revision; nothing where it
    /// is revoked, or there is none.
    ///
    /// # Errors
    ///
    /// `key_changed`, where it is not at the expected revision.
    pub(crate) async fn rotate(
        &self,
        id: ApiKeyId,
        expected: Option<i64>,
        fresh: &Fresh,
        overlap: Duration,
    ) -> Result<Option<i64>, Error> {
        let until = self.clock.now() + overlap;
        let rotated = self.store.rotate(id, expected, &fresh.kept, until).await.map_err(::store::error)?;
        crash_point("gateway.key.rotated");
        self.found.forget_all();
        if rotated.is_none() {
            self.check(id, expected).await?;
        }
        Ok(rotated)
    }

    /// False where there is none.
    ///
    /// # Errors
    ///
    /// `key_changed`, where it is not at the expected revision.
    pub(crate) async fn revoke(&self, id: ApiKeyId, expected: Option<i64>) -> Result<bool, Error> {
        let revoked = self.store.revoke(id, expected, self.clock.now()).await.map_err(::store::error)?;
        self.found.forget_all();
        if !revoked {
            self.check(id, expected).await?;
        }
        Ok(revoked)
    }

    /// Refuses where a key was not at the expected revision. It may be by now: then somebody else has just changed it.
    async fn check(&self, id: ApiKeyId, expected: Option<i64>) -> Result<(), Error> {
        let (Some(expected), Some(found)) = (expected, self.get(id).await?) else { return Ok(()) };
        if found.revision == expected && found.revoked_at.is_some() {
            return Ok(());
        }
        let message = format!("the API key was not at revision {expected}");
        Err(Error::new(Code::Conflict, "key_changed", message))
    }

    /// Writes down which keys were used since the last time, and removes secrets that open no more.
    pub(crate) async fn tidy(&self) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        let used: Vec<_> = used.into_iter().collect();
        let tidied = async {
            if !used.is_empty() {
                self.store.note_use(&used).await?;
            }
            self.store.remove_expired(self.clock.now()).await
        };
        if let Err(error) = tidied.await {
            tracing::warn!(error = errors::chain(&error), "cannot write down when keys were used");
        }
    }
}

impl Record {
    /// Whoever has the key.
    pub(crate) fn principal(&self) -> Principal {
        let reach = self.namespace.clone().map_or(Reach::Everything, Reach::Namespace);
        let principal = Principal::of_role(Kind::Key, self.id.to_string(), self.role, reach).scoped(self.scopes);
        Principal { agent: self.agent, ..principal }
    }
}

pub(super) fn no_secret() -> Error {
    let message =
        "this gateway has no secret of its own to keep keys and sign tokens with (setting gateway.secret_file)";
    Error::conflict("secret_missing", message)
}
