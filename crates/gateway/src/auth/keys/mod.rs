//! API keys: made, shown once, found again by their prefix, and compared by a keyed hash.
//!
//! The text of a key is `trk_<prefix>_<secret>`: 64 bits by which it is found, and 256 that nobody can guess. What is kept is the
//! HMAC-SHA-256 of the text under the gateway's own secret, so a copy of the database opens nothing and cannot even be searched.
//! A replica remembers what it has found for [`REMEMBERED`]: that is how long a revoked key may still open elsewhere.

mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use access::{Kind, Principal, Reach, RootSecret};
use aws_lc_rs::{hmac, rand};
use domain::{ApiKeyId, Clock, Timestamp};
use errors::Error;
use lifecycle::crash_point;

use self::store::KeySecret;
pub(crate) use self::store::{KeyStore, Record, Which};
use crate::hex::hex;

/// How long a key is believed without asking the database.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(5);
/// How many are.
const MOST_REMEMBERED: u64 = 10_000;
/// What every key begins with; programs that look for leaked secrets know by it what they have found.
const MARK: &str = "trk_";
/// Hex digits of the prefix and of the secret.
const PREFIX: usize = 16;
const SECRET: usize = 64;

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

type Remembered = Option<Arc<(Record, KeySecret)>>;

/// All keys.
pub(crate) struct Keys {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    /// Nothing where the gateway has no secret: then there are no keys.
    pepper: Option<hmac::Key>,
    /// By prefix.
    found: moka::future::Cache<String, Remembered>,
    used: Mutex<HashMap<ApiKeyId, Timestamp>>,
}

impl Keys {
    pub(crate) fn new(store: Arc<dyn KeyStore>, secret: Option<&RootSecret>, clock: Arc<dyn Clock>) -> Self {
        let pepper = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, &secret.derive("api-keys")));
        let found = moka::future::Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build();
        Self { store, clock, pepper, found, used: Mutex::default() }
    }

    /// Who presents this text, and until when it opens.
    pub(crate) async fn identify(&self, text: &str) -> Result<Result<(Principal, Option<Timestamp>), Closed>, Error> {
        let (Some(pepper), Some(prefix)) = (&self.pepper, prefix(text)) else { return Ok(Err(Closed::Unknown)) };
        let find = async { self.store.find(prefix).await.map(|found| found.map(Arc::new)) };
        let found = self.found.try_get_with(prefix.to_owned(), find).await;
        let found = found.map_err(|error: Arc<sqlx::Error>| unreadable(&error))?;
        let Some(found) = found else { return Ok(Err(Closed::Unknown)) };
        let (record, secret) = &*found;
        // Takes as long wherever the two differ.
        if hmac::verify(pepper, text.as_bytes(), &secret.hash).is_err() {
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
        Ok(Ok((record.principal(), until)))
    }

    /// A new secret.
    pub(crate) fn fresh(&self) -> Result<Fresh, Error> {
        let pepper = self.pepper.as_ref().ok_or_else(no_secret)?;
        let (prefix, secret) = (random::<{ PREFIX / 2 }>()?, random::<{ SECRET / 2 }>()?);
        let text = format!("{MARK}{prefix}_{secret}");
        let hash = hmac::sign(pepper, text.as_bytes()).as_ref().to_vec();
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

    /// Gives a key a new secret; the one that it has opens for `overlap` longer. False where there is nothing to rotate.
    pub(crate) async fn rotate(&self, id: ApiKeyId, fresh: &Fresh, overlap: Duration) -> Result<bool, Error> {
        let until = self.clock.now() + overlap;
        let rotated = self.store.rotate(id, &fresh.kept, until).await.map_err(::store::error)?;
        crash_point("gateway.key.rotated");
        self.found.invalidate_all();
        Ok(rotated)
    }

    /// False where there is none.
    pub(crate) async fn revoke(&self, id: ApiKeyId) -> Result<bool, Error> {
        let revoked = self.store.revoke(id, self.clock.now()).await.map_err(::store::error)?;
        self.found.invalidate_all();
        Ok(revoked)
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

/// The part of a key's text by which it is found; nothing where it cannot be a key.
fn prefix(text: &str) -> Option<&str> {
    let (prefix, secret) = text.strip_prefix(MARK)?.split_once('_')?;
    (is_hex(prefix, PREFIX) && is_hex(secret, SECRET)).then_some(prefix)
}

/// Is a text so many hex digits? What is not need not be looked for.
pub(super) fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// So many random bytes in hex.
pub(super) fn random<const BYTES: usize>() -> Result<String, Error> {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).map_err(Error::internal)?;
    Ok(hex(&bytes))
}

fn unreadable(error: &sqlx::Error) -> Error {
    if ::store::is_transient(error) {
        let message = "the database cannot be used now; see whether it runs, and whether its disk is full";
        Error::unavailable("database_unavailable", message)
    } else {
        tracing::error!(error = errors::chain(error), "a key cannot be read");
        Error::new(errors::Code::Internal, "internal", "internal error")
    }
}

pub(super) fn no_secret() -> Error {
    let message =
        "this gateway has no secret of its own to keep keys and sign tokens with (setting gateway.secret_file)";
    Error::conflict("secret_missing", message)
}
