//! Where a process of a cluster listens, and where the others are.

use std::{net::SocketAddr, path::PathBuf};

use rpc::{Replicas, Token};
use serde::{Deserialize, Serialize};
use settings::Secret;

/// The settings of `troupe serve`; variables start with `TROUPE_SERVE__`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where gRPC is served, by every service but the gateway. Default 127.0.0.1:50051.
    pub(crate) listen: SocketAddr,
    /// `host:port` at which other processes reach `listen`. Default: what `listen` says.
    pub(crate) advertise: Option<String>,
    /// Where metrics and health are served over HTTP, by every service but the gateway, which has them on its own port.
    /// Default: nowhere.
    pub(crate) http: Option<SocketAddr>,
    /// Where registries are: `host:port`, several with commas between them.
    pub(crate) registry: Replicas,
    /// Where communications are.
    pub(crate) communication: Replicas,
    /// Where orchestrators are.
    pub(crate) orchestrator: Replicas,
    /// What processes present to each other: at least 16 characters. Without it nothing but loopback is listened on.
    pub(crate) token: Option<Secret>,
    /// A file with the token.
    pub(crate) token_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            advertise: None,
            http: None,
            registry: Replicas::default(),
            communication: Replicas::default(),
            orchestrator: Replicas::default(),
            token: None,
            token_file: None,
        }
    }
}

impl settings::Settings for Settings {
    const SERVICE: &'static str = "serve";
}

impl Settings {
    /// The token, where one is set.
    pub(crate) fn token(&self) -> anyhow::Result<Option<Token>> {
        let secret = Secret::given(self.token.as_ref(), self.token_file.as_deref())?;
        Ok(secret.as_ref().map(Token::new).transpose()?)
    }
}
