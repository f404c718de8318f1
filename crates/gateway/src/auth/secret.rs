//! The gateway's own secret: a file that the first start makes.

use std::path::{Path, PathBuf};

use access::RootSecret;
use settings::Secret;

use crate::{Settings, api_key};

/// The shortest secret: shorter ones can be guessed.
const SHORTEST: usize = 32;

/// Why the secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or made.
    #[error("the gateway's secret cannot be read from {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It can be guessed.
    #[error("the gateway's secret must be at least {SHORTEST} characters")]
    Short,
}

/// The secret in the file that the settings name, or else in `otherwise`. Where the file is missing it is made.
///
/// All gateways on one database must have the same: keys that were made with one open at no other.
pub fn secret(settings: &Settings, otherwise: Option<&Path>) -> Result<Option<RootSecret>, SecretError> {
    let Some(path) = settings.secret_file.as_deref().or(otherwise) else { return Ok(None) };
    let wrong = |source| SecretError::File { path: path.to_owned(), source };
    if !path.exists() {
        api_key::make(path, "trs").map_err(wrong)?;
    }
    let secret = Secret::given(None, Some(path)).map_err(wrong)?;
    match secret {
        Some(secret) if secret.reveal().len() >= SHORTEST => Ok(Some(RootSecret::new(&secret))),
        Some(_) | None => Err(SecretError::Short),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_is_the_same_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let first = secret(&Settings::default(), Some(&path)).unwrap().unwrap();
        let again = secret(&Settings { secret_file: Some(path), ..Settings::default() }, None).unwrap().unwrap();
        assert_eq!(first.derive("x"), again.derive("x"));
        assert_ne!(first.derive("x"), first.derive("y"));
        assert!(secret(&Settings::default(), None).unwrap().is_none());
        let short = folder.path().join("short");
        std::fs::write(&short, "too short").unwrap();
        assert!(matches!(secret(&Settings::default(), Some(&short)), Err(SecretError::Short)));
    }
}
