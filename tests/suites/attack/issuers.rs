//! Tokens of every algorithm, and those of another issuer, whose keys the test serves and changes.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::{ADMIN, Product, asked, with};

/// What is changed of a token.
type Change = fn(&mut Header, &mut Value);

/// With a pair for each; HS256 has none.
fn kinds() -> [(&'static str, Algorithm, &'static SignatureAlgorithm); 3] {
    [
        ("EdDSA", Algorithm::EdDSA, &PKCS_ED25519),
        ("RS256", Algorithm::RS256, &PKCS_RSA_SHA256),
        ("ES256", Algorithm::ES256, &PKCS_ECDSA_P256_SHA256),
    ]
}

/// What whoever bears a token gets.
async fn status(product: &Product, token: &str) -> (u16, Value) {
    let bearer = with("authorization", &format!("Bearer {token}"));
    let answer = asked(&product.api(), Method::GET, "/api/v1/auth/me", bearer, None).await;
    (answer.status, answer.body)
}

async fn exchanged(product: &Product) -> String {
    let exchange = json!({ "grant_type": "api_key" });
    let tokens =
        asked(&product.api(), Method::POST, "/api/v1/auth/token", with("x-api-key", ADMIN), Some(&exchange)).await;
    tokens.expect(200)["access_token"].as_str().expect("a token").to_owned()
}

async fn restarted(product: &mut Product, settings: &[(&str, &str)]) {
    let is_ready = match product {
        Product::Embedded(server) => {
            server.kill().await;
            server.restart_with(settings).await
        }
        Product::Cluster(cluster) => {
            cluster.kill("gateway-1").await;
            cluster.restart_with("gateway-1", settings).await
        }
    };
    assert!(is_ready, "{settings:?}");
}

async fn tokens_of_every_algorithm_are_good_while_their_key_is(mut product: Product) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut before = exchanged(&product).await;
    assert_eq!(jsonwebtoken::decode_header(&before).expect("a token").alg, Algorithm::HS256);
    assert_eq!(status(&product, &before).await.0, 200);
    for (name, algorithm, kind) in kinds() {
        let pair = KeyPair::generate_for(kind).expect("a pair");
        let (private, public) =
            (file(&folder, "private", &pair.serialize_pem()), file(&folder, "public", &pair.public_key_pem()));
        let settings = [
            ("TROUPE_GATEWAY__JWT__ALGORITHM", name),
            ("TROUPE_GATEWAY__JWT__PRIVATE_KEY_FILE", private.to_str().expect("text")),
            ("TROUPE_GATEWAY__JWT__PUBLIC_KEY_FILE", public.to_str().expect("text")),
        ];
        restarted(&mut product, &settings).await;
        let token = exchanged(&product).await;
        assert_eq!(jsonwebtoken::decode_header(&token).expect("a token").alg, algorithm);
        assert_eq!(status(&product, &token).await.0, 200, "{name}");
        assert_eq!(status(&product, &before).await.0, 401, "{name}: its key was given up");
        // The public key is no secret: whoever signs with it as one signs nothing.
        let claims: Value = jsonwebtoken::dangerous::insecure_decode(&token).expect("claims").claims;
        let mut header = Header::new(Algorithm::HS256);
        header.kid = jsonwebtoken::decode_header(&token).expect("a header").kid;
        let secret = EncodingKey::from_secret(pair.public_key_pem().as_bytes());
        let forged = jsonwebtoken::encode(&header, &claims, &secret).expect("it can be signed");
        assert_eq!(status(&product, &forged).await.0, 401, "{name}");
        before = token;
    }
    product.is_well();
}

both_ways!(tokens_of_every_algorithm_are_good_while_their_key_is);

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("it can be written");
    path
}

/// Somebody else who gives tokens.
struct Desk {
    url: String,
    keys: Arc<Mutex<Vec<Jwk>>>,
    _serving: JoinSet<()>,
}

impl Desk {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let keys = Arc::<Mutex<Vec<Jwk>>>::default();
        let (served, mut serving) = (Arc::clone(&keys), JoinSet::new());
        serving.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let body = json!({ "keys": *served.lock().expect("nobody has panicked") }).to_string();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
                // Whoever has left asks again.
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await;
            }
        });
        Self { url, keys, _serving: serving }
    }

    fn publish(&self, keys: &[&Signing]) {
        *self.keys.lock().expect("nobody has panicked") = keys.iter().map(|key| key.public.clone()).collect();
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("token_issuer.issuer", "\"https://desk.example\"".to_owned()),
            ("token_issuer.audience", "\"troupe\"".to_owned()),
            ("token_issuer.jwks_url", format!("{:?}", self.url)),
            ("token_issuer.refresh", "\"10s\"".to_owned()),
        ]
    }
}

