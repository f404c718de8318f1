//! Another issuer: its keys over HTTP, and a token of it.

use std::{
    future::Future,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{Router, routing::get};
use jsonwebtoken::jwk::Jwk;
use testkit::eventually;
use tokio::net::TcpListener;

use super::*;

struct Desk {
    url: String,
    asked: Arc<AtomicUsize>,
    is_away: Arc<AtomicBool>,
    key: EncodingKey,
    tasks: lifecycle::Tasks,
}

impl Desk {
    async fn open() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let mut jwk = Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::ES256).unwrap();
        jwk.common.key_id = Some("desk-1".to_owned());
        let (asked, is_away) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, away) = (Arc::clone(&asked), Arc::clone(&is_away));
        let keys = move || {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = if away.load(Ordering::SeqCst) {
                Err(http::StatusCode::SERVICE_UNAVAILABLE)
            } else {
                // Others may be of a kind that nobody here knows.
                let unknown = json!({ "kty": "EC", "crv": "P-999", "kid": "new", "x": "AA", "y": "AA" });
                Ok(axum::Json(json!({ "keys": [unknown, 7, jwk.clone()] })))
            };
            async move { answer }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let tasks = lifecycle::Tasks::new(lifecycle::Shutdown::new());
        let serving = axum::serve(listener, Router::new().route("/keys", get(keys)));
        tasks.spawn("desk", lifecycle::OnExit::Continue, async move { serving.await });
        Self { url, asked, is_away, key, tasks }
    }

    fn issuer(&self, more: &serde_json::Value) -> Outside {
        let mut settings = json!({ "issuer": "https://desk.example", "audience": "troupe", "jwks_url": self.url });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let settings: Issuer = serde_json::from_value(settings).unwrap();
        settings.validate().unwrap();
        Outside::new(settings).unwrap()
    }

    fn token(&self, kid: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let now = START.as_micros() / 1_000_000;
        let mut claims = json!({
            "iss": "https://desk.example", "aud": ["troupe"], "sub": "ada", "exp": now + 600,
            "role": "operator", "namespace": "blue", "scope": "openid email",
        });
        change(&mut claims);
        let mut header = Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}

/// Does it while the keys of the issuer are followed.
async fn following(tokens: &Tokens, work: impl Future<Output = ()>) {
    tokio::select! {
        () = tokens.follow() => unreachable!("it follows for ever"),
        () = work => {}
    }
}

#[tokio::test]
async fn its_tokens_say_who_may_do_what_and_where() {
    let desk = Desk::open().await;
    let world = World::new();
    let tokens = world.tokens(Jwt::default(), Some(desk.issuer(&json!({})))).await;
    following(&tokens, async {
        let ada = identified(&tokens, &desk.token("desk-1", |_| ())).await;
        let expected = Principal { kind: Kind::Issuer, subject: "ada".to_owned(), ..somebody() };
        assert_eq!(ada, expected);
        // They may call somebody as one of our keys is called: that is not who has its tokens.
        let like_ours = desk.token("desk-1", |claims| claims["sub"] = json!(somebody().subject));
        let ours = world.exchange(&tokens, &somebody()).await;
        let (theirs, ours) = (identified(&tokens, &like_ours).await, identified(&tokens, &ours.access).await);
        assert_eq!(theirs.to_string(), format!("issuer:{}", somebody().subject));
        assert_eq!(ours.to_string(), format!("token:{}", somebody().subject));
        let all = desk.token("desk-1", |claims| claims["namespace"] = json!("*"));
        assert_eq!(identified(&tokens, &all).await.reach, Reach::Everything);

        let drop = |claim: &'static str| {
            move |claims: &mut serde_json::Value| {
                claims.as_object_mut().unwrap().remove(claim);
            }
        };
        for claim in ["role", "namespace", "iss", "aud", "sub", "exp"] {
            assert_eq!(refused(&tokens, &desk.token("desk-1", drop(claim))).await, Some(Refused::Invalid), "{claim}");
        }
        let (long, nul) = ("s".repeat(256), "a\0b");
        for (claim, value) in [
            ("role", "root"),
            ("role", "agent"),
            ("namespace", "a b"),
            ("iss", "x"),
            ("aud", "x"),
            ("sub", ""),
            ("sub", &long),
            ("sub", nul),
            ("sub", "a b"),
        ] {
            let token = desk.token("desk-1", |claims| claims[claim] = json!(value));
            assert_eq!(refused(&tokens, &token).await, Some(Refused::Invalid), "{claim} {value}");
        }
        assert_eq!(desk.asked.load(Ordering::SeqCst), 1, "the keys are remembered");
        let now = START.as_micros() / 1_000_000;
        let late = desk.token("desk-1", |claims| claims["nbf"] = json!(now + 300));
        assert_eq!(refused(&tokens, &late).await, Some(Refused::Early));
    })
    .await;
    desk.tasks.shutdown().cut();
}

