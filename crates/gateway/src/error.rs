//! Why the gateway does not start.

use std::net::SocketAddr;

/// An address on which the gateway must not listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Everybody who reaches it could do everything.
    #[error("refusing to listen on {0}: there is no authentication yet, so only loopback (127.0.0.1, [::1]) is safe")]
    Unprotected(SocketAddr),
}

/// Why the gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its database does not open.
    #[error("the gateway's database does not open")]
    Database(#[from] store::OpenError),
}

/// May the gateway listen here? Only on loopback, as long as nobody has to say who they are.
pub fn check_listen(address: SocketAddr) -> Result<(), Error> {
    if address.ip().to_canonical().is_loopback() { Ok(()) } else { Err(Error::Unprotected(address)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on_without_authentication() {
        for safe in ["127.0.0.1:8080", "127.9.9.9:0", "[::1]:8080", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check_listen(safe.parse().unwrap()), Ok(()), "{safe}");
        }
        for unsafe_address in ["0.0.0.0:8080", "[::]:8080", "192.168.1.1:80"] {
            let error = check_listen(unsafe_address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("authentication"), "{error}");
        }
    }
}
