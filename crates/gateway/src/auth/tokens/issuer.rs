//! Tokens of somebody else: verified with the public keys that they publish.

use std::{collections::HashMap, sync::Arc};

use access::{Kind, Permissions, Principal, Reach, Role};
use domain::{Clock, Namespace, Timestamp};
use errors::Error;
use jsonwebtoken::{Header, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::{Refused, published::Published, settings::Issuer, signing::in_time};

/// The longest `sub`, which names somebody in the audit log.
const LONGEST_SUBJECT: usize = 255;

/// Why another issuer cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("token_issuer cannot be used")]
pub struct IssuerError(#[from] reqwest::Error);

/// Another issuer.
pub(crate) struct Outside {
    settings: Issuer,
    validation: Validation,
    published: Published,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    nbf: Option<i64>,
    #[serde(flatten)]
    rest: HashMap<String, Value>,
}

impl Outside {
    pub(crate) fn new(settings: Issuer) -> Result<Self, IssuerError> {
        let published = Published::new(&settings)?;
        let algorithms: Vec<_> = settings.algorithms.iter().map(|algorithm| algorithm.of_jwt()).collect();
        let mut validation = Validation { algorithms, ..Validation::default() };
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // By our clock.
        validation.validate_exp = false;
        Ok(Self { settings, validation, published })
    }

    /// Keeps their keys at hand, for ever.
    pub(crate) async fn follow(&self, clock: &Arc<dyn Clock>) {
        self.published.follow(clock).await;
    }

    /// Who presents this text.
    pub(crate) async fn identify(
        &self,
        token: &str,
        header: &Header,
        now: Timestamp,
    ) -> Result<Result<(Principal, Option<Timestamp>), Refused>, Error> {
        let Some(kid) = header.kid.as_deref().filter(|_| self.validation.algorithms.contains(&header.alg)) else {
            return Ok(Err(Refused::Invalid));
        };
        let Some(key) = self.published.key(kid, now).await? else { return Ok(Err(Refused::Invalid)) };
        // One of those that are allowed, and it must be one for this kind of key.
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let Ok(verified) = jsonwebtoken::decode::<Claims>(token, &key, &validation) else {
            return Ok(Err(Refused::Invalid));
        };
        let claims = verified.claims;
        let leeway = self.settings.leeway.as_secs() as i64;
        let until = Timestamp::from_micros(claims.exp.saturating_mul(1_000_000));
        let in_time = in_time(now, leeway, claims.exp, claims.nbf);
        let known = in_time.and_then(|()| self.principal(claims).ok_or(Refused::Invalid));
        Ok(known.map(|principal| (principal, Some(until))))
    }

    /// Whoever it is made out to; nothing where it does not say what they may, and where.
    fn principal(&self, claims: Claims) -> Option<Principal> {
        let text = |claim: &str| claims.rest.get(claim).and_then(Value::as_str);
        let role = text(&self.settings.role_claim)?.parse::<Role>().ok()?;
        let reach = match text(&self.settings.namespace_claim)? {
            "*" => Reach::Everything,
            name => Reach::Namespace(name.parse::<Namespace>().ok()?),
        };
        // An agent has to be bound to itself, which only a key of ours does.
        if role == Role::Agent {
            return None;
        }
        let is_name = |text: &str| {
            (1..=LONGEST_SUBJECT).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !is_name(&claims.sub) {
            return None;
        }
        // Where scopes are looked at, what they do not name is not granted.
        let scopes = self.settings.scope_claim.as_deref();
        let scopes = scopes.map(|claim| Permissions::known_of(text(claim).unwrap_or_default()));
        Some(Principal::of_role(Kind::Issuer, claims.sub, role, reach).scoped(scopes))
    }
}

#[cfg(test)]
mod tests {
    /// What another issuer's token may say.
    mod fuzz {
        use std::sync::LazyLock;

        use proptest::prelude::*;
        use serde_json::json;
        use testkit::fuzz::{cases, json, mutated};

        use super::super::*;

        static OUTSIDE: LazyLock<Outside> = LazyLock::new(|| {
            let settings = json!({
                "issuer": "https://desk.example", "audience": "troupe", "jwks_url": "https://desk.example/keys", "scope_claim": "scope",
            });
            Outside::new(serde_json::from_value(settings).unwrap()).unwrap()
        });

        proptest! {
            #![proptest_config(cases(256))]

            #[test]
            fn whoever_is_let_in_is_named_and_bound_as_the_token_says(claims in prop_oneof![
                4 => mutated(json!({
                    "sub": "ada", "exp": 1_700_000_600, "nbf": 1_700_000_000, "role": "operator", "namespace": "blue", "scope": "agents:read x",
                })),
                1 => json(),
            ], now in any::<i64>(), leeway in 0..i64::MAX) {
                let Ok(read) = serde_json::from_value::<Claims>(claims.clone()) else { return Ok(()) };
                // Whatever the times are.
                let _ = in_time(Timestamp::from_micros(now), leeway, read.exp, read.nbf);
                if let Some(principal) = OUTSIDE.principal(read) {
                    prop_assert_eq!(json!(principal.subject), claims["sub"].clone());
                    prop_assert!(principal.subject.bytes().all(|byte| byte.is_ascii_graphic()), "{}", principal);
                    let role = principal.role.unwrap();
                    prop_assert_eq!(json!(role.as_str()), claims["role"].clone());
                    prop_assert!(role != Role::Agent && principal.kind == Kind::Issuer);
                    let bound = principal.namespace().map_or("*", Namespace::as_str);
                    prop_assert_eq!(json!(bound), claims["namespace"].clone());
                    let named = Permissions::known_of(claims["scope"].as_str().unwrap_or_default());
                    prop_assert!(principal.permissions.is_within(named) && principal.permissions.is_within(role.permissions()));
                }
            }
        }
    }
}
