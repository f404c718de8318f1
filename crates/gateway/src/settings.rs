//! The gateway's options.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use settings::{ByteSize, Database, Redis, Secret};

use crate::{Certificate, Issuer, Jwt, Network, RateLimit};

/// How long an execute request may wait for the end of its execution, as the orchestrator bounds it.
pub(crate) const MAX_WAIT: Duration = Duration::from_mins(1);

/// What an operator can set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where HTTP clients are served. Anything but loopback wants an API key. Default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// The certificate that clients see; it is read again when its files change. Without it they are served plain HTTP, which is
    /// for loopback, or for a proxy in front that has the certificate. Default none.
    pub tls: Option<Certificate>,
    /// What clients present as `X-API-Key`, at least 16 characters. Default none: nobody has to present anything.
    pub api_key: Option<Secret>,
    /// A file with the API key; where it is missing it is made, with a new key that is told once. Default none.
    pub api_key_file: Option<PathBuf>,
    /// A file with the gateway's own secret, which keeps API keys and signs tokens; where it is missing it is made. All gateways on
    /// one database must have the same. Default: with `troupe dev` in the data directory; in a cluster a secret made of the token of
    /// the processes, so that a new token ends all keys.
    pub secret_file: Option<PathBuf>,
    /// The name of the secret that is given up for the present one: a gateway with another secret than that of its database says it, and
    /// each logs its own at its start (at `debug`). All keys and tokens that were made under it are good no more. Default none.
    pub replaces_secret: Option<String>,
    /// The gateway's own tokens.
    pub jwt: Jwt,
    /// Somebody else whose tokens are taken too. Default none.
    pub token_issuer: Option<Issuer>,
    /// Where idempotency records, keys and the audit log are kept.
    pub database: Database,
    /// Redis, in which replicas count requests together. Its `timeout` is the longest that a request waits for it: default 50ms
    /// here.
    pub redis: Redis,
    /// How often one caller may ask.
    pub rate_limit: RateLimit,
    /// Addresses, and networks as `10.0.0.0/8`, of the proxies that stand between clients and the gateway: what they say in
    /// `X-Forwarded-For` is believed. Too few and all clients count as one address; too many and a client can say that it is
    /// somebody else. Default none.
    pub trusted_proxies: Vec<Network>,
    /// The largest request body; larger ones are answered with 413. Below the largest definition that the orchestrator
    /// takes, such definitions can only be given over gRPC. Default 5MiB.
    pub max_body: ByteSize,
    /// Connections of clients at the same time; one more waits until another ends. Each has a file descriptor. Default 4096.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, and leave a connection idle; then it is closed. Longer than
    /// load balancers in front keep idle connections, or requests meet one that is just closed. Default 75s.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// How long one call to another service may take, waits not counted, before the client is answered with 504.
    /// Default 10s.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// How long a client may take to send its body before it is answered with 408. Default 30s.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long one request may take in all; event streams are not bound by it once they have begun. Must be longer than
    /// the longest wait (60s) and `call_timeout` together. Default 2m.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Requests that are worked on at the same time; one more is answered with 503. Default 2048.
    pub max_requests: usize,
    /// Event streams that are open at the same time; one more is answered with 503. Default 512.
    pub max_streams: usize,
    /// Pause after which an idle event stream gets a comment, so that nothing in between takes it for dead. Default 15s.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Host names, besides those of loopback, under which clients may address the gateway. Too few and a client behind a
    /// proxy is refused with 403; a name that somebody else controls opens the API to web pages (DNS rebinding).
    /// Default none.
    pub allowed_hosts: Vec<String>,
    /// Web pages of others.
    pub cors: Cors,
    /// How long clients are still let in after a stop was asked for, while `/health/ready` says 503 already: longer than a load
    /// balancer takes to notice (in Kubernetes about 10s), and shorter than the time after which the process is killed.
    /// Default 0s.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// How long an `Idempotency-Key` is remembered; a retry after that creates anew. Default 24h.
    #[serde(with = "humantime_serde")]
    pub idempotency_ttl: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            api_key: None,
            api_key_file: None,
            secret_file: None,
            replaces_secret: None,
            jwt: Jwt::default(),
            token_issuer: None,
            database: Database::default(),
            redis: Redis { timeout: Duration::from_millis(50), ..Redis::default() },
            rate_limit: RateLimit::default(),
            trusted_proxies: Vec::new(),
            max_body: ByteSize(5 << 20),
            max_connections: 4096,
            head_timeout: Duration::from_secs(75),
            call_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_mins(2),
            max_requests: 2048,
            max_streams: 512,
            keep_alive: Duration::from_secs(15),
            allowed_hosts: Vec::new(),
            cors: Cors::default(),
            drain_delay: Duration::ZERO,
            idempotency_ttl: Duration::from_hours(24),
        }
    }
}

