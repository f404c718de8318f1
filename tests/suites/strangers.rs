//! Over gRPC nobody crosses namespaces: every RPC of every service refuses whoever is bound to another, with everything else that
//! a network position could give them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use access::{Keys, Kind, Principal, Reach, Role, RootSecret, Signer, acting_as};
use contracts::communication::v1::{CredentialInUse, ListCredentialsResponse, RenewSessionRequest};
use domain::{Namespace, SystemClock};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use reqwest::{
    Method,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde_json::json;
use settings::Secret;
use testkit::{Cluster, Setup, TOKEN, TWO_ORCHESTRATORS};

/// Of <https://grpc.io/docs/guides/status-codes/>.
const PERMISSION_DENIED: &str = "7";
const NOT_FOUND: &str = "5";
const UNAUTHENTICATED: &str = "16";
/// An execution that is not there. Of several orchestrators one is asked by the others.
const EXECUTION: &str = "exe_00000000010000000000000004";
/// An agent that is not there.
const AGENT: &str = "agt_00000000010000000000000004";
/// The cluster has two orchestrators, and one of everything else.
const ORCHESTRATORS: [&str; 2] = ["orchestrator-1", "orchestrator-2"];

/// How a field's number and its bytes are written (<https://protobuf.dev/programming-guides/encoding/>).
fn field(number: i32, bytes: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    prost::encoding::encode_key(
        u32::try_from(number).expect("it is positive"),
        prost::encoding::WireType::LengthDelimited,
        &mut written,
    );
    prost::encoding::encode_varint(bytes.len() as u64, &mut written);
    written.extend_from_slice(bytes);
    written
}

/// A message whose first field called `namespace`, however deep, says `default`, and with an execution beside it where one is to
/// be named; nothing where there is no such field.
fn of_default(message: &DescriptorProto, all: &BTreeMap<String, DescriptorProto>, depth: u8) -> Option<Vec<u8>> {
    let own = message.field.iter().find(|field| field.name() == "namespace" && field.r#type() == Type::String);
    if let Some(own) = own {
        let execution = message.field.iter().find(|field| field.name() == "execution_id");
        let execution = execution.map(|execution| field(execution.number(), EXECUTION.as_bytes()));
        return Some([field(own.number(), b"default"), execution.unwrap_or_default()].concat());
    }
    if depth == 0 {
        return None;
    }
    message.field.iter().filter(|field| field.r#type() == Type::Message).find_map(|part| {
        let inner = of_default(all.get(part.type_name())?, all, depth - 1)?;
        Some(field(part.number(), &inner))
    })
}

/// Every RPC with the request of somebody who wants what is of `default`.
fn requests() -> BTreeMap<String, Option<Vec<u8>>> {
    let files = FileDescriptorSet::decode(contracts::FILE_DESCRIPTOR_SET).expect("it is what we have compiled").file;
    let named = files.iter().flat_map(|file| {
        file.message_type
            .iter()
            .map(move |message| (format!(".{}.{}", file.package(), message.name()), message.clone()))
    });
    let all: BTreeMap<_, _> = named.collect();
    let rpcs = files.iter().flat_map(|file| {
        file.service.iter().flat_map(move |service| {
            service.method.iter().map(move |method| {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                (path, method.input_type().to_owned())
            })
        })
    });
    rpcs.map(|(path, input)| (path, of_default(&all[&input], &all, 3))).collect()
}

fn keys() -> Keys {
    Keys::of(&RootSecret::new(&Secret::new(TOKEN)), Arc::new(SystemClock))
}

/// `authorization` of a process that calls a service for this one.
async fn signed(principal: Principal, service: &'static str) -> HeaderValue {
    acting_as(Arc::new(principal), async { Signer::gateway(keys()).header(service) }).await.expect("it can be signed")
}

/// `authorization` of an agent.
fn agents_token(id: &str, namespace: &str, family: &str) -> HeaderValue {
    let reach = Reach::Namespace(namespace.parse().expect("a name"));
    let agent = Some(id.parse().expect("an id"));
    let agent = Principal { agent, ..Principal::of_role(Kind::Token, id, Role::Agent, reach) };
    let token = keys().agent_token(&agent, family, Duration::from_hours(1)).expect("it can be signed");
    HeaderValue::try_from(format!("Bearer {token}")).expect("it is ASCII")
}

async fn called(
    client: &reqwest::Client,
    address: &str,
    path: &str,
    message: &[u8],
    by: &HeaderValue,
) -> reqwest::Response {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).expect("it is short").to_be_bytes());
    framed.extend_from_slice(message);
    let request = client.post(format!("http://{address}{path}")).body(framed);
    let request = request.header(CONTENT_TYPE, "application/grpc").header("te", "trailers").header(AUTHORIZATION, by);
    request.send().await.expect("an answer comes")
}

