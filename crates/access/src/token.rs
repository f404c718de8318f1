//! A principal as a signed text: what processes present to each other with every call, and agents to open a session.
//!
//! Two kinds, each signed with a key of its own and made out to its own audience, so that neither passes for the other:
//! what a process says of whom it works for, good for [`Keys::LIFE`] at the one service that it calls, and an agent's access token,
//! good for as long as the gateway gives it. Both are JWTs with HS256 and no other algorithm. The keys come from the secret that all processes share,
//! which itself is presented by none of them: whoever reads along learns what is good for a minute.

use std::{fmt, sync::Arc, time::Duration};

use domain::{AgentId, Clock, Namespace, Timestamp};
use http::HeaderValue;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::{Credential, Kind, Permissions, Principal, Reach, Role, RootSecret};

const ISSUER: &str = "troupe";
/// The audience of agents' tokens. That of a call's is the name of the service that is called.
const AGENT: &str = "troupe-agent";
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
    /// What its key is made for.
    const fn purpose(self) -> &'static str {
        match self {
            Self::Call => "troupe-call",
            Self::Agent => AGENT,
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
        let key = root.derive(usage.purpose());
        let mut validation = Validation::new(Algorithm::HS256);
        // Of calls' tokens it differs: it is looked at where they are read.
        validation.validate_aud = false;
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // By our clock, so that tests can turn it.
        validation.validate_exp = false;
        Self { usage, encoding: EncodingKey::from_secret(&key), decoding: DecodingKey::from_secret(&key), validation }
    }

    /// What a token says that was signed with this key, and is made out to this audience; whatever its time.
    fn claims(&self, token: &str, audience: &str) -> Option<Claims> {
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).ok()?;
        Some(decoded.claims).filter(|claims| claims.aud == audience)
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
        self.sign((&self.0.agent, AGENT), principal, Some(family), life.min(Self::LONGEST_OF_AGENT))
    }

    /// Who an agent's access token is made out to.
    pub fn agent(&self, token: &str) -> Result<Known, TokenError> {
        self.verify(token, &[(&self.0.agent, AGENT)])
    }

    /// What an agent's access token comes from and is revoked with, whatever its time.
    pub fn family(&self, token: &str) -> Option<String> {
        self.0.agent.claims(token, AGENT)?.family
    }

    /// Who presents this to a process of `service` as another process, for somebody.
    pub fn process(&self, token: &str, service: &str) -> Result<Arc<Principal>, TokenError> {
        self.verify(token, &[(&self.0.call, service)]).map(|known| known.principal)
    }

    /// Who presents this to a process of `service`: another process for somebody, or an agent.
    pub fn anybody(&self, token: &str, service: &str) -> Result<Known, TokenError> {
        self.verify(token, &[(&self.0.call, service), (&self.0.agent, AGENT)])
    }

    fn sign(
        &self,
        (pair, audience): (&Pair, &str),
        principal: &Principal,
        family: Option<&str>,
        life: Duration,
    ) -> Result<String, TokenError> {
        let now = self.0.clock.now();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: audience.to_owned(),
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
    fn verify(&self, token: &str, pairs: &[(&Pair, &str)]) -> Result<Known, TokenError> {
        let now = seconds(self.0.clock.now());
        let skew = Self::SKEW.as_secs() as i64;
        // For what it was verified belongs to it: what is good for one use is not for another.
        let uses = pairs.iter().flat_map(|(_, audience)| [*audience, " "]);
        let remembered: String = uses.chain([token]).collect();
        if let Some((expires, known)) = self.0.verified.get(remembered.as_str()) {
            return if now < expires + skew { Ok(known) } else { Err(TokenError::Expired) };
        }
        let read = |(pair, audience): &(&Pair, &str)| Some((pair.usage, pair.claims(token, audience)?));
        let (usage, claims) = pairs.iter().find_map(read).ok_or(TokenError::Foreign)?;
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
    /// By whom and by the service that is called.
    signed: moka::sync::Cache<(Arc<Principal>, &'static str), HeaderValue>,
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

    /// What goes with a call of this task to `service`, as `authorization`. It is good at no other.
    pub fn header(&self, service: &'static str) -> Result<HeaderValue, TokenError> {
        let principal = self.own.clone().or_else(crate::current).ok_or(TokenError::Nobody)?;
        let saying = (principal, service);
        if let Some(header) = self.signed.get(&saying) {
            return Ok(header);
        }
        let token = self.keys.sign((&self.keys.0.call, service), &saying.0, None, Keys::LIFE)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| TokenError::Unsignable)?;
        header.set_sensitive(true);
        self.signed.insert(saying, header.clone());
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
        presented_to("registry", signer)
    }

    fn presented_to(service: &'static str, signer: &Signer) -> String {
        let header = signer.header(service).unwrap();
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
        assert_eq!(gateway.header("registry").unwrap_err(), TokenError::Nobody, "nobody has asked");
        let asked = Arc::new(somebody());
        let token = acting_as(Arc::clone(&asked), async { presented(&gateway) }).await;
        assert_eq!(
            keys.anybody(&token, "registry").unwrap(),
            Known { principal: Arc::clone(&asked), credential: None }
        );
        let service = Signer::service(keys.clone(), "orchestrator");
        let token = acting_as(asked, async { presented(&service) }).await;
        assert_eq!(*keys.process(&token, "registry").unwrap(), Principal::service("orchestrator"));
    }

    #[tokio::test]
    async fn what_is_said_to_one_service_is_good_at_no_other() {
        let clock = Arc::new(ManualClock::at(START));
        let keys = keys("0123456789abcdef", &clock);
        let (service, gateway) = (Signer::service(keys.clone(), "orchestrator"), Signer::gateway(keys.clone()));
        let asked = Arc::new(somebody());
        for signer in [&service, &gateway] {
            for _ in 0..2 {
                // The second time it is remembered, and so is what was verified.
                acting_as(Arc::clone(&asked), async {
                    let (here, there) = (presented_to("registry", signer), presented_to("communication", signer));
                    assert!(keys.process(&here, "registry").is_ok() && keys.anybody(&here, "registry").is_ok());
                    assert!(keys.process(&there, "communication").is_ok());
                    for (token, other) in [(&here, "communication"), (&there, "registry"), (&here, ""), (&here, AGENT)]
                    {
                        assert_eq!(keys.process(token, other), Err(TokenError::Foreign), "{other}");
                        assert_eq!(keys.anybody(token, other), Err(TokenError::Foreign), "{other}");
                    }
                })
                .await;
            }
        }
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
        assert!(keys_here.anybody(&agent, "registry").is_ok());
        assert_eq!(
            keys_here.process(&agent, "registry"),
            Err(TokenError::Foreign),
            "also where it was verified as an agent's"
        );
        assert_eq!(keys_here.agent(&call), Err(TokenError::Foreign), "a call's token is no agent's");
        assert!(keys_here.process(&call, "registry").is_ok());
        assert_eq!(keys_here.agent(&call), Err(TokenError::Foreign), "also where it was verified as a call's");
        assert_eq!(keys("another-secret-16", &clock).anybody(&call, "registry"), Err(TokenError::Foreign));
        let (head, _) = call.rsplit_once('.').unwrap();
        assert_eq!(keys_here.anybody(&format!("{head}."), "registry"), Err(TokenError::Foreign));
        // {"alg":"none"}
        let (_, rest) = call.split_once('.').unwrap();
        assert_eq!(keys_here.anybody(&format!("eyJhbGciOiJub25lIn0.{rest}"), "registry"), Err(TokenError::Foreign));
        let without_family = keys_here.sign((&keys_here.0.agent, AGENT), &somebody(), None, Keys::LIFE).unwrap();
        assert_eq!(keys_here.agent(&without_family), Err(TokenError::Foreign), "nothing could revoke it");
        clock.advance(Keys::LIFE + Keys::SKEW);
        assert_eq!(keys_here.anybody(&call, "registry"), Err(TokenError::Expired));
        assert!(keys_here.anybody(&agent, "registry").is_ok());
        clock.set(expires_at);
        assert_eq!(keys_here.anybody(&agent, "registry"), Err(TokenError::Expired));
        assert_eq!(keys_here.family(&agent).as_deref(), Some("fam_1"), "to be revoked it need not be good");
        assert_eq!(keys_here.family(&call), None);
        clock.set(START - Duration::from_mins(5));
        assert_eq!(keys("0123456789abcdef", &clock).anybody(&call, "registry"), Err(TokenError::Early));
    }
}
