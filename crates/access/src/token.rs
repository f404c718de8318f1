//! A principal as a signed text: what processes present to each other with every call, and agents to open a session.
//!
//! Two kinds, each signed with a key of its own and made out to its own audience, so that neither passes for the other:
//! what a process says of whom it works for, good for [`Keys::LIFE`], and an agent's access token, good for as long as the
//! gateway gives it. Both are JWTs with HS256 and no other algorithm. The keys come from the secret that all processes share,
//! which itself is presented by none of them: whoever reads along learns what is good for a minute.

use std::{fmt, sync::Arc, time::Duration};

use domain::{AgentId, Clock, Namespace, Timestamp};
use http::HeaderValue;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::{Credential, Kind, Permissions, Principal, Reach, Role, RootSecret};

const ISSUER: &str = "troupe";
/// Tokens that were verified, or signed, and are remembered.
const REMEMBERED: u64 = 10_000;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none, was signed by somebody else, or is for something else.
    #[error("no token of this installation")]
    Foreign,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    Early,
    /// It cannot be made.
    #[error("the token cannot be signed")]
    Unsignable,
    /// It would say for whom a call is made, and nobody has said so.
    #[error("a call is made for nobody")]
    Nobody,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// A call of one process to another.
    Call,
    /// An agent's session, and its requests to the gateway.
    Agent,
}

impl Use {
    const fn audience(self) -> &'static str {
        match self {
            Self::Call => "troupe-call",
            Self::Agent => "troupe-agent",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    role: Option<Role>,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    namespace: Option<Namespace>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    agent: Option<AgentId>,
    /// Of an agent's token, what it comes from and is revoked with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    family: Option<String>,
    iat: i64,
    exp: i64,
}

/// Whom a token is made out to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// They.
    pub principal: Arc<Principal>,
    /// What they have shown, where it is an agent's token.
    pub credential: Option<Credential>,
}

/// The keys of an installation. Cloning is cheap.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    call: Pair,
    agent: Pair,
    clock: Arc<dyn Clock>,
    verified: moka::sync::Cache<Box<str>, (i64, Known)>,
}

struct Pair {
    usage: Use,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl Pair {
    fn new(usage: Use, root: &RootSecret) -> Self {
        let key = root.derive(usage.audience());
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[usage.audience()]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // By our clock, so that tests can turn it.
        validation.validate_exp = false;
        Self { usage, encoding: EncodingKey::from_secret(&key), decoding: DecodingKey::from_secret(&key), validation }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Keys")
    }
}

impl Keys {
    /// How long a process's word is good.
    pub const LIFE: Duration = Duration::from_mins(1);
    /// How far clocks of processes may be apart.
    pub const SKEW: Duration = Duration::from_secs(30);
    /// The longest that an agent's access token is good.
    pub const LONGEST_OF_AGENT: Duration = Duration::from_hours(24);

    /// The keys that come from a secret.
    pub fn of(root: &RootSecret, clock: Arc<dyn Clock>) -> Self {
        let verified = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(Self::LIFE).build();
        Self(Arc::new(Inner { call: Pair::new(Use::Call, root), agent: Pair::new(Use::Agent, root), clock, verified }))
    }

    /// An agent's access token, of this family; good for no longer than [`Self::LONGEST_OF_AGENT`].
    pub fn agent_token(&self, principal: &Principal, family: &str, life: Duration) -> Result<String, TokenError> {
        self.sign(&self.0.agent, principal, Some(family), life.min(Self::LONGEST_OF_AGENT))
    }

    /// Who an agent's access token is made out to.
    pub fn agent(&self, token: &str) -> Result<Known, TokenError> {
        self.verify(token, &[&self.0.agent])
    }

    /// Who presents this to a process as another process, for somebody.
    pub fn process(&self, token: &str) -> Result<Arc<Principal>, TokenError> {
        self.verify(token, &[&self.0.call]).map(|known| known.principal)
    }

    /// Who presents this to a process: another process for somebody, or an agent.
    pub fn anybody(&self, token: &str) -> Result<Known, TokenError> {
        self.verify(token, &[&self.0.call, &self.0.agent])
    }

