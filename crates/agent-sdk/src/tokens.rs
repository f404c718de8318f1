//! The token that is shown to a server, and where the next one comes from.
//!
//! A session ends with the token that it was opened with, unless the server is told of the next in time. So that is got when half of
//! the time has passed, and a failure leaves the other half to try again, also to open another session. An answer that is lost costs nothing but a try: whether a
//! refresh token was used up is unknown then, so it is never shown again, and the key is at hand.

use std::{
    convert::Infallible,
    fmt, fs,
    future::pending,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contracts::{
    Link,
    communication::v1::{RenewSessionRequest, agent_session_service_client::AgentSessionServiceClient},
};
use errors::{Code, Error};
use reqwest::{Url, redirect::Policy};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::codegen::http::HeaderValue;

use crate::ServerError;

/// How often a file is read again.
const READ_EVERY: Duration = Duration::from_mins(1);
/// Between two tries to get the next one, doubled each time, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where tokens come from.
pub(crate) enum Source {
    /// Nobody asks for one.
    Nowhere,
    /// This one, for ever.
    Fixed(String),
    /// Whatever the file says.
    File(PathBuf),
    /// A gateway, which exchanges an API key.
    Gateway(Gateway),
}

/// Where an API key is exchanged.
pub(crate) struct Gateway {
    client: reqwest::Client,
    url: String,
    key: HeaderValue,
}

impl Gateway {
    /// At its address, with a key; `ca` is trusted besides the system's authorities.
    pub(crate) fn new(address: &str, key: &str, ca: Option<&[u8]>) -> Result<Self, ServerError> {
        // A redirect could lead anywhere, and take the key along.
        let url = format!("{}/api/v1/auth/token", address.trim_end_matches('/'));
        let is_usable = Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !is_usable {
            return Err(ServerError::GatewayAddress { address: address.to_owned() });
        }
        // Nor is it shown to a proxy that the environment happens to name: the session goes through none either.
        let mut client = reqwest::Client::builder().timeout(PATIENCE).redirect(Policy::none()).no_proxy();
        if let Some(pem) = ca {
            let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(ServerError::Gateway)?;
            client = client.tls_certs_merge(authorities);
        }
        let client = client.build().map_err(ServerError::Gateway)?;
        let mut key = HeaderValue::from_str(key).map_err(|_| ServerError::Token)?;
        key.set_sensitive(true);
        Ok(Self { client, url, key })
    }

    /// The next token. The last one's refresh token is good once; where it is not good any more, the key is.
    async fn next(&self, refresh: Option<String>) -> Result<Pair, Error> {
        if let Some(refresh) = refresh {
            let renewed = self.ask(&json!({ "grant_type": "refresh_token", "refresh_token": refresh }), false).await;
            if !matches!(&renewed, Err(error) if error.code == Code::Unauthenticated) {
                return renewed;
            }
        }
        self.ask(&json!({ "grant_type": "api_key" }), true).await
    }

    async fn ask(&self, body: &serde_json::Value, with_key: bool) -> Result<Pair, Error> {
        let away = |error: reqwest::Error| {
            Error::unavailable("gateway_unavailable", "the gateway gives no token now").caused_by(error.without_url())
        };
        let mut request = self.client.post(&self.url).json(body);
        if with_key {
            request = request.header("x-api-key", self.key.clone());
        }
        let response = request.send().await.map_err(away)?;
        let status = response.status().as_u16();
        match status {
            200 => response.json().await.map_err(away),
            401 | 403 => {
                let message = format!("the gateway refuses the API key ({status})");
                Err(Error::new(Code::Unauthenticated, "key_refused", message))
            }
            _ => Err(Error::unavailable("gateway_unavailable", format!("the gateway gives no token now ({status})"))),
        }
    }
}

/// What a gateway gives.
#[derive(Deserialize)]
struct Pair {
    access_token: String,
    refresh_token: String,
    /// Seconds.
    expires_in: u64,
}

/// The token that is shown now, and the way to the next.
pub(crate) struct Tokens {
    source: Source,
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    bearer: Option<HeaderValue>,
    /// Until when it is good, as far as that is known.
    until: Option<Instant>,
    /// It was got for the stream that is opened now: where that is refused, so is the next.
    is_fresh: bool,
    refresh: Option<String>,
    /// How long the last one was good.
    life: Duration,
    /// At once, where nothing is.
    renew_at: Option<Instant>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tokens")
    }
}