/// Which web pages, besides the gateway's own, may call and read the answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins of the pages, as browsers name them: `https://example.org`, with the port where it is not that of the scheme. They
    /// present a key or a token as every client does; there are no cookies. A page of an origin that somebody else controls can
    /// do with the keys of its readers what it likes. Default none.
    pub allowed_origins: Vec<String>,
    /// How long a browser goes by what it was told, at most; most do no longer than two hours. Default 10m.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for Cors {
    fn default() -> Self {
        Self { allowed_origins: Vec::new(), max_age: Duration::from_mins(10) }
    }
}

impl Cors {
    fn validate(&self) -> Result<(), (&'static str, String)> {
        let is_origin = |text: &str| {
            let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            authority.is_some_and(|name| {
                name.parse::<http::uri::Authority>().is_ok_and(|parsed| parsed.as_str() == name && !name.contains('@'))
            })
        };
        match self.allowed_origins.iter().find(|text| !is_origin(text)) {
            Some(wrong) => {
                Err(("cors", format!("`allowed_origins` must be origins as https://example.org, and not {wrong:?}")))
            }
            None => Ok(()),
        }
    }
}

impl Settings {
    /// Does everybody have to say who they are?
    pub const fn is_protected(&self) -> bool {
        self.api_key.is_some() || self.api_key_file.is_some() || self.token_issuer.is_some()
    }
}

impl settings::Settings for Settings {
    const SERVICE: &'static str = "gateway";

    fn validate(&self) -> Result<(), (&'static str, String)> {
        self.redis.validate()?;
        self.rate_limit.validate()?;
        self.jwt.validate()?;
        self.cors.validate()?;
        if let Some(issuer) = &self.token_issuer {
            issuer.validate()?;
        }
        if let Some(name) = &self.replaces_secret
            && !(name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(("replaces_secret", "must be the name of a secret, as the log of a gateway has it".to_owned()));
        }
        if self.request_timeout <= MAX_WAIT + self.call_timeout {
            let least = humantime_serde::re::humantime::format_duration(MAX_WAIT + self.call_timeout);
            return Err(("request_timeout", format!("must be longer than {least}, the longest wait and call_timeout")));
        }
        if self.max_connections == 0 {
            return Err(("max_connections", "must be at least 1".to_owned()));
        }
        if self.head_timeout.is_zero() {
            return Err(("head_timeout", "must be longer than 0s".to_owned()));
        }
        if self.max_requests == 0 {
            return Err(("max_requests", "must be at least 1".to_owned()));
        }
        if self.max_streams == 0 {
            return Err(("max_streams", "must be at least 1".to_owned()));
        }
        if self.keep_alive.is_zero() {
            return Err(("keep_alive", "must be longer than 0s".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use settings::Settings as _;

    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        let with = |origin: &str| Cors { allowed_origins: vec![origin.to_owned()], ..Cors::default() }.validate();
        for right in ["https://example.org", "http://localhost:3000", "https://[::1]:8443"] {
            assert_eq!(with(right), Ok(()), "{right}");
        }
        for wrong in ["*", "null", "", "example.org", "https://", "https://example.org/", "https://a@b", "https://a b"]
        {
            assert_eq!(with(wrong).unwrap_err().0, "cors", "{wrong}");
        }
    }

    #[test]
    fn a_request_may_take_as_long_as_the_longest_wait() {
        let short = Settings { request_timeout: Duration::from_mins(1), ..Settings::default() };
        assert_eq!(short.validate().unwrap_err().0, "request_timeout");
    }

    #[test]
    fn a_secret_is_named_and_not_told() {
        let replacing = |name: &str| Settings { replaces_secret: Some(name.to_owned()), ..Settings::default() };
        assert_eq!(replacing("0123456789abcdef").validate(), Ok(()));
        assert_eq!(replacing("the-secret-itself-0123456789abcdef").validate().unwrap_err().0, "replaces_secret");
    }

    /// What operators may name as an origin.
    mod fuzz {
        use proptest::prelude::*;
        use testkit::fuzz::{cases, nearly, text};

        use super::*;

        proptest! {
            #![proptest_config(cases(512))]

            #[test]
            fn an_origin_has_no_path_and_nobody_in_it(origin in prop_oneof![
                text(),
                nearly("https?://([a-z]{1,6}\\.example|localhost|\\[::1\\])(:[0-9]{1,5})?"),
            ]) {
                let cors = Cors { allowed_origins: vec![origin.clone()], ..Cors::default() };
                match cors.validate() {
                    Ok(()) => {
                        let parsed = origin.parse::<http::Uri>().unwrap();
                        prop_assert!(matches!(parsed.scheme_str(), Some("http" | "https")), "{}", origin);
                        prop_assert!(matches!(parsed.path(), "" | "/") && parsed.query().is_none(), "{}", origin);
                        let (_, authority) = origin.split_once("://").unwrap();
                        prop_assert_eq!(parsed.authority().map(http::uri::Authority::as_str), Some(authority));
                        prop_assert!(!origin.contains('@'), "{}", origin);
                    }
                    Err((field, message)) => {
                        prop_assert_eq!(field, "cors");
                        let named = format!("{origin:?}");
                        prop_assert!(message.contains(&named), "{}", message);
                    }
                }
            }
        }
    }
}
