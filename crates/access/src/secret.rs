//! One secret, and the keys that are made of it: what one of them is used for opens nothing else.

use std::fmt;

use aws_lc_rs::hmac;
use settings::Secret;

/// A secret from which keys are derived, each for one purpose.
#[derive(Clone)]
pub struct RootSecret(hmac::Key);

impl fmt::Debug for RootSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RootSecret")
    }
}

impl RootSecret {
    /// Of a text that is long and random enough; the caller has checked that.
    pub fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()))
    }

    /// The key for one purpose: HMAC-SHA-256 of the purpose's name under the secret, as HKDF expands (RFC 5869).
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.0, purpose.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(tag.as_ref());
        key
    }
}
