mod families;
mod outside;
mod plans;

use std::path::PathBuf;

use ::settings::Secret;
use access::{Kind, Permission, Reach, Role};
use domain::ManualClock;
use jsonwebtoken::{EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use serde_json::json;

use super::*;
use crate::auth::keys::{KeyStore, Keys, Record};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

struct World {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    /// The key of the settings.
    configured: &'static str,
    /// The prefix of the secret of [`somebody`]'s key.
    secret: tokio::sync::OnceCell<String>,
    opened: std::sync::Mutex<Vec<::store::Database>>,
}

impl World {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(START)),
            configured: "configured:1",
            secret: tokio::sync::OnceCell::new(),
            opened: std::sync::Mutex::default(),
        }
    }

    async fn tokens(&self, settings: Jwt, outside: Option<Outside>) -> Tokens {
        let place = ::settings::Database::sqlite(self.folder.path().join("test.db"));
        let database = crate::store::open(&place).await.unwrap();
        let secret = RootSecret::new(&Secret::new("a-secret-of-the-tests-that-is-long"));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let keys = Keys::new(crate::store::over!(KeyStore, database), Some(&secret), Arc::clone(&clock));
        let made = async {
            let fresh = keys.fresh().unwrap();
            keys.add(&key(None), &fresh).await.unwrap();
            keys.identify(&fresh.text).await.unwrap().unwrap().1.secret.unwrap().to_string()
        };
        self.secret.get_or_init(|| made).await;
        self.opened.lock().unwrap().push(database.clone());
        let shared = Some(access::Keys::of(&secret, Arc::clone(&clock)));
        let parts = Parts {
            settings,
            secret: Some(&secret),
            shared,
            outside,
            configured: Some(self.configured.to_owned()),
            clock,
        };
        Tokens::new(crate::store::over!(TokenStore, database), parts).unwrap()
    }

    /// Nothing can be looked for any more.
    async fn close(&self) {
        let opened = std::mem::take(&mut *self.opened.lock().unwrap());
        for database in opened {
            database.close().await;
        }
    }

    async fn exchange(&self, tokens: &Tokens, principal: &Principal) -> Pair {
        let secret = self.secret.get().map(String::as_str);
        tokens.exchange(principal, secret, None).await.unwrap().unwrap()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Settings with a key pair of this kind; the number tells pairs apart.
    fn pair(&self, algorithm: Algorithm, number: u8) -> Jwt {
        let kind: &SignatureAlgorithm = match algorithm {
            Algorithm::EdDSA => &PKCS_ED25519,
            Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
            Algorithm::RS256 => &PKCS_RSA_SHA256,
            Algorithm::HS256 => panic!("it has no pair"),
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        Jwt {
            algorithm,
            private_key_file: Some(self.file(&format!("private-{number}"), &pair.serialize_pem())),
            public_key_file: Some(self.file(&format!("public-{number}"), &pair.public_key_pem())),
            ..Jwt::default()
        }
    }
}

fn key(expires_at: Option<Timestamp>) -> Record {
    Record {
        id: domain::ApiKeyId::from_parts(1, 1),
        name: "k".to_owned(),
        role: Role::Operator,
        scopes: None,
        namespace: None,
        agent: None,
        created_by: "key:first".to_owned(),
        created_at: START,
        expires_at,
        revoked_at: None,
        last_used_at: None,
        revision: 1,
    }
}

fn somebody() -> Principal {
    let reach = Reach::Namespace("blue".parse().unwrap());
    Principal::of_role(Kind::Key, key(None).id.to_string(), Role::Operator, reach)
}

async fn identified(tokens: &Tokens, token: &str) -> Principal {
    tokens.identify(token).await.unwrap().unwrap().0
}

async fn refused(tokens: &Tokens, token: &str) -> Option<Refused> {
    tokens.identify(token).await.unwrap().err()
}

#[tokio::test]
async fn every_algorithm_signs_and_a_key_before_it_is_good_until_its_tokens_expire() {
    for algorithm in [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256] {
        let world = World::new();
        let old = world.pair(algorithm, 1);
        let tokens = world.tokens(old.clone(), None).await;
        let pair = world.exchange(&tokens, &somebody()).await;
        let expected = Principal { kind: Kind::Token, ..somebody() };
        assert_eq!(identified(&tokens, &pair.access).await, expected, "{algorithm:?}");

        let rotated = world.tokens(world.pair(algorithm, 2), None).await;
        assert_eq!(refused(&rotated, &pair.access).await, Some(Refused::Invalid), "nothing is known of the old key");
        let previous_key_files = old.public_key_file.into_iter().collect();
        let rotated = world.tokens(Jwt { previous_key_files, ..world.pair(algorithm, 3) }, None).await;
        assert_eq!(identified(&rotated, &pair.access).await, expected, "{algorithm:?}");
        world.clock.advance(Duration::from_hours(1) + Duration::from_secs(30));
        assert_eq!(refused(&rotated, &pair.access).await, Some(Refused::Expired));
    }
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let world = World::new();
    let settings = world.pair(Algorithm::ES256, 1);
    let public = std::fs::read(settings.public_key_file.as_ref().unwrap()).unwrap();
    let tokens = world.tokens(settings, None).await;
    let sound = world.exchange(&tokens, &somebody()).await.access;
    let header = jsonwebtoken::decode_header(&sound).unwrap();
    let (head, rest) = sound.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let said: serde_json::Value = jsonwebtoken::dangerous::insecure_decode_claims(&sound).unwrap();
    let signed_with =
        |header: &Header, key: &[u8]| jsonwebtoken::encode(header, &said, &EncodingKey::from_secret(key)).unwrap();
    let confused = Header { alg: jsonwebtoken::Algorithm::HS256, ..header.clone() };
    let forged = [
        // {"alg":"none"}, with and without our key's name.
        format!("eyJhbGciOiJub25lIn0.{claims}."),
        format!("{head}.{claims}."),
        format!("{head}.{claims}.{}", signature.chars().rev().collect::<String>()),
        // The public key, taken for a secret.
        signed_with(&confused, &public),
        signed_with(&confused, public.trim_ascii()),
        signed_with(&Header::new(jsonwebtoken::Algorithm::HS256), b"guess"),
        String::new(),
        "..".to_owned(),
        sound.replace('.', " "),
    ];
    for forged in &forged {
        assert_eq!(refused(&tokens, forged).await, Some(Refused::Invalid), "{forged}");
    }
    assert_eq!(refused(&tokens, &sound).await, None);
}

#[tokio::test]
async fn the_tokens_of_the_configured_key_end_where_it_is_replaced() {
    let mut world = World::new();
    let before = world.tokens(Jwt::default(), None).await;
    let configured = Principal::of_role(Kind::Key, "configured", Role::Admin, Reach::Everything);
    let (own, of_key) =
        (before.exchange(&configured, None, None).await.unwrap().unwrap(), world.exchange(&before, &somebody()).await);
    assert_eq!(refused(&before, &own.access).await, None);
    world.configured = "configured:2";
    let after = world.tokens(Jwt::default(), None).await;
    assert_eq!(refused(&after, &own.access).await, Some(Refused::Revoked));
    assert!(matches!(after.refresh(&own.refresh).await.unwrap(), Err(Refused::Revoked)));
    assert_eq!(refused(&after, &of_key.access).await, None);
}

/// One that is made of a secret is any bytes, those of spaces among them.
#[test]
fn every_secret_makes_a_key_with_which_what_it_signs_is_verified() {
    let claims: Claims = serde_json::from_value(json!({
        "iss": "troupe", "aud": "troupe", "sub": "a", "scope": "", "family": "f", "jti": "j", "iat": 0, "nbf": 0, "exp": i64::MAX / 2
    }))
    .unwrap();
    for number in 0..200 {
        let secret = RootSecret::new(&Secret::new(format!("a-secret-of-the-tests-that-is-long-{number}")));
        let signing = Signing::of(&Jwt::default(), Some(&secret)).unwrap().unwrap();
        let token = signing.sign(&claims).unwrap();
        let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        assert!(signing.verify(&kid, &token, START).is_ok(), "{number}");
    }
}

#[tokio::test]
async fn other_audiences_issuers_and_times_are_refused() {
    let world = World::new();
    let secret_key = Some(Secret::new("a-secret-that-others-know-as-well-0"));
    let with = |audience: &str, issuer: &str| Jwt {
        secret_key: secret_key.clone(),
        audience: audience.to_owned(),
        issuer: issuer.to_owned(),
        ..Jwt::default()
    };
    let ours = world.tokens(with("troupe", "troupe"), None).await;
    for (audience, issuer) in [("another", "troupe"), ("troupe", "another")] {
        let theirs = world.tokens(with(audience, issuer), None).await;
        let token = world.exchange(&theirs, &somebody()).await.access;
        assert_eq!(refused(&ours, &token).await, Some(Refused::Invalid), "{audience} {issuer}");
    }
    let token = world.exchange(&ours, &somebody()).await.access;
    world.clock.set(START - Duration::from_secs(20));
    assert_eq!(refused(&ours, &token).await, None, "clocks may be apart a little");
    world.clock.set(START - Duration::from_mins(5));
    assert_eq!(refused(&ours, &token).await, Some(Refused::Early));
    for short in ["short".to_owned(), format!("{}x", " ".repeat(31))] {
        let short = Jwt { secret_key: Some(Secret::new(short)), ..Jwt::default() };
        assert!(matches!(signing::Signing::of(&short, None), Err(SigningError::Short)));
    }
    assert!(signing::Signing::of(&Jwt::default(), None).unwrap().is_none());
}

#[tokio::test]
async fn an_agents_token_is_one_that_communication_takes_as_well() {
    let world = World::new();
    let tokens = world.tokens(Jwt::default(), None).await;
    let agent = domain::AgentId::from_parts(1, 1);
    let reach = Reach::Namespace("blue".parse().unwrap());
    let asked =
        Principal { agent: Some(agent), ..Principal::of_role(Kind::Key, somebody().subject, Role::Agent, reach) };
    let token = world.exchange(&tokens, &asked).await.access;
    let (found, _) = tokens.identify(&token).await.unwrap().unwrap();
    assert_eq!((found.subject, found.agent), (agent.to_string(), Some(agent)));
    let shared = tokens.shared.as_ref().unwrap().anybody(&token, "communication").unwrap().principal;
    assert!(shared.may(Permission::SessionsOpen) && !shared.may(Permission::Internal));
}

#[tokio::test]
async fn an_agents_token_is_revoked_and_whoever_asks_is_told_what_has_ended() {
    let world = World::new();
    let tokens = world.tokens(Jwt::default(), None).await;
    let reach = Reach::Namespace("blue".parse().unwrap());
    let agent = Some(domain::AgentId::from_parts(1, 1));
    let asked = Principal { agent, ..Principal::of_role(Kind::Key, somebody().subject, Role::Agent, reach) };
    let good = world.exchange(&tokens, &asked).await.access;
    let bad = world.exchange(&tokens, &asked).await.access;
    let family = |token: &str| tokens.of_agent(token).unwrap().1.family;
    let ended = async || {
        let all = vec![family(&good), family(&bad), "fam_unheard_of".to_owned()];
        let ended = tokens.ended_of(all).await.unwrap();
        ended.into_iter().collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(ended().await, ["fam_unheard_of".to_owned()].into());
    let (revoked, ()) = tokio::join!(tokens.revoke(&bad), tokens.revoked());
    assert!(revoked.unwrap());
    assert_eq!(refused(&tokens, &bad).await, Some(Refused::Revoked));
    assert_eq!(refused(&tokens, &good).await, None);
    assert_eq!(ended().await, [family(&bad), "fam_unheard_of".to_owned()].into());
}

#[tokio::test]
async fn a_token_that_has_expired_still_ends_what_it_comes_from() {
    let world = World::new();
    let tokens = world.tokens(Jwt::default(), None).await;
    let agent = Some(domain::AgentId::from_parts(1, 1));
    let reach = Reach::Namespace("blue".parse().unwrap());
    let agent = Principal { agent, ..Principal::of_role(Kind::Key, somebody().subject, Role::Agent, reach) };
    for asked in [somebody(), agent] {
        let pair = world.exchange(&tokens, &asked).await;
        world.clock.advance(Duration::from_hours(2));
        assert!(refused(&tokens, &pair.access).await.is_some(), "it is good for nothing else");
        let renewed = tokens.refresh(&pair.refresh).await.unwrap().unwrap();
        let (signed, _) = pair.access.rsplit_once('.').unwrap();
        for forged in [format!("{signed}."), format!("{signed}.{}", "A".repeat(43))] {
            assert!(!tokens.revoke(&forged).await.unwrap(), "{forged}");
        }
        assert_eq!(refused(&tokens, &renewed.access).await, None, "nobody else has ended it");
        assert!(tokens.revoke(&pair.access).await.unwrap());
        assert_eq!(refused(&tokens, &renewed.access).await, Some(Refused::Revoked));
        assert!(matches!(tokens.refresh(&renewed.refresh).await.unwrap(), Err(Refused::Revoked)));
    }
}

#[tokio::test]
async fn what_was_made_up_is_not_looked_for() {
    let world = World::new();
    let tokens = world.tokens(Jwt::default(), None).await;
    let pair = world.exchange(&tokens, &somebody()).await;
    assert!(tokens.shown(&pair.refresh).is_some() && tokens.shown(&pair.access).is_some());
    assert_eq!(tokens.shown(&pair.refresh), tokens.shown(&pair.access), "what comes of one exchange counts as one");
    let made_up = format!("trr_{}_{}", "0".repeat(48), "0".repeat(80));
    world.close().await;
    for wrong in ["", "trr_\0_\0", &made_up, &pair.refresh[1..], "a.b.c", &pair.access[1..]] {
        assert_eq!(tokens.shown(wrong), None, "{wrong}");
        assert!(!tokens.revoke(wrong).await.unwrap(), "{wrong}");
        assert!(matches!(tokens.refresh(wrong).await.unwrap(), Err(Refused::Invalid)), "{wrong}");
    }
    assert_eq!(tokens.revoke(&pair.refresh).await.unwrap_err().reason, "database_unavailable", "what is right is");
}