    fn sign(
        &self,
        pair: &Pair,
        principal: &Principal,
        family: Option<&str>,
        life: Duration,
    ) -> Result<String, TokenError> {
        let now = self.0.clock.now();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: pair.usage.audience().to_owned(),
            sub: principal.subject.clone(),
            kind: principal.kind,
            role: principal.role,
            scope: principal.permissions.to_string(),
            namespace: principal.namespace().cloned(),
            agent: principal.agent,
            family: family.map(str::to_owned),
            iat: seconds(now),
            exp: seconds(now + life),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &pair.encoding)
            .map_err(|_| TokenError::Unsignable)
    }

    /// What was verified is remembered for its life: a call costs a look-up then.
    fn verify(&self, token: &str, pairs: &[&Pair]) -> Result<Known, TokenError> {
        let now = seconds(self.0.clock.now());
        let skew = Self::SKEW.as_secs() as i64;
        // For what it was verified belongs to it: what is good for one use is not for another.
        let uses = pairs.iter().flat_map(|pair| [pair.usage.audience(), " "]);
        let remembered: String = uses.chain([token]).collect();
        if let Some((expires, known)) = self.0.verified.get(remembered.as_str()) {
            return if now < expires + skew { Ok(known) } else { Err(TokenError::Expired) };
        }
        let decode = |pair: &&Pair| {
            let decoded = jsonwebtoken::decode::<Claims>(token, &pair.decoding, &pair.validation).ok()?;
            Some((pair.usage, decoded.claims))
        };
        let (usage, claims) = pairs.iter().find_map(decode).ok_or(TokenError::Foreign)?;
        if now >= claims.exp + skew {
            return Err(TokenError::Expired);
        }
        if claims.iat > now + skew {
            return Err(TokenError::Early);
        }
        let credential = match (usage, claims.family) {
            (Use::Call, _) => None,
            (Use::Agent, Some(family)) => Some(Credential { family, expires_at: expiry(claims.exp) }),
            // What nothing can revoke is no agent's.
            (Use::Agent, None) => return Err(TokenError::Foreign),
        };
        let principal = Arc::new(Principal {
            kind: claims.kind,
            subject: claims.sub,
            role: claims.role,
            permissions: Permissions::known_of(&claims.scope),
            reach: claims.namespace.map_or(Reach::Everything, Reach::Namespace),
            agent: claims.agent,
        });
        let known = Known { principal, credential };
        self.0.verified.insert(remembered.into(), (claims.exp, known.clone()));
        Ok(known)
    }
}

fn seconds(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(1_000_000)
}

/// From when on a token is not taken that expires then.
fn expiry(exp: i64) -> Timestamp {
    Timestamp::from_micros(exp.saturating_mul(1_000_000)) + Keys::SKEW
}

/// Says for whom a process calls. What it has signed it says again for half of its life.
#[derive(Clone)]
pub struct Signer {
    keys: Keys,
    /// For whom it speaks; nothing where that is whoever asked it.
    own: Option<Arc<Principal>>,
    signed: moka::sync::Cache<Principal, HeaderValue>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.own.as_ref().map(|own| &own.subject);
        formatter.debug_struct("Signer").field("own", &own).finish_non_exhaustive()
    }
}

impl Signer {
    /// For a service that calls others as itself, whoever asked it: it has checked what they may.
    pub fn service(keys: Keys, name: &'static str) -> Self {
        Self::new(keys, Some(Arc::new(Principal::service(name))))
    }

    /// For the gateway, which calls for its clients, and where it calls for itself says so: a call of which it was forgotten for whom it
    /// is made is not made.
    pub fn gateway(keys: Keys) -> Self {
        Self::new(keys, None)
    }

    fn new(keys: Keys, own: Option<Arc<Principal>>) -> Self {
        let signed = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(Keys::LIFE / 2).build();
        Self { keys, own, signed }
    }

    /// What goes with a call of this task, as `authorization`.
    pub fn header(&self) -> Result<HeaderValue, TokenError> {
        let principal = self.own.clone().or_else(crate::current).ok_or(TokenError::Nobody)?;
        if let Some(header) = self.signed.get(&*principal) {
            return Ok(header);
        }
        let token = self.keys.sign(&self.keys.0.call, &principal, None, Keys::LIFE)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| TokenError::Unsignable)?;
        header.set_sensitive(true);
        self.signed.insert(Principal::clone(&principal), header.clone());
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use domain::ManualClock;
    use settings::Secret;

