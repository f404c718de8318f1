//! Why the gateway does not start.

use std::net::SocketAddr;

/// An address on which the gateway must not listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Everybody who reaches it could do everything.
    #[error(
        "refusing to listen on {0} without authentication: set gateway.api_key_file, or listen on loopback (127.0.0.1, [::1])"
    )]
    Unprotected(SocketAddr),
}

/// Why the gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its database does not open.
    #[error("the gateway's database does not open")]
    Database(#[from] ::store::OpenError),
    /// The file with the API key cannot be read or made.
    #[error("the API key cannot be read from {}", path.display())]
    KeyFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The settings of Redis are faulty.
    #[error("Redis cannot be used")]
    Redis(#[from] ::store::RedisError),
    /// The keys of tokens cannot be used.
    #[error("tokens cannot be signed")]
    Tokens(#[from] crate::SigningError),
    /// The settings of another issuer cannot be used.
    #[error("tokens of another issuer cannot be verified")]
    Issuer(#[from] crate::IssuerError),
    /// The certificate for clients cannot be used.
    #[error("gateway.tls cannot be used")]
    Tls(#[from] crate::TlsError),
    /// What gateways agree about cannot be read.
    #[error("the gateway's database cannot be read")]
    Agreed(#[from] sqlx::Error),
    /// Keys and tokens in its database were made under another secret.
    #[error(
        "another secret has made the keys and tokens in the gateway's database: give this gateway the same secret_file (or \
         serve.token) as the others; or, to give up what was made, set gateway.replaces_secret: {0}"
    )]
    OtherSecret(String),
    /// The API key can be guessed.
    #[error("the API key must be at least 16 characters")]
    ShortKey,
}

/// May the gateway listen here? Only on loopback, where nobody has to say who they are.
pub fn check_listen(address: SocketAddr, is_protected: bool) -> Result<(), Error> {
    if is_protected || address.ip().to_canonical().is_loopback() { Ok(()) } else { Err(Error::Unprotected(address)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on_without_authentication() {
        for safe in ["127.0.0.1:8080", "127.9.9.9:0", "[::1]:8080", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check_listen(safe.parse().unwrap(), false), Ok(()), "{safe}");
        }
        for unsafe_address in ["0.0.0.0:8080", "[::]:8080", "192.168.1.1:80"] {
            let address = unsafe_address.parse().unwrap();
            assert_eq!(check_listen(address, true), Ok(()));
            let error = check_listen(address, false).unwrap_err().to_string();
            assert!(error.contains("authentication"), "{error}");
        }
    }
}