#[tokio::test]
async fn where_scopes_are_looked_at_what_they_do_not_name_is_not_granted() {
    let desk = Desk::open().await;
    let tokens = World::new().tokens(Jwt::default(), Some(desk.issuer(&json!({ "scope_claim": "scp" })))).await;
    following(&tokens, async {
        for (scope, expected) in [
            (json!("openid agents:read keys:manage"), Permissions::of(&[Permission::AgentsRead])),
            (json!("agents:reed"), Permissions::of(&[])),
            (json!(""), Permissions::of(&[])),
            (json!(null), Permissions::of(&[])),
        ] {
            let token = desk.token("desk-1", |claims| claims["scp"] = scope.clone());
            let found = identified(&tokens, &token).await.permissions;
            assert_eq!(found, expected, "{scope}");
        }
    })
    .await;
    desk.tasks.shutdown().cut();
}

#[tokio::test]
async fn its_keys_are_asked_for_seldom_and_outlive_its_absence() {
    let desk = Desk::open().await;
    let world = World::new();
    let tokens = world.tokens(Jwt::default(), Some(desk.issuer(&json!({})))).await;
    following(&tokens, async {
        for number in 0..20 {
            let unknown = desk.token(&format!("desk-{}", 100 + number), |_| ());
            assert_eq!(refused(&tokens, &unknown).await, Some(Refused::Invalid));
        }
        assert_eq!(desk.asked.load(Ordering::SeqCst), 1, "however many come");
        desk.is_away.store(true, Ordering::SeqCst);
        let long = desk.token("desk-1", |claims| claims["exp"] = json!(i64::MAX / 2));
        world.clock.advance(Duration::from_hours(1));
        assert_eq!(refused(&tokens, &long).await, None);
        assert_eq!(desk.asked.load(Ordering::SeqCst), 1, "who has a known key waits for nobody");
        assert_eq!(refused(&tokens, &desk.token("desk-2", |_| ())).await, Some(Refused::Invalid));
        assert_eq!(desk.asked.load(Ordering::SeqCst), 2);
        world.clock.advance(Duration::from_hours(24));
        assert_eq!(tokens.identify(&long).await.unwrap_err().reason, "issuer_unavailable");
    })
    .await;
    desk.tasks.shutdown().cut();
}

#[tokio::test]
async fn whoever_goes_away_keeps_nobody_from_the_keys() {
    let desk = Desk::open().await;
    let world = World::new();
    desk.is_away.store(true, Ordering::SeqCst);
    let tokens = world.tokens(Jwt::default(), Some(desk.issuer(&json!({})))).await;
    following(&tokens, async {
        let token = desk.token("desk-1", |_| ());
        assert_eq!(tokens.identify(&token).await.unwrap_err().reason, "issuer_unavailable");
        desk.is_away.store(false, Ordering::SeqCst);
        world.clock.advance(Duration::from_secs(11));
        // It asks, and does not wait for the answer.
        assert!(futures::FutureExt::now_or_never(tokens.identify(&token)).is_none());
        eventually("the keys to come all the same", async || match refused(&tokens, &token).await {
            None => Ok(()),
            refused => Err(refused),
        })
        .await;
        assert_eq!(desk.asked.load(Ordering::SeqCst), 2);
    })
    .await;
    desk.tasks.shutdown().cut();
}

#[test]
fn an_issuer_that_anybody_could_be_is_refused() {
    let of = |algorithms: serde_json::Value, url: &str| {
        let settings = json!({ "issuer": "i", "audience": "a", "jwks_url": url, "algorithms": algorithms });
        serde_json::from_value::<Issuer>(settings).unwrap().validate()
    };
    assert!(of(json!(["RS256"]), "https://desk.example/keys").is_ok());
    assert!(of(json!(["RS256"]), "http://desk.example/keys").is_err());
    assert!(of(json!(["RS256"]), "file:///keys").is_err());
    assert!(of(json!(["HS256"]), "https://desk.example/keys").is_err());
    assert!(of(json!([]), "https://desk.example/keys").is_err());
}