    use super::*;
    use crate::{Permission, acting_as};

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn keys(secret: &str, clock: &Arc<ManualClock>) -> Keys {
        Keys::of(&RootSecret::new(&Secret::new(secret)), Arc::clone(clock) as Arc<dyn Clock>)
    }

    fn presented(signer: &Signer) -> String {
        let header = signer.header().unwrap();
        header.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
    }

    fn somebody() -> Principal {
        let reach = Reach::Namespace("blue".parse().unwrap());
        let scopes = Permissions::of(&[Permission::AgentsRead]);
        Principal::of_role(Kind::Key, "key_1", Role::Operator, reach).scoped(Some(scopes))
    }

    #[tokio::test]
    async fn a_process_says_for_whom_it_calls_and_a_service_calls_as_itself() {
        let clock = Arc::new(ManualClock::at(START));
        let keys = keys("0123456789abcdef", &clock);
        let gateway = Signer::gateway(keys.clone());
        assert_eq!(gateway.header().unwrap_err(), TokenError::Nobody, "nobody has asked");
        let asked = Arc::new(somebody());
        let token = acting_as(Arc::clone(&asked), async { presented(&gateway) }).await;
        assert_eq!(keys.anybody(&token).unwrap(), Known { principal: Arc::clone(&asked), credential: None });
        let service = Signer::service(keys.clone(), "orchestrator");
        let token = acting_as(asked, async { presented(&service) }).await;
        assert_eq!(*keys.process(&token).unwrap(), Principal::service("orchestrator"));
    }

    #[test]
    fn a_token_is_good_for_its_life_its_installation_and_its_use() {
        let clock = Arc::new(ManualClock::at(START));
        let keys_here = keys("0123456789abcdef", &clock);
        let call = presented(&Signer::service(keys_here.clone(), "gateway"));
        let agent = keys_here.agent_token(&somebody(), "fam_1", Duration::from_hours(48)).unwrap();
        let expires_at = START + Keys::LONGEST_OF_AGENT + Keys::SKEW;
        let credential = Some(Credential { family: "fam_1".to_owned(), expires_at });
        assert_eq!(keys_here.agent(&agent).unwrap(), Known { principal: Arc::new(somebody()), credential });
        assert!(keys_here.anybody(&agent).is_ok());
        assert_eq!(keys_here.process(&agent), Err(TokenError::Foreign), "also where it was verified as an agent's");
        assert_eq!(keys_here.agent(&call), Err(TokenError::Foreign), "a call's token is no agent's");
        assert!(keys_here.process(&call).is_ok());
        assert_eq!(keys_here.agent(&call), Err(TokenError::Foreign), "also where it was verified as a call's");
        assert_eq!(keys("another-secret-16", &clock).anybody(&call), Err(TokenError::Foreign));
        let (head, _) = call.rsplit_once('.').unwrap();
        assert_eq!(keys_here.anybody(&format!("{head}.")), Err(TokenError::Foreign));
        // {"alg":"none"}
        let (_, rest) = call.split_once('.').unwrap();
        assert_eq!(keys_here.anybody(&format!("eyJhbGciOiJub25lIn0.{rest}")), Err(TokenError::Foreign));
        let without_family = keys_here.sign(&keys_here.0.agent, &somebody(), None, Keys::LIFE).unwrap();
        assert_eq!(keys_here.agent(&without_family), Err(TokenError::Foreign), "nothing could revoke it");
        clock.advance(Keys::LIFE + Keys::SKEW);
        assert_eq!(keys_here.anybody(&call), Err(TokenError::Expired));
        assert!(keys_here.anybody(&agent).is_ok());
        clock.set(expires_at);
        assert_eq!(keys_here.anybody(&agent), Err(TokenError::Expired));
        clock.set(START - Duration::from_mins(5));
        assert_eq!(keys("0123456789abcdef", &clock).anybody(&call), Err(TokenError::Early));
    }
}
