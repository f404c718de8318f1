//! The gateway's own tokens as texts: signed with one key, verified with that and those before it.

use std::{collections::HashMap, fs, path::Path};

use access::{Kind, Permissions, Principal, Reach, Role, RootSecret};
use domain::{AgentId, Namespace, Timestamp};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use settings::Secret;

use crate::hex::hex;

use super::{
    Refused,
    settings::{Algorithm, Jwt},
};

/// Why tokens cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A key cannot be read.
    #[error("the key of tokens cannot be read")]
    Read(#[from] std::io::Error),
    /// A key is none, or of another kind than the algorithm wants.
    #[error("a key of tokens is none that fits jwt.algorithm")]
    Key(#[from] jsonwebtoken::errors::Error),
    /// It can be guessed.
    #[error("jwt.secret_key must be at least 32 characters")]
    Short,
}

/// What a token of ours says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: String,
    pub(crate) sub: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) role: Option<Role>,
    pub(crate) scope: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) namespace: Option<Namespace>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) agent: Option<AgentId>,
    /// What it can be revoked with.
    pub(crate) family: String,
    pub(crate) jti: String,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
}

impl Claims {
    pub(crate) fn principal(&self) -> Principal {
        Principal {
            kind: Kind::Token,
            subject: self.sub.clone(),
            role: self.role,
            permissions: Permissions::known_of(&self.scope),
            reach: self.namespace.clone().map_or(Reach::Everything, Reach::Namespace),
            agent: self.agent,
        }
    }

    pub(crate) const fn expires_at(&self) -> Timestamp {
        Timestamp::from_micros(self.exp.saturating_mul(1_000_000))
    }
}

/// Are these times good now?
pub(super) fn in_time(now: Timestamp, leeway: i64, exp: i64, nbf: Option<i64>) -> Result<(), Refused> {
    let now = now.as_micros().div_euclid(1_000_000);
    if now >= exp.saturating_add(leeway) {
        return Err(Refused::Expired);
    }
    if nbf.is_some_and(|nbf| nbf > now.saturating_add(leeway)) { Err(Refused::Early) } else { Ok(()) }
}

/// Signs and verifies.
pub(crate) struct Signing {
    header: Header,
    key: EncodingKey,
    /// By `kid`. Each key goes with its one algorithm, whatever a token says: so no public key is ever taken for a secret.
    verifying: HashMap<String, DecodingKey>,
    validation: Validation,
    leeway: i64,
}

impl Signing {
    /// With the keys of the settings; nothing where there are none, and no secret to make one of.
    pub(crate) fn of(settings: &Jwt, secret: Option<&RootSecret>) -> Result<Option<Self>, SigningError> {
        let Some((key, current)) = current(settings, secret)? else { return Ok(None) };
        let mut header = Header::new(settings.algorithm.of_jwt());
        header.kid = Some(current.0.clone());
        let mut verifying = HashMap::from([current]);
        for file in &settings.previous_key_files {
            let bytes = fs::read(file)?;
            verifying.insert(kid(bytes.trim_ascii()), public(settings.algorithm, bytes.trim_ascii())?);
        }
        let mut validation = Validation::new(settings.algorithm.of_jwt());
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // By our clock.
        validation.validate_exp = false;
        Ok(Some(Self { header, key, verifying, validation, leeway: settings.leeway.as_secs() as i64 }))
    }

    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
    }

    /// Was it signed with one of our keys, as it says?
    pub(crate) fn knows(&self, kid: &str) -> bool {
        self.verifying.contains_key(kid)
    }

    pub(crate) fn verify(&self, kid: &str, token: &str, now: Timestamp) -> Result<Claims, Refused> {
        let claims = self.signed(kid, token).ok_or(Refused::Invalid)?;
        in_time(now, self.leeway, claims.exp, Some(claims.nbf))?;
        Ok(claims)
    }

    /// What a token that was signed here is revoked with, whatever its time.
    pub(crate) fn family(&self, kid: &str, token: &str) -> Option<String> {
        self.signed(kid, token).map(|claims| claims.family)
    }

    fn signed(&self, kid: &str, token: &str) -> Option<Claims> {
        let key = self.verifying.get(kid)?;
        jsonwebtoken::decode::<Claims>(token, key, &self.validation).ok().map(|decoded| decoded.claims)
    }
}

type Current = (EncodingKey, (String, DecodingKey));

