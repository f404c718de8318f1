//! Every route, with every credential that is none.

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

use super::{Product, admin, asked, with};

/// Every described operation, with a path that could be one.
async fn operations(product: &Product) -> Vec<(Method, String)> {
    let document = product.api().get("/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().expect("paths");
    let methods = ["get", "put", "post", "delete", "patch", "head"];
    let operations = paths.iter().flat_map(|(path, operations)| {
        let concrete: String =
            path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect::<Vec<_>>().join("/");
        let operations = operations.as_object().expect("operations");
        let found = operations.keys().filter(|name| methods.contains(&name.as_str()));
        found.map(|name| (name.to_uppercase().parse().expect("a method"), concrete.clone())).collect::<Vec<_>>()
    });
    operations.collect()
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 for URLs, without padding (RFC 4648, 5).
pub(super) fn encode(text: &[u8]) -> String {
    let digits = |chunk: &[u8]| {
        let bits = chunk.iter().chain(&[0, 0]).take(3).fold(0_usize, |bits, byte| (bits << 8) | usize::from(*byte));
        (0..=chunk.len()).map(|place| char::from(DIGITS[(bits >> (18 - 6 * place)) & 63])).collect::<String>()
    };
    text.chunks(3).map(digits).collect()
}

fn decode(text: &str) -> String {
    let value = |digit: u8| DIGITS.iter().position(|known| *known == digit).expect("a digit");
    let bytes = |chunk: &[u8]| {
        let bits =
            chunk.iter().map(|digit| value(*digit)).chain([0; 3]).take(4).fold(0, |bits, digit| (bits << 6) | digit);
        (0..chunk.len() - 1)
            .map(|place| u8::try_from((bits >> (16 - 8 * place)) & 255).expect("a byte"))
            .collect::<Vec<_>>()
    };
    String::from_utf8(text.as_bytes().chunks(4).flat_map(bytes).collect()).expect("text")
}

fn changed(part: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut value = serde_json::from_str(&decode(part)).expect("an object");
    change(&mut value);
    encode(value.to_string().as_bytes())
}

/// Tokens that look like ours, and are not.
fn forged(token: &str) -> Vec<String> {
    let parts: Vec<_> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("a token has three parts") };
    let header = |change: fn(&mut Value)| changed(header, change);
    let claim = |change: fn(&mut Value)| changed(claims, change);
    let none = header(|header| header["alg"] = json!("none"));
    let mut forged = vec![
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{}.{claims}.", header(|header| *header = json!({ "alg": "None", "typ": "JWT" }))),
        format!("{}.{claims}.{signature}", header(|header| header["alg"] = json!("RS256"))),
        format!("{}.{claims}.{signature}", header(|header| header["alg"] = json!("HS512"))),
        format!("{}.{claims}.{signature}", header(|header| header["kid"] = json!("../../../../dev/null"))),
        format!("{}.{claims}.{signature}", header(|header| header["kid"] = json!("' OR 1=1 --"))),
        format!("{}.{claims}.{signature}", header(|header| header["jku"] = json!("http://127.0.0.1:9/keys"))),
        format!("{}.{}.{signature}", parts[0], claim(|claims| claims["role"] = json!("admin"))),
        format!("{}.{}.{signature}", parts[0], claim(|claims| claims["scope"] = json!("keys:manage agents:write"))),
        format!("{}.{}.{signature}", parts[0], claim(|claims| claims["namespace"] = json!("default"))),
        format!("{}.{}.{signature}", parts[0], claim(|claims| claims["exp"] = json!(i64::MAX))),
        format!("{}.{}.{signature}", parts[0], claim(|claims| claims["exp"] = json!(1))),
        format!("{}.{claims}.{}", parts[0], signature.chars().rev().collect::<String>()),
        format!("{}.{claims}.", parts[0]),
        format!("{}.{claims}", parts[0]),
        "..".to_owned(),
        "a.b.c".to_owned(),
    ];
    forged.push(format!("{}{token}", "x".repeat(4_000)));
    forged
}

async fn wrong_ones_open_nothing(mut product: Product) {
    let api = product.api();
    let key = json!({ "name": "k", "role": "viewer", "namespace": "blue" });
    let created = admin(&api, Method::POST, "/api/v1/auth/keys", Some(&key)).await.expect(201);
    let key = created["secret"].as_str().expect("a secret").to_owned();
    let exchange = json!({ "grant_type": "api_key" });
    let tokens =
        asked(&api, Method::POST, "/api/v1/auth/token", with("x-api-key", &key), Some(&exchange)).await.expect(200);
    let token = tokens["access_token"].as_str().expect("a token");
    let bearer = |token: &str| with("authorization", &format!("Bearer {token}"));
    asked(&api, Method::GET, "/api/v1/auth/me", bearer(token), None).await.expect(200);

    let mut wrong = vec![
        HeaderMap::new(),
        with("x-api-key", "a-wrong-key-that-is-long-enough"),
        with("x-api-key", &key[..key.len() - 1]),
    ];
    wrong.push(with("x-api-key", &format!("trk_{}_{}", "0".repeat(16), "0".repeat(80))));
    wrong.push(with("x-api-key", token));
    wrong.push(with("authorization", "Basic YWRtaW46YWRtaW4="));
    wrong.push(bearer(&key));
    wrong.push(bearer(tokens["refresh_token"].as_str().expect("a token")));
    wrong.extend(forged(token).iter().map(|token| bearer(token)));
    let open =
        ["/health", "/health/live", "/health/ready", "/openapi.json", "/api/v1/auth/token", "/api/v1/auth/revoke"];
    let operations = operations(&product).await;
    assert!(operations.len() > 40, "{}", operations.len());
    for (method, path) in operations.iter().filter(|(_, path)| !open.contains(&path.as_str())) {
        for headers in &wrong {
            let body = (*method != Method::GET).then(|| json!({}));
            let answer = asked(&api, method.clone(), path, headers.clone(), body.as_ref()).await;
            assert_eq!(answer.status, 401, "{method} {path} {headers:?}: {answer:?}");
            let problem = answer.body.to_string();
            assert!(!problem.contains(&key) && !problem.contains(token), "it tells a secret: {problem}");
        }
    }
    // A key of another namespace, that may read: it sees nothing of this one, and changes nothing anywhere.
    for (method, path) in operations.iter().filter(|(_, path)| !open.contains(&path.as_str())) {
        let mut headers = with("x-api-key", &key);
        headers.extend(with("x-namespace", "default"));
        let body = (*method != Method::GET).then(|| json!({}));
        let answer = asked(&api, method.clone(), path, headers, body.as_ref()).await;
        assert!([403, 404].contains(&answer.status) || path == "/api/v1/auth/me", "{method} {path}: {answer:?}");
    }
    let verified = admin(&api, Method::GET, "/api/v1/audit/verify", None).await.expect(200);
    assert_eq!(verified["faults"], json!([]));
    product.is_well();
}

both_ways!(wrong_ones_open_nothing);

async fn nobody_gives_themselves_what_is_not_theirs_to_give(mut product: Product) {
    let api = product.api();
    let more: [(&str, Value, &[&str]); 3] = [
        (
            "/api/v1/agents",
            json!({ "agent_type": "echo", "name": "a" }),
            &["id_", "status", "created_at", "revision", "liveness", "namespace"],
        ),
        (
            "/api/v1/auth/keys",
            json!({ "name": "k", "role": "viewer" }),
            &["id", "secret", "created_by", "revoked_at", "last_used_at", "hash"],
        ),
        (
            "/api/v1/auth/token",
            json!({ "grant_type": "api_key" }),
            &["role", "namespace", "expires_in", "sub", "agent_id"],
        ),
    ];
    for (path, body, fields) in more {
        for field in fields {
            let mut body = body.clone();
            body[*field] = json!("admin");
            let answer = admin(&api, Method::POST, path, Some(&body)).await;
            assert_eq!(answer.status, 400, "{path} {field}: {answer:?}");
            assert!(answer.body.to_string().contains(field), "{path} {field}: {answer:?}");
        }
    }
    product.is_well();
}

both_ways!(nobody_gives_themselves_what_is_not_theirs_to_give);