impl Tokens {
    pub(crate) fn new(source: Source) -> Result<Arc<Self>, ServerError> {
        let bearer = match &source {
            Source::Fixed(token) => Some(bearer(token)?),
            Source::Nowhere | Source::File(_) | Source::Gateway(_) => None,
        };
        let present = Mutex::new(Present { bearer, ..Present::default() });
        Ok(Arc::new(Self { source, present }))
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes with every call, as `authorization`.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.present().bearer.clone()
    }

    /// Would another try bring another token?
    const fn can_renew(&self) -> bool {
        matches!(self.source, Source::File(_) | Source::Gateway(_))
    }

    /// Sees that there is one to show. What is good is shown as it is: wherever the next comes from may be away now, and a session is
    /// told of it later.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        {
            let mut present = self.present();
            present.is_fresh = false;
            if present.bearer.is_some() && present.until.is_none_or(|until| until > Instant::now()) {
                return Ok(());
            }
        }
        self.refresh().await?;
        self.present().is_fresh = true;
        Ok(())
    }

    /// The server has taken what it was shown.
    pub(crate) fn welcomed(&self) {
        self.present().is_fresh = false;
    }

    /// Gets the next token where it is time for it.
    async fn refresh(&self) -> Result<(), Error> {
        let (refresh, last) = {
            let mut present = self.present();
            if present.renew_at.is_some_and(|at| at > Instant::now()) {
                return Ok(());
            }
            (present.refresh.take(), present.life)
        };
        let now = Instant::now();
        let next = match &self.source {
            Source::Nowhere | Source::Fixed(_) => return Ok(()),
            Source::File(path) => {
                let renew_at = Some(now + READ_EVERY);
                Present { bearer: Some(read(path)?), renew_at, ..Present::default() }
            }
            Source::Gateway(gateway) => {
                let pair = gateway.next(refresh).await?;
                let life = Duration::from_secs(pair.expires_in);
                // One that is good for less than the one before comes near the end of all that one exchange gives: the key begins anew.
                let refresh = (life >= last).then_some(pair.refresh_token);
                let (until, renew_at) = (Some(now + life), Some(now + (life / 2).max(AGAIN)));
                let bearer = Some(unreadable(bearer(&pair.access_token))?);
                Present { bearer, until, is_fresh: false, refresh, life, renew_at }
            }
        };
        *self.present() = next;
        Ok(())
    }

    /// Forgets a token that a server has refused, where another would do: that is got before the next stream, and whether the key, too,
    /// is good no more, the gateway says. False where the same would come again.
    pub(crate) fn replace(&self, refused: &Error) -> bool {
        let mut present = self.present();
        let is_replaceable = refused.code == Code::Unauthenticated
            && match &self.source {
                Source::Nowhere | Source::Fixed(_) => false,
                // One that cannot be read now is read again.
                Source::File(path) => read(path).map_or(true, |next| Some(next) != present.bearer),
                Source::Gateway(_) => match refused.reason {
                    "key_refused" => false,
                    "token_expired" | "token_revoked" => true,
                    // Signed with what is not known any more, or by another clock; a new one that is refused so would be again.
                    _ => !present.is_fresh,
                },
            };
        if is_replaceable {
            *present = Present::default();
        }
        is_replaceable
    }

    /// Keeps a session going: tells the server of each next token. For ever.
    pub(crate) async fn keep(&self, mut client: AgentSessionServiceClient<Link>, session_id: String) -> Infallible {
        if !self.can_renew() {
            return pending().await;
        }
        let (mut told, mut again) = (self.header(), AGAIN);
        loop {
            let renew_at = self.present().renew_at;
            match renew_at {
                // What is not told yet is told now.
                Some(at) if self.header() == told => sleep_until(at).await,
                Some(_) | None => {}
            }
            let renewed = async {
                self.refresh().await?;
                let present = self.header();
                if present != told {
                    client.renew_session(RenewSessionRequest { session_id: session_id.clone() }).await?;
                }
                Ok(present)
            };
            match timeout(PATIENCE, renewed).await.unwrap_or_else(|_| Err(late())) {
                Ok(present) => (told, again) = (present, AGAIN),
                Err(error) if error.reason == "session_not_found" => {
                    // Another replica has it, or it ends with no token: trying again helps neither.
                    tracing::warn!(session.id = session_id, "the session cannot be renewed, and ends with its token");
                    return pending().await;
                }
                Err(error) => {
                    tracing::warn!(
                        error = errors::chain(&error),
                        "the session's token is not renewed; without one the session ends"
                    );
                    sleep(again).await;
                    again = (again * 2).min(AGAIN_AT_MOST);
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<HeaderValue, Error> {
    let text = fs::read_to_string(path).map_err(|error| {
        Error::unavailable("token_unreadable", format!("cannot read {}", path.display())).caused_by(error)
    })?;
    unreadable(bearer(text.trim_end()))
}

fn unreadable(bearer: Result<HeaderValue, ServerError>) -> Result<HeaderValue, Error> {
    bearer.map_err(|error| Error::unavailable("token_unreadable", error.to_string()))
}

fn late() -> Error {
    Error::unavailable("token_late", "no token in time for the session")
}

fn bearer(token: &str) -> Result<HeaderValue, ServerError> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ServerError::Token)?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_and_its_next_token_is_shown() {
        let path = std::env::temp_dir().join(format!("tokens-{}", std::process::id()));
        fs::write(&path, "first\n").unwrap();
        let tokens = Tokens::new(Source::File(path.clone())).unwrap();
        assert!(tokens.header().is_none());
        let shown = async || {
            tokens.refresh().await.unwrap();
            tokens.header().unwrap()
        };
        let over = Error::new(Code::Unauthenticated, "token_expired", "it is over");
        assert_eq!(shown().await, "Bearer first");
        fs::write(&path, "second").unwrap();
        assert_eq!(shown().await, "Bearer first", "it is not time yet");
        tokio::time::advance(READ_EVERY).await;
        assert_eq!(shown().await, "Bearer second");
        assert!(!tokens.replace(&over), "the file says the same");
        fs::write(&path, "third").unwrap();
        assert!(tokens.replace(&over));
        assert_eq!(shown().await, "Bearer third");
        fs::remove_file(&path).unwrap();
        assert!(!tokens.replace(&Error::new(Code::Forbidden, "agent_forbidden", "it is another's")));
        assert_eq!(shown().await, "Bearer third");
        tokio::time::advance(READ_EVERY).await;
        assert_eq!(tokens.refresh().await.unwrap_err().reason, "token_unreadable");
        tokens.ready().await.unwrap();
        assert_eq!(tokens.header().unwrap(), "Bearer third", "it may be good still");
        assert!(tokens.replace(&over), "the next may be read later");
        assert_eq!(tokens.ready().await.unwrap_err().reason, "token_unreadable");
    }

    #[tokio::test]
    async fn a_fixed_token_is_what_it_is() {
        let tokens = Tokens::new(Source::Fixed("one".to_owned())).unwrap();
        tokens.refresh().await.unwrap();
        assert!(!tokens.replace(&Error::new(Code::Unauthenticated, "token_expired", "it is over")));
        assert_eq!(tokens.header().unwrap(), "Bearer one");
    }
}