/// What is signed with now.
fn current(settings: &Jwt, secret: Option<&RootSecret>) -> Result<Option<Current>, SigningError> {
    const SHORTEST: usize = 32;
    let read = |file: Option<&Path>| fs::read(file.unwrap_or(Path::new("")));
    let algorithm = settings.algorithm;
    let (private, public_half) = match algorithm {
        Algorithm::HS256 => {
            let given = Secret::given(settings.secret_key.as_ref(), settings.secret_key_file.as_deref())?;
            let given = given.as_ref().map(|given| given.reveal().trim_ascii().as_bytes());
            let bytes = match (given, secret) {
                // What is signed with counts, not the spaces around it.
                (Some(given), _) if given.len() < SHORTEST => return Err(SigningError::Short),
                (Some(given), _) => given.to_vec(),
                (None, Some(secret)) => secret.derive("access-tokens").to_vec(),
                (None, None) => return Ok(None),
            };
            (EncodingKey::from_secret(&bytes), bytes)
        }
        Algorithm::EdDSA | Algorithm::ES256 | Algorithm::RS256 => {
            let pem = read(settings.private_key_file.as_deref())?;
            let key = match algorithm {
                Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem),
                Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
                Algorithm::RS256 | Algorithm::HS256 => EncodingKey::from_rsa_pem(&pem),
            }?;
            (key, read(settings.public_key_file.as_deref())?.trim_ascii().to_vec())
        }
    };
    Ok(Some((private, (kid(&public_half), public(algorithm, &public_half)?))))
}

fn public(algorithm: Algorithm, bytes: &[u8]) -> Result<DecodingKey, jsonwebtoken::errors::Error> {
    match algorithm {
        Algorithm::HS256 => Ok(DecodingKey::from_secret(bytes)),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(bytes),
        Algorithm::ES256 => DecodingKey::from_ec_pem(bytes),
        Algorithm::RS256 => DecodingKey::from_rsa_pem(bytes),
    }
}

/// Names a key, and tells nothing of it that a signature would not.
fn kid(bytes: &[u8]) -> String {
    hex(&blake3::derive_key("troupe 2026-11-26 names of token keys", bytes)[..8])
}

#[cfg(test)]
mod tests {
    /// What may come as a token of ours.
    mod fuzz {
        use jsonwebtoken::Algorithm as Jose;
        use proptest::{prelude::*, sample::select};
        use serde_json::{Value, json};
        use testkit::fuzz::{cases, json, mutated, nearly, text};

        use super::super::*;

        const SECRET: &str = "a-secret-that-others-know-as-well-0";
        const NOW: i64 = 1_700_000_000;

        fn signing() -> Signing {
            Signing::of(&Jwt { secret_key: Some(Secret::new(SECRET)), ..Jwt::default() }, None).unwrap().unwrap()
        }

        fn claims() -> Value {
            json!({
                "iss": "troupe", "aud": "troupe", "sub": "key_1", "role": "operator", "scope": "agents:read", "namespace": "blue",
                "family": "fam_1", "jti": "j", "iat": NOW, "nbf": NOW, "exp": NOW + 600,
            })
        }

        fn signed(claims: &Value, algorithm: Jose, kid: Option<String>) -> String {
            let header = Header { kid, ..Header::new(algorithm) };
            jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
        }

        proptest! {
            #![proptest_config(cases(256))]

            /// Also what somebody would sign who had the key.
            #[test]
            fn claims_are_read_as_they_were_signed_or_refused(said in prop_oneof![4 => mutated(claims()), 1 => json()], now in any::<i64>()) {
                let signing = signing();
                let token = signed(&said, Jose::HS256, signing.header.kid.clone());
                let at = [Timestamp::from_micros(now), Timestamp::from_micros(NOW * 1_000_000)];
                let verify = |at| signing.verify(signing.header.kid.as_deref().unwrap(), &token, at);
                for read in at.into_iter().filter_map(|at| verify(at).ok()) {
                    let (principal, _) = (read.principal(), read.expires_at());
                    prop_assert_eq!(json!(principal.subject), said["sub"].clone());
                    prop_assert_eq!((&said["iss"], &said["aud"]), (&json!("troupe"), &json!("troupe")));
                    prop_assert_eq!(json!(read.family), said["family"].clone());
                    let bound = principal.namespace().map(Namespace::as_str);
                    prop_assert_eq!(bound, said.get("namespace").and_then(Value::as_str));
                }
            }

            #[test]
            fn no_other_text_header_or_algorithm_is_taken(
                token in prop_oneof![text(), nearly(Just(signed(&claims(), Jose::HS256, None))), nearly("[A-Za-z0-9_-]{0,90}\\.[A-Za-z0-9_-]{0,90}\\.[A-Za-z0-9_-]{0,43}")],
                kid in text(),
                algorithm in select(vec![Jose::HS384, Jose::HS512]),
            ) {
                let (signing, now) = (signing(), Timestamp::from_micros(NOW * 1_000_000));
                let own = signing.header.kid.clone().unwrap();
                // A header is no secret: what is read of one may be anything.
                let _ = jsonwebtoken::decode_header(&token);
                if let Ok(read) = signing.verify(&own, &token, now) {
                    prop_assert_eq!(read.family, "fam_1");
                }
                prop_assert!(signing.verify(&own, &signed(&claims(), algorithm, Some(own.clone())), now).is_err());
                let sound = signed(&claims(), Jose::HS256, Some(kid.clone()));
                prop_assert_eq!(signing.verify(&kid, &sound, now).is_ok(), kid == own);
                prop_assert!(signing.verify(&own, &sound, now).is_ok());
            }
        }
    }
}
