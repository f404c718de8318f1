//! The public keys of another issuer.
//!
//! One task asks for them: ahead of time, and where a token comes with a key that is not known, but seldom. So no caller can keep
//! it from asking, and those whose keys are known wait for nothing. While the issuer does not answer, the keys that are known go on
//! being good for [`STALE`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::BytesMut;
use domain::{Clock, Timestamp};
use errors::Error;
use jsonwebtoken::{
    DecodingKey,
    jwk::{Jwk, PublicKeyUse},
};
use serde::Deserialize;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{sleep, timeout},
};

use super::{issuer::IssuerError, settings::Issuer};

/// The shortest time between two requests for keys.
const SELDOM: Duration = Duration::from_secs(10);
/// How long keys are good that could not be asked for again.
const STALE: Duration = Duration::from_hours(24);
/// The largest set of keys, in bytes and in keys.
const MOST_BYTES: usize = 256 * 1024;
const MOST_KEYS: usize = 100;
/// Callers with unknown keys that wait for an answer; one more is told at once what is known.
const MOST_WAITING: usize = 64;
/// What an answer may be later than its own limit.
const MARGIN: Duration = Duration::from_secs(1);

pub(super) struct Published {
    url: String,
    client: reqwest::Client,
    /// How long keys are believed before they are asked for again, and how long an answer may take.
    refresh: Duration,
    patience: Duration,
    state: watch::Sender<State>,
    wanted: Notify,
    waiting: Semaphore,
}

/// A JWK set, each of whose keys is read by itself.
#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, DecodingKey>,
    /// When they came.
    at: Option<Timestamp>,
    /// When they were asked for last.
    asked: Option<Timestamp>,
}

impl State {
    fn is_known(&self, now: Timestamp) -> bool {
        self.at.is_some_and(|at| now.since(at) < STALE)
    }

    fn was_asked(&self, now: Timestamp) -> bool {
        self.asked.is_some_and(|asked| now.since(asked) < SELDOM)
    }

    /// What is known of a key.
    fn key(&self, kid: &str, now: Timestamp) -> Result<Option<DecodingKey>, Error> {
        if self.is_known(now) {
            return Ok(self.keys.get(kid).cloned());
        }
        let message = "the issuer of tokens cannot be asked for its keys now";
        Err(Error::unavailable("issuer_unavailable", message))
    }
}

impl Published {
    pub(super) fn new(settings: &Issuer) -> Result<Self, IssuerError> {
        let client = reqwest::Client::builder()
            .connect_timeout(settings.timeout)
            .timeout(settings.timeout)
            // Who publishes keys does so where it is said: a redirect could lead anywhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            url: settings.jwks_url.clone(),
            client,
            refresh: settings.refresh,
            patience: settings.timeout,
            state: watch::Sender::default(),
            wanted: Notify::new(),
            waiting: Semaphore::new(MOST_WAITING),
        })
    }

    /// Asks for the keys whenever that is due, for ever.
    pub(super) async fn follow(&self, clock: &Arc<dyn Clock>) {
        loop {
            let fetched = self.fetch().await;
            let is_there = fetched.is_ok();
            let now = clock.now();
            self.state.send_modify(|state| {
                state.asked = Some(now);
                match fetched {
                    Ok(keys) => (state.keys, state.at) = (keys, Some(now)),
                    Err(error) => {
                        tracing::warn!(error = errors::chain(&*error), "the keys of token_issuer cannot be asked for");
                    }
                }
            });
            let due = sleep(if is_there { self.refresh } else { SELDOM });
            let wanted = async {
                loop {
                    self.wanted.notified().await;
                    // Whoever wanted them before they came has them.
                    if !self.state.borrow().was_asked(clock.now()) {
                        return;
                    }
                }
            };
            // Both arms are cancel-safe.
            tokio::select! {
                () = due => {}
                () = wanted => {}
            }
        }
    }

    /// A key; one that is not known may have been published since.
    pub(super) async fn key(&self, kid: &str, now: Timestamp) -> Result<Option<DecodingKey>, Error> {
        let mut changes = self.state.subscribe();
        {
            let state = changes.borrow_and_update();
            let known = state.key(kid, now);
            if matches!(known, Ok(Some(_))) || state.was_asked(now) {
                return known;
            }
        }
        if let Ok(_place) = self.waiting.try_acquire() {
            self.wanted.notify_one();
            // Where nothing comes in time, what is known counts.
            let _ = timeout(self.patience + MARGIN, changes.changed()).await;
        }
        self.state.borrow().key(kid, now)
    }

    async fn fetch(&self) -> Result<HashMap<String, DecodingKey>, Box<dyn std::error::Error + Send + Sync>> {
        let mut answer = self.client.get(&self.url).send().await?.error_for_status()?;
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MOST_BYTES {
                return Err("the set of keys is too large".into());
            }
        }
        Ok(usable(&body)?)
    }
}

/// The keys of a set with which signatures are verified. One of a kind that is not known here is passed over (RFC 7517, 5).
fn usable(set: &[u8]) -> serde_json::Result<HashMap<String, DecodingKey>> {
    let set: Set = serde_json::from_slice(set)?;
    let keys = set.keys.into_iter().take(MOST_KEYS).filter_map(|key| Jwk::deserialize(key).ok());
    let usable = keys.filter_map(|key| {
        let is_for_signatures = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
        let kid = key.common.key_id.clone().filter(|_| is_for_signatures)?;
        DecodingKey::from_jwk(&key).ok().map(|key| (kid, key))
    });
    Ok(usable.collect())
}

#[cfg(test)]
mod tests {
    /// What an issuer may publish.
    mod fuzz {
        use proptest::prelude::*;
        use serde_json::{Value, json};
        use testkit::fuzz::{cases, damaged, json, mutated};

        use super::super::{MOST_KEYS, usable};

        fn set() -> Value {
            json!({ "keys": [
                { "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "ec",
                  "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM" },
                { "kty": "OKP", "crv": "Ed25519", "kid": "okp", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
                { "kty": "RSA", "kid": "rsa", "e": "AQAB", "n": "sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri" },
            ] })
        }

        #[test]
        fn the_set_of_this_test_is_a_good_one() {
            let found = usable(set().to_string().as_bytes()).unwrap();
            assert!(["ec", "okp", "rsa"].iter().all(|kid| found.contains_key(*kid)), "{:?}", found.keys());
        }

        proptest! {
            #![proptest_config(cases(256))]

            #[test]
            fn of_any_set_those_are_taken_that_have_a_name(set in prop_oneof![
                3 => mutated(set()).prop_map(|set| set.to_string().into_bytes()),
                1 => prop::collection::vec(json(), 0..200).prop_map(|keys| json!({ "keys": keys }).to_string().into_bytes()),
                1 => damaged(Just(set().to_string().into_bytes())),
                1 => any::<Vec<u8>>(),
            ]) {
                if let Ok(found) = usable(&set) {
                    prop_assert!(found.len() <= MOST_KEYS);
                    let set: Value = serde_json::from_slice(&set).unwrap();
                    // It may be written as a list, too.
                    let keys = set.get("keys").or_else(|| set.get(0)).and_then(Value::as_array).unwrap();
                    for kid in found.keys() {
                        prop_assert!(keys.iter().any(|key| key.to_string().contains(&json!(kid).to_string())), "{} in {}", kid, set);
                    }
                }
            }
        }
    }
}
