//! Where the server is, and what is shown to it.

use std::{env, fmt, fs, io, path::PathBuf, sync::Arc, time::Duration};

use contracts::Link;
use tonic::{
    body::Body,
    codegen::http::{Request, header::AUTHORIZATION},
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tower::ServiceExt as _;

use crate::tokens::{Gateway, Source, Tokens};

/// What a certificate begins with (RFC 7468).
const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Why a server cannot be connected to as it was described.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is not a URL that can be connected to.
    #[error("the address {address:?} cannot be used")]
    Address {
        /// As given.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The token has characters that no header takes.
    #[error("the token cannot be sent: it has other characters than visible ASCII")]
    Token,
    /// The gateway cannot be asked for tokens as it was described.
    #[error("the gateway cannot be asked for tokens")]
    Gateway(#[source] reqwest::Error),
    /// The gateway's address is not a URL with `http` or `https`.
    #[error("the gateway's address {address:?} cannot be used: it must begin with http:// or https://")]
    GatewayAddress {
        /// As given.
        address: String,
    },
    /// Two ways to come by a token.
    #[error("TROUPE_TOKEN_FILE and TROUPE_GATEWAY are both set: one of them says what is shown")]
    TwoTokens,
    /// The certificates, or the name that they are to be made out to.
    #[error("the certificates cannot be used")]
    Tls(#[source] tonic::transport::Error),
    /// What was given as the authority holds no certificate: nobody could be trusted.
    #[error("the authority's PEM holds no certificate")]
    NoAuthority,
    /// A file that a variable names cannot be read.
    #[error("cannot read {path}, which {variable} names")]
    File {
        /// The variable.
        variable: &'static str,
        /// What it says.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate without its key, or the other way round.
    #[error("TROUPE_CERT_FILE and TROUPE_KEY_FILE belong together")]
    HalfIdentity,
    /// A gateway without a key, or the other way round.
    #[error("TROUPE_GATEWAY and TROUPE_API_KEY_FILE belong together")]
    HalfKey,
}

/// A Troupe to connect to. An address alone is one too: `"http://127.0.0.1:50051".into()`.
#[derive(Clone)]
pub struct Server {
    address: String,
    token: Shown,
    ca: Option<Vec<u8>>,
    identity: Option<Identity>,
    name: Option<String>,
}

/// What is shown to the server.
#[derive(Clone)]
enum Shown {
    Nothing,
    Token(String),
    File(PathBuf),
    Key { gateway: String, key: String },
}

impl Server {
    /// At an address such as `http://127.0.0.1:50051`, or `https://…` where it is served over TLS.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), token: Shown::Nothing, ca: None, identity: None, name: None }
    }

    /// As the environment says: `TROUPE_ADDRESS` (`http://127.0.0.1:50051`), and, each the path of a file, `TROUPE_TOKEN_FILE`,
    /// `TROUPE_CA_FILE`, `TROUPE_CERT_FILE`, `TROUPE_KEY_FILE`; `TROUPE_SERVER_NAME`. Each is what the method of that name takes.
    /// `TROUPE_GATEWAY` (`https://gateway:8080`) and the file `TROUPE_API_KEY_FILE` are what [`Self::key`] takes; not `TROUPE_URL`, which
    /// people set for the command line.
    pub fn from_env() -> Result<Self, ServerError> {
        Self::from_variables(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&'static str) -> Option<String>) -> Result<Self, ServerError> {
        let file = |name| {
            let path = variable(name);
            let read =
                path.map(|path| fs::read(&path).map_err(|source| ServerError::File { variable: name, path, source }));
            read.transpose()
        };
        let mut server = Self::at(variable("TROUPE_ADDRESS").unwrap_or_else(|| "http://127.0.0.1:50051".to_owned()));
        if let Some(path) = variable("TROUPE_TOKEN_FILE") {
            file("TROUPE_TOKEN_FILE")?;
            server = server.token_file(path);
        }
        server = match (variable("TROUPE_GATEWAY"), file("TROUPE_API_KEY_FILE")?) {
            (Some(_), Some(_)) if variable("TROUPE_TOKEN_FILE").is_some() => return Err(ServerError::TwoTokens),
            (Some(gateway), Some(key)) => server.key(gateway, String::from_utf8_lossy(&key).trim_end()),
            (None, None) => server,
            _ => return Err(ServerError::HalfKey),
        };
        if let Some(ca) = file("TROUPE_CA_FILE")? {
            server = server.ca(ca);
        }
        server = match (file("TROUPE_CERT_FILE")?, file("TROUPE_KEY_FILE")?) {
            (Some(cert), Some(key)) => server.identity(cert, key),
            (None, None) => server,
            _ => return Err(ServerError::HalfIdentity),
        };
        Ok(match variable("TROUPE_SERVER_NAME") {
            Some(name) => server.server_name(name),
            None => server,
        })
    }

    /// The address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A token, shown with every call: that of a cluster (`serve.token_file`), or the agent's own access token. With the latter the
    /// agent ends when the token has expired: see [`Self::key`].
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Shown::Token(token.into());
        self
    }

    /// A file with the token, which is read again each minute: somebody else writes the next one there.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Shown::File(path.into());
        self
    }

    /// The agent's own API key, and the gateway (`https://gateway:8080`) that exchanges it for access tokens. Each is renewed in
    /// time, so the session goes on for as long as the key is good. Over plain `http` whoever is on the way reads the key along.
    #[must_use]
    pub fn key(mut self, gateway: impl Into<String>, key: impl Into<String>) -> Self {
        self.token = Shown::Key { gateway: gateway.into(), key: key.into() };
        self
    }

    /// The authority that made the server's certificate, as PEM; the system's own authorities unless said otherwise. For
    /// addresses with `https`.
    #[must_use]
    pub fn ca(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.ca = Some(pem.as_ref().to_vec());
        self
    }

    /// The certificate that the agent shows, and its key, as PEM. A cluster with `serve.tls` wants one of its own authority.
    #[must_use]
    pub fn identity(mut self, cert: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.identity = Some(Identity::from_pem(cert, key));
        self
    }

    /// The name that the server's certificate is to be made out to; the address's host unless said otherwise.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A link that connects lazily, and notices a dead peer within 20 s; and the tokens that it shows.
    pub(crate) fn link(self) -> Result<(Link, Arc<Tokens>), ServerError> {
        let Self { address, token, ca, identity, name } = self;
        let unusable = |source| ServerError::Address { address: address.clone(), source };
        let mut endpoint = Endpoint::from_shared(address.clone())
            .map_err(unusable)?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .http2_max_header_list_size(contracts::MAX_HEAD_BYTES)
            .keep_alive_while_idle(true);
        if endpoint.uri().scheme_str() == Some("https") {
            let is_certificate = |ca: &[u8]| ca.windows(PEM.len()).any(|window| window == PEM);
            let mut tls = match &ca {
                Some(ca) if !is_certificate(ca) => return Err(ServerError::NoAuthority),
                Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            if let Some(identity) = identity {
                tls = tls.identity(identity);
            }
            if let Some(name) = name {
                tls = tls.domain_name(name);
            }
            endpoint = endpoint.tls_config(tls).map_err(ServerError::Tls)?;
        }
        let channel = endpoint.connect_lazy();
        let tokens = Tokens::new(match token {
            Shown::Nothing => Source::Nowhere,
            Shown::Token(token) => Source::Fixed(token),
            Shown::File(path) => Source::File(path),
            Shown::Key { gateway, key } => Source::Gateway(Gateway::new(&gateway, &key, ca.as_deref())?),
        })?;
        let shown = Arc::clone(&tokens);
        let link = Link::new(channel.map_request(move |mut request: Request<Body>| {
            if let Some(bearer) = shown.header() {
                request.headers_mut().insert(AUTHORIZATION, bearer);
            }
            request
        }));
        Ok((link, tokens))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl From<&str> for Server {
    fn from(address: &str) -> Self {
        Self::at(address)
    }
}

impl From<String> for Server {
    fn from(address: String) -> Self {
        Self::at(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(variables: &[(&'static str, &str)]) -> Result<Server, ServerError> {
        let value = |name| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        Server::from_variables(value)
    }

    #[test]
    fn the_environment_describes_a_server() {
        let plain = server(&[]).unwrap();
        assert!(plain.address == "http://127.0.0.1:50051" && matches!(plain.token, Shown::Nothing));
        let wrong = server(&[("TROUPE_TOKEN_FILE", "/nowhere/token")]).unwrap_err();
        assert_eq!(wrong.to_string(), "cannot read /nowhere/token, which TROUPE_TOKEN_FILE names");
        assert!(matches!(server(&[("TROUPE_CERT_FILE", "/dev/null")]), Err(ServerError::HalfIdentity)));
        assert!(matches!(server(&[("TROUPE_GATEWAY", "http://127.0.0.1:1")]), Err(ServerError::HalfKey)));
        let keyed = [("TROUPE_GATEWAY", "http://127.0.0.1:1"), ("TROUPE_API_KEY_FILE", "/dev/null")];
        assert!(matches!(server(&keyed).unwrap().token, Shown::Key { .. }));
        let both = [&keyed[..], &[("TROUPE_TOKEN_FILE", "/dev/null")]].concat();
        assert!(matches!(server(&both), Err(ServerError::TwoTokens)));
    }

    #[tokio::test]
    async fn what_cannot_be_sent_or_used_is_told_before_anything_is_connected() {
        assert!(matches!(Server::at("no url at all").link(), Err(ServerError::Address { .. })));
        assert!(matches!(Server::at("http://127.0.0.1:1").token("a\nb").link(), Err(ServerError::Token)));
        assert!(matches!(Server::at("https://127.0.0.1:1").ca("no certificate").link(), Err(ServerError::NoAuthority)));
        let keyed = Server::at("http://127.0.0.1:1").key("http://127.0.0.1:2", "a\nb");
        assert!(matches!(keyed.link(), Err(ServerError::Token)));
        for address in ["gateway:8080", "/gateway"] {
            let keyed = Server::at("http://127.0.0.1:1").key(address, "trk_1");
            assert!(matches!(keyed.link(), Err(ServerError::GatewayAddress { .. })), "{address}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let shown = format!("{:?}", Server::at("http://127.0.0.1:1").token("secret-word"));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
