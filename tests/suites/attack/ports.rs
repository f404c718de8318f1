//! The gRPC ports: the same credentials are asked for there at home as in a cluster, and who is refused is in the audit log.

use reqwest::{Method, header::HeaderValue};
use serde_json::{Value, json};

use super::{Product, TOKEN, admin, asked, with};
use crate::strangers;

const LIST: &str = "/troupe.communication.v1.MessageService/ListMessages";
/// What services alone tell each other.
const INTERNAL: &str = "/troupe.communication.v1.CredentialService/ListCredentials";
const UNAUTHENTICATED: Option<&str> = Some("16");
const PERMISSION_DENIED: Option<&str> = Some("7");

fn bearer(token: &str) -> HeaderValue {
    HeaderValue::try_from(format!("Bearer {token}")).expect("it can be sent")
}

/// An agent, and an access token that is its own.
async fn agent(product: &Product, name: &str) -> (String, String) {
    let api = product.api();
    let text = |value: &Value| value.as_str().expect("it is there").to_owned();
    let agent = json!({ "agent_type": "guest", "name": name });
    let id = text(&admin(&api, Method::POST, "/api/v1/agents", Some(&agent)).await.expect(201)["id"]);
    let key = json!({ "name": name, "role": "agent", "agent_id": id });
    let key = text(&admin(&api, Method::POST, "/api/v1/auth/keys", Some(&key)).await.expect(201)["secret"]);
    let exchange = json!({ "grant_type": "api_key" });
    let tokens = asked(&api, Method::POST, "/api/v1/auth/token", with("x-api-key", &key), Some(&exchange)).await;
    (id, text(&tokens.expect(200)["access_token"]))
}

/// Opens a session as an agent, and does not wait for it.
fn session(product: &Product, id: &str, token: &str) -> impl Future<Output = Result<(), agent_sdk::Error>> + use<> {
    let server = agent_sdk::Server::at(format!("http://{}", product.grpc())).token(token);
    agent_sdk::Agent::builder("guest").agent_id(id).connect(server).run_until(agent_sdk::Shutdown::new())
}

async fn nobody_is_let_in_without_what_is_theirs_and_whoever_tries_is_in_the_log(mut product: Product) {
    let (own, token) = agent(&product, "own").await;
    let (other, _) = agent(&product, "other").await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("it can be made");
    let address = product.grpc().to_string();
    let call = async |path: &str, by: &HeaderValue| strangers::refused(&client, &address, path, &[], by).await;
    // Of one address five are noted in a second, and these are as many.
    let refused = session(&product, &own, "a-wrong-token-that-is-long").await.expect_err("it is none");
    assert!(matches!(&refused, agent_sdk::Error::Refused { source, .. } if source.reason == "unauthenticated"));
    for shown in ["a-wrong-token-that-is-as-long-as-one", &token, "a.b.c"] {
        assert_eq!(call(LIST, &bearer(shown)).await.as_deref(), UNAUTHENTICATED, "{shown}");
    }
    assert_eq!(call(LIST, &HeaderValue::from_static("")).await.as_deref(), UNAUTHENTICATED);
    assert_eq!(call(INTERNAL, &bearer(TOKEN)).await.as_deref(), PERMISSION_DENIED);
    let answer = call(LIST, &bearer(TOKEN)).await;
    assert!(answer.as_deref() != UNAUTHENTICATED && answer.as_deref() != PERMISSION_DENIED, "{answer:?}");
    let refused = session(&product, &other, &token).await.expect_err("it is another's");
    assert!(matches!(&refused, agent_sdk::Error::Refused { source, .. } if source.reason == "agent_forbidden"));
    let mut running = tokio::task::JoinSet::new();
    running.spawn(session(&product, &own, &token));
    let api = product.api();
    testkit::eventually("its own is open", async || {
        let found = admin(&api, Method::GET, &format!("/api/v1/agents/{own}"), None).await.expect(200);
        if found["status"] == "idle" { Ok(()) } else { Err(found) }
    })
    .await;

    let open = "RPC /troupe.communication.v1.AgentSessionService/OpenSession";
    let wanted = [
        (format!("RPC {LIST}"), 401, "unauthenticated", None, "messages:read"),
        (format!("RPC {INTERNAL}"), 403, "forbidden", Some("cluster:cluster"), "internal"),
        (open.to_owned(), 401, "unauthenticated", None, "sessions:open"),
        (open.to_owned(), 403, "agent_forbidden", Some("token:"), "sessions:open"),
    ];
    testkit::eventually("all of them are in the log", async || {
        let page = admin(&api, Method::GET, "/api/v1/audit?limit=100&status=400", None).await.expect(200);
        let entries = page["items"].as_array().expect("entries");
        let missing = wanted.iter().find(|(route, status, code, actor, action)| {
            !entries.iter().any(|entry| {
                let by = entry["actor"].as_str();
                entry["route"] == *route
                    && entry["status"] == *status
                    && entry["code"] == *code
                    && entry["action"] == *action
                    && entry["outcome"] == "denied"
                    && entry["address"] == "127.0.0.1"
                    && by.is_some() == actor.is_some()
                    && by.unwrap_or_default().starts_with(actor.unwrap_or_default())
            })
        });
        missing.map_or(Ok(()), |missing| Err(format!("{missing:?}: {page}")))
    })
    .await;
    let page = admin(&api, Method::GET, "/api/v1/audit?limit=500", None).await.expect(200).to_string();
    assert!(!page.contains(&token) && !page.contains(TOKEN) && !page.contains("a-wrong-token"), "it tells a secret");
    // A flood is cut short, and hides nobody.
    for _ in 0..200 {
        call(LIST, &bearer("a-wrong-token-that-is-as-long-as-one")).await;
    }
    let verified = admin(&api, Method::GET, "/api/v1/audit/verify", None).await.expect(200);
    assert_eq!(verified["faults"], json!([]));
    assert!(verified["entries"].as_u64().expect("a number") < 100, "{verified}");
    product.is_well();
}

both_ways!(nobody_is_let_in_without_what_is_theirs_and_whoever_tries_is_in_the_log);
