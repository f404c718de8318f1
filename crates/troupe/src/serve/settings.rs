//! Where a process of a cluster listens, and where the others are.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use domain::SystemClock;
use rpc::{Caller, Replicas, Tls, TlsSettings, Token};
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
    /// Where registries are: `host:port`, several with commas between them. A name stands for all its addresses, and is looked
    /// up again every few seconds.
    pub(crate) registry: Replicas,
    /// Where communications are.
    pub(crate) communication: Replicas,
    /// Where orchestrators are.
    pub(crate) orchestrator: Replicas,
    /// Where agent-runners are: gateways ask them what they have refused, for the audit log, and nobody calls them otherwise.
    /// Default: what they refuse is not in it.
    pub(crate) agent_runner: Replicas,
    /// What processes sign with, and agents and operators present: at least 32 characters. Without it nothing but loopback is listened on.
    pub(crate) token: Option<Secret>,
    /// A file with the token.
    pub(crate) token_file: Option<PathBuf>,
    /// What is to be presented at `/metrics` of `http`, as `authorization: Bearer …`: at least 32 characters. Beyond loopback it is
    /// needed, and the token counts where there is no other. A gateway takes it at its `/metrics` too, besides credentials that may
    /// read them.
    pub(crate) metrics_token: Option<Secret>,
    /// A file with that.
    pub(crate) metrics_token_file: Option<PathBuf>,
    /// Certificates that both ends of every connection between processes show. Default none: gRPC without TLS.
    pub(crate) tls: Option<TlsSettings>,
    /// Calls to one other service that are under way at once; one more waits a second, and is refused then. Too few and a
    /// busy process refuses work, too many and a slow service takes all its memory. Default 1024.
    pub(crate) max_calls: usize,
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
            agent_runner: Replicas::default(),
            token: None,
            token_file: None,
            metrics_token: None,
            metrics_token_file: None,
            tls: None,
            max_calls: Caller::MAX_CALLS,
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
        secret.as_ref().map(Token::new).transpose().context("serve.token cannot be used")
    }

    /// What keys of all processes are made of: the token.
    pub(crate) fn root_secret(&self) -> anyhow::Result<Option<access::RootSecret>> {
        // Keys are made of what may be presented, and of nothing shorter.
        self.token()?;
        let secret = Secret::given(self.token.as_ref(), self.token_file.as_deref())?;
        Ok(secret.as_ref().map(access::RootSecret::new))
    }

    /// What processes sign with.
    pub(crate) fn keys(&self) -> anyhow::Result<Option<access::Keys>> {
        Ok(self.root_secret()?.map(|root| access::Keys::of(&root, Arc::new(SystemClock))))
    }

    /// What metrics are behind where they can be reached from beyond loopback.
    pub(crate) fn metrics_token(&self) -> anyhow::Result<Option<Token>> {
        if self.http.is_none_or(|http| http.ip().to_canonical().is_loopback()) {
            return Ok(None);
        }
        let own = self.own_metrics_secret()?.as_ref().map(Token::new).transpose()?;
        own.map_or_else(|| self.token(), |own| Ok(Some(own)))
    }

    /// What opens metrics and nothing else, where it is set: also those of a gateway, which takes the token of all for nothing.
    pub(crate) fn own_metrics_secret(&self) -> anyhow::Result<Option<Secret>> {
        let own = Secret::given(self.metrics_token.as_ref(), self.metrics_token_file.as_deref())?;
        // One that can be guessed is refused by every process.
        own.as_ref().map(Token::new).transpose().context("serve.metrics_token cannot be used")?;
        Ok(own)
    }

    /// The same as text, for whoever reads metrics.
    pub(crate) fn metrics_secret(&self) -> anyhow::Result<Option<Secret>> {
        let own = self.own_metrics_secret()?;
        let of_all = || Secret::given(self.token.as_ref(), self.token_file.as_deref());
        Ok(own.map_or_else(of_all, |own| Ok(Some(own)))?)
    }

    /// The certificates, where there are some.
    pub(crate) fn tls(&self) -> anyhow::Result<Option<Tls>> {
        self.tls.as_ref().map(Tls::load).transpose().context("serve.tls cannot be used")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_can_be_guessed_is_refused_wherever_it_is_used_and_by_one_rule() {
        let of = |length: usize| Settings { token: Some(Secret::new("t".repeat(length))), ..Settings::default() };
        let refusals = [of(31).token().map(drop), of(31).root_secret().map(drop), of(31).keys().map(drop)];
        for refused in refusals {
            let told = format!("{:#}", refused.unwrap_err());
            assert!(told.contains("serve.token") && told.contains("at least 32"), "{told}");
        }
        assert!(of(32).token().unwrap().is_some() && of(32).root_secret().unwrap().is_some());
    }
}
