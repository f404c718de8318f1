//! What an operator can set about tokens.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use settings::Secret;

/// How a token may be signed. There is no other way: `none` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256, and a secret that both ends have.
    #[default]
    HS256,
    /// Ed25519.
    EdDSA,
    /// ECDSA on P-256.
    ES256,
    /// RSA with PKCS#1 v1.5 and SHA-256.
    RS256,
}

impl Algorithm {
    pub(crate) const fn of_jwt(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::HS256 => jsonwebtoken::Algorithm::HS256,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

/// The gateway's own tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// How they are signed. Default HS256.
    pub algorithm: Algorithm,
    /// With HS256, what with: at least 32 characters. Default: a key that is made of the gateway's own secret.
    pub secret_key: Option<Secret>,
    /// A file with that.
    pub secret_key_file: Option<PathBuf>,
    /// With every other algorithm, what with: a private key as PEM (PKCS#8).
    pub private_key_file: Option<PathBuf>,
    /// Its public key, as PEM.
    pub public_key_file: Option<PathBuf>,
    /// Files with what they were signed with before: secrets with HS256, public keys with every other algorithm. Tokens that they
    /// have signed are good until they expire. Default none.
    pub previous_key_files: Vec<PathBuf>,
    /// Who says so (`iss`). Default troupe.
    pub issuer: String,
    /// Whom it is for (`aud`). Default troupe.
    pub audience: String,
    /// How long an access token is good. At most 24h; longer, and one that was stolen is good for longer. Default
    /// 1h.
    #[serde(with = "humantime_serde")]
    pub expiration: Duration,
    /// How long it can be renewed without its key. Default 30days.
    #[serde(with = "humantime_serde")]
    pub refresh_expiration: Duration,
    /// How far clocks may be apart. Default 30s.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            secret_key: None,
            secret_key_file: None,
            private_key_file: None,
            public_key_file: None,
            previous_key_files: Vec::new(),
            issuer: "troupe".to_owned(),
            audience: "troupe".to_owned(),
            expiration: Duration::from_hours(1),
            refresh_expiration: Duration::from_hours(30 * 24),
            leeway: Duration::from_secs(30),
        }
    }
}

impl Jwt {
    pub(crate) fn validate(&self) -> Result<(), (&'static str, String)> {
        // Whoever ends agents' sessions remembers for as long what was revoked.
        if self.expiration > access::Keys::LONGEST_OF_AGENT {
            return Err(("jwt", "`expiration` must be at most 24h".to_owned()));
        }
        if self.expiration < Duration::from_secs(1) || self.refresh_expiration < self.expiration {
            return Err(("jwt", "`expiration` must be at least 1s, and `refresh_expiration` no shorter".to_owned()));
        }
        let has_pair = self.private_key_file.is_some() && self.public_key_file.is_some();
        if self.algorithm != Algorithm::HS256 && !has_pair {
            return Err(("jwt", "this `algorithm` wants `private_key_file` and `public_key_file`".to_owned()));
        }
        Ok(())
    }
}

/// Somebody else who says who people are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What their tokens say in `iss`.
    pub issuer: String,
    /// What their tokens must say in `aud`.
    pub audience: String,
    /// Where their public keys are, as a JWK set: `https://…`, or `http://` on loopback.
    pub jwks_url: String,
    /// How their tokens may be signed; never with a secret. Default `RS256`, `ES256` and `EdDSA`.
    #[serde(default = "asymmetric")]
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the role. A token without a role of ours is refused. Default `role`.
    #[serde(default = "role_claim")]
    pub role_claim: String,
    /// The claim that names the namespace, or `*` for all of them. A token without it is refused. Default `namespace`.
    #[serde(default = "namespace_claim")]
    pub namespace_claim: String,
    /// The claim whose words, with spaces between them, are what the token may of its role, as the scopes of keys are. A token
    /// without it, or without a word that we know in it, may nothing. Default none: the role says what it may.
    #[serde(default)]
    pub scope_claim: Option<String>,
    /// How far clocks may be apart. Default 30s.
    #[serde(default = "leeway", with = "humantime_serde")]
    pub leeway: Duration,
    /// How often they are asked for their keys, at least 10s. Default 5m.
    #[serde(default = "refresh", with = "humantime_serde")]
    pub refresh: Duration,
    /// How long an answer of theirs may take. Default 5s.
    #[serde(default = "timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

fn asymmetric() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
}

fn role_claim() -> String {
    "role".to_owned()
}

fn namespace_claim() -> String {
    "namespace".to_owned()
}

const fn leeway() -> Duration {
    Duration::from_secs(30)
}

const fn refresh() -> Duration {
    Duration::from_mins(5)
}

const fn timeout() -> Duration {
    Duration::from_secs(5)
}

impl Issuer {
    pub(crate) fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.algorithms.is_empty() || self.algorithms.contains(&Algorithm::HS256) {
            // A public key that is taken for a secret would let anybody sign.
            return Err(("token_issuer", "`algorithms` must be among RS256, ES256 and EdDSA".to_owned()));
        }
        if self.refresh < Duration::from_secs(10) {
            return Err(("token_issuer", "`refresh` must be at least 10s".to_owned()));
        }
        let url = self.jwks_url.parse::<http::Uri>().ok();
        let host = url.as_ref().and_then(http::Uri::host).unwrap_or_default();
        let is_near = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        match url.as_ref().and_then(http::Uri::scheme_str) {
            Some("https") => Ok(()),
            Some("http") if is_near => Ok(()),
            Some(_) | None => Err(("token_issuer", "`jwks_url` must be https://, or http:// on loopback".to_owned())),
        }
    }
}