/// The status that a call has, where it is refused at once.
pub(crate) async fn refused(
    client: &reqwest::Client,
    address: &str,
    path: &str,
    message: &[u8],
    by: &HeaderValue,
) -> Option<String> {
    let response = called(client, address, path, message, by).await;
    let status = response.headers().get("grpc-status")?;
    Some(status.to_str().expect("a number").to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rpc_of_any_service_lets_anybody_into_another_namespace() {
    let cluster = Cluster::start(Setup { size: TWO_ORCHESTRATORS, ..Setup::default() }).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().timeout(Duration::from_secs(30)).build();
    let client = client.expect("it can be made");
    let blue = Reach::Namespace("blue".parse::<Namespace>().expect("a name"));
    let stranger = Principal::of_role(Kind::Key, "key_1", Role::Admin, blue);
    let at_home = Principal::of_role(Kind::Key, "key_2", Role::Admin, Reach::Everything);
    let mut walked = 0;
    for (path, message) in requests() {
        if path.ends_with("/RenewSession") {
            renews_no_session(&cluster, &client, &path).await;
            walked += 1;
            continue;
        }
        // Where none is named, the RPC concerns all of them.
        let is_beyond = access::rule(&path).expect("it is listed").beyond_namespaces;
        assert!(is_beyond || message.is_some(), "{path} names no namespace, and does not concern all");
        let message = message.unwrap_or_default();
        let service = service(&path);
        let stranger = signed(stranger.clone(), service).await;
        let to_another = signed(at_home.clone(), if service == "registry" { "orchestrator" } else { "registry" }).await;
        let at_home = signed(at_home.clone(), service).await;
        for address in replicas(&cluster, &path) {
            if path.ends_with("/OpenSession") {
                let agents = agents_token(AGENT, "blue", "fam_1");
                for (shown, refused) in [(&agents, "another namespace"), (&stranger, "a token of the cluster")] {
                    opens_no_session(&address, shown, refused).await;
                }
                continue;
            }
            let status = refused(&client, &address, &path, &message, &stranger).await;
            assert_eq!(status.as_deref(), Some(PERMISSION_DENIED), "{path}");
            let status = refused(&client, &address, &path, &message, &to_another).await;
            assert_eq!(status.as_deref(), Some(UNAUTHENTICATED), "{path}: it was said to another service");
            if !is_beyond {
                // So it is the namespace that keeps them out, and nothing else.
                let status = refused(&client, &address, &path, &message, &at_home).await;
                assert_ne!(status.as_deref(), Some(PERMISSION_DENIED), "{path}");
            }
        }
        walked += 1;
    }
    assert!(walked > 40, "{walked}");
}

/// Whose RPC it is.
fn service(path: &str) -> &'static str {
    match path.trim_start_matches("/troupe.").split('.').next().expect("its package") {
        "registry" => "registry",
        "orchestrator" => "orchestrator",
        // What is of `access` every service has.
        "communication" | "access" => "communication",
        "agent_runner" => "agent-runner",
        other => panic!("{other} is no service"),
    }
}

/// Where the service of an RPC listens.
fn replicas(cluster: &Cluster, path: &str) -> Vec<String> {
    let service = service(path);
    let only = format!("{service}-1");
    let names = if service == "orchestrator" { ORCHESTRATORS.to_vec() } else { vec![only.as_str()] };
    names.into_iter().map(|name| cluster.address(name).to_string()).collect()
}

/// With what sessions are open at a communication.
pub(crate) async fn in_use(client: &reqwest::Client, address: &str) -> Vec<CredentialInUse> {
    let gateway = signed(Principal::service("gateway"), "communication").await;
    let listing = "/troupe.communication.v1.CredentialService/ListCredentials";
    let body = called(client, address, listing, &[], &gateway).await.bytes().await.expect("it ends");
    ListCredentialsResponse::decode(body.get(5..).unwrap_or_default()).expect("it is one").credentials
}

/// The session of an agent is renewed by no token that another namespace has for the same agent.
async fn renews_no_session(cluster: &Cluster, client: &reqwest::Client, path: &str) {
    let api = cluster.api();
    let agent = api.post("/api/v1/agents", &json!({ "agent_type": "guest", "name": "own" })).await.expect(201);
    let id = agent["id"].as_str().expect("it has an id");
    let key = json!({ "name": "own", "role": "agent", "agent_id": id });
    let key = api.post("/api/v1/auth/keys", &key).await.expect(201);
    let exchange = api.request(Method::POST, "/api/v1/auth/token").json(&json!({ "grant_type": "api_key" }));
    let exchange = exchange.header("X-API-Key", key["secret"].as_str().expect("it is told once"));
    let tokens = api.send(exchange).await.expect("an answer comes").expect(200);
    let address = cluster.address("communication-1").to_string();
    let server =
        agent_sdk::Server::at(format!("http://{address}")).token(tokens["access_token"].as_str().expect("it is there"));
    let agent = agent_sdk::Agent::builder("guest").agent_id(id).connect(server);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(agent.run_until(agent_sdk::Shutdown::new()));

    let in_use = testkit::eventually("the session is open", || async {
        in_use(client, &address).await.into_iter().next().ok_or("there is none")
    })
    .await;
    let request = RenewSessionRequest { session_id: in_use.session_id }.encode_to_vec();
    let renewed = async |by: &HeaderValue| refused(client, &address, path, &request, by).await;
    assert_eq!(renewed(&agents_token(id, "blue", &in_use.family)).await.as_deref(), Some(NOT_FOUND));
    // So it is the namespace that keeps them out, and nothing else.
    assert_eq!(renewed(&agents_token(id, "default", &in_use.family)).await.as_deref(), None);
}

/// A session is refused in the middle of its stream; to whoever shows what a process says of a client, at once.
async fn opens_no_session(address: &str, stranger: &HeaderValue, why: &str) {
    let token = stranger.to_str().expect("it is ASCII").trim_start_matches("Bearer ");
    let server = agent_sdk::Server::at(format!("http://{address}")).token(token);
    let agent = agent_sdk::Agent::builder("guest").namespace("default").connect(server);
    let refused = agent.run_until(agent_sdk::Shutdown::new()).await.expect_err("it is a stranger's");
    let source = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(source.contains(why), "{refused} {source}");
}