/// One of its keys.
struct Signing {
    algorithm: Algorithm,
    private: EncodingKey,
    public: Jwk,
    kid: String,
}

impl Signing {
    fn new(kid: &str, algorithm: Algorithm, kind: &'static SignatureAlgorithm) -> Self {
        let pair = KeyPair::generate_for(kind).expect("a pair");
        let pem = pair.serialize_pem();
        let private = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()),
        };
        let private = private.expect("a key");
        let mut public = if algorithm == Algorithm::EdDSA {
            let x = super::credentials::encode(pair.public_key_raw());
            serde_json::from_value(json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x })).expect("a key")
        } else {
            Jwk::from_encoding_key(&private, algorithm).expect("a public key")
        };
        public.common.key_id = Some(kid.to_owned());
        Self { algorithm, private, public, kid: kid.to_owned() }
    }

    fn token(&self, change: impl FnOnce(&mut Header, &mut Value)) -> String {
        let now = std::time::UNIX_EPOCH.elapsed().expect("it is later").as_secs();
        let mut claims = json!({
            "iss": "https://desk.example", "aud": "troupe", "sub": "ada", "exp": now + 600, "role": "viewer", "namespace": "blue",
        });
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        change(&mut header, &mut claims);
        jsonwebtoken::encode(&header, &claims, &self.private).expect("it can be signed")
    }
}

async fn another_issuers_tokens_are_good_while_it_publishes_their_key(desk: Desk, mut product: Product) {
    let keys = kinds().map(|(name, algorithm, kind)| Signing::new(name, algorithm, kind));
    desk.publish(&keys.each_ref());
    testkit::eventually("its keys are known", async || match status(&product, &keys[0].token(|_, _| ())).await {
        (200, found) => Ok(found),
        other => Err(other),
    })
    .await;
    for key in &keys {
        let (found, who) = status(&product, &key.token(|_, _| ())).await;
        assert_eq!((found, &who["role"], &who["namespace"]), (200, &json!("viewer"), &json!("blue")), "{}", key.kid);
        let wrong: [(&str, Change); 7] = [
            ("another audience", |_, claims| claims["aud"] = json!("elsewhere")),
            ("another issuer", |_, claims| claims["iss"] = json!("https://other.example")),
            ("its time is over", |_, claims| claims["exp"] = json!(1_700_000_000)),
            ("its time has not come", |_, claims| claims["nbf"] = json!(9_000_000_000_u64)),
            ("no role of ours", |_, claims| claims["role"] = json!("emperor")),
            ("an unknown key", |header, _| header.kid = Some("unknown".to_owned())),
            ("no key", |header, _| header.kid = None),
        ];
        for (why, change) in wrong {
            assert_eq!(status(&product, &key.token(change)).await.0, 401, "{}: {why}", key.kid);
        }
        let own = Signing::new(&key.kid, Algorithm::ES256, &PKCS_ECDSA_P256_SHA256);
        assert_eq!(status(&product, &own.token(|_, _| ())).await.0, 401, "{}: somebody else's", key.kid);
    }
    let next = Signing::new("next", Algorithm::EdDSA, &PKCS_ED25519);
    desk.publish(&[&next]);
    testkit::eventually("its next key is known", async || match status(&product, &next.token(|_, _| ())).await {
        (200, found) => Ok(found),
        other => Err(other),
    })
    .await;
    testkit::eventually("the ones before are given up", async || {
        match status(&product, &keys[0].token(|_, _| ())).await {
            (401, found) => Ok(found),
            other => Err(other),
        }
    })
    .await;
    product.is_well();
}

mod another_issuers_tokens {
    use super::*;

    #[tokio::test]
    async fn at_home() {
        let desk = Desk::open().await;
        let settings = desk.settings();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let product = Product::embedded_with(&settings).await;
        Box::pin(another_issuers_tokens_are_good_while_it_publishes_their_key(desk, product)).await;
    }

    #[tokio::test]
    async fn in_a_cluster() {
        let desk = Desk::open().await;
        let settings = desk.settings();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let product = Product::cluster_with(&settings).await;
        Box::pin(another_issuers_tokens_are_good_while_it_publishes_their_key(desk, product)).await;
    }
}
