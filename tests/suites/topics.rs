//! What is told to whoever listens: between clients, and the progress of tasks; in one process, and from any gateway of a
//! cluster to any other.

use std::time::Duration;

use agent_sdk::{Agent, Failure, Link, Task};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use testkit::{Api, Cluster, Server, Setup, TWO_OF_EACH, troupe};
use tokio::time::timeout;
use tonic::{
    body::Body,
    codegen::http::{HeaderValue, Request, header::AUTHORIZATION},
    transport::Endpoint,
};
use tower::util::MapRequest;

/// Far more than anything here takes; only a failing test waits so long.
const DEADLINE: Duration = Duration::from_mins(1);
/// Between two tries of something that is to be heard some time.
const PAUSE: Duration = Duration::from_millis(50);

/// A stream of a gateway.
struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    /// What is published from now on is heard.
    async fn open(api: &Api, namespace: &str, pattern: &str) -> Self {
        let path = format!("/api/v1/topics/{}/events", pattern.replace('#', "%23"));
        let request = api.request(Method::GET, &path).header("Accept", "text/event-stream");
        let response = request.header("X-Namespace", namespace).send().await.expect("the gateway answers");
        assert_eq!(response.status(), 200, "{:?}", response.text().await);
        Self { response, text: String::new() }
    }

    /// The next event.
    async fn next(&mut self) -> Value {
        let next = async {
            loop {
                if let Some(end) = self.text.find("\n\n") {
                    let event: String = self.text.drain(..end + 2).collect();
                    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::parse);
                    if let Some(data) = data {
                        return data.expect("an event is JSON");
                    }
                } else {
                    let chunk = self.response.chunk().await.expect("the stream is not cut").expect("it goes on");
                    self.text.push_str(std::str::from_utf8(&chunk).expect("events are text"));
                }
            }
        };
        timeout(DEADLINE, next).await.expect("something is heard")
    }

    async fn expect(&mut self, topic: &str, payload: &Value) {
        assert_eq!(self.next().await, json!({ "type": "message", "topic": topic, "payload": payload }));
    }
}

async fn publish(api: &Api, namespace: &str, topic: &str, payload: &Value) {
    let request = api.request(Method::POST, &format!("/api/v1/topics/{topic}")).header("X-Namespace", namespace);
    api.send(request.json(payload)).await.expect("the gateway answers").expect(202);
}

async fn tell(task: Task) -> Result<Value, Failure> {
    for done in 0..3 {
        task.progress(&json!({ "done": done }));
    }
    Ok(json!("told"))
}

/// The way to a communication. A cluster's wants the token of its processes; a server of its own asks for nothing.
fn link(address: String) -> Link {
    let channel = Endpoint::from_shared(address).expect("it is an address").connect_lazy();
    Link::new(MapRequest::new(channel, |mut request: Request<Body>| {
        request
            .headers_mut()
            .insert(AUTHORIZATION, HeaderValue::from_static("Bearer a-token-of-the-tests-that-is-long"));
        request
    }))
}

/// What is published at one gateway is heard at the other, and so is what a task shows.
async fn topics_carry(listening: &Api, publishing: &Api, agents: String) {
    let mut orders = Stream::open(listening, "default", "orders.*.created").await;
    let mut all = Stream::open(listening, "default", "#").await;
    let mut team = Stream::open(listening, "team", "#").await;
    publish(publishing, "default", "orders.eu.changed", &json!(1)).await;
    publish(publishing, "default", "orders.eu.created", &json!({ "id": 2 })).await;
    publish(publishing, "team", "orders.eu.created", &json!(null)).await;
    orders.expect("orders.eu.created", &json!({ "id": 2 })).await;
    all.expect("orders.eu.changed", &json!(1)).await;
    all.expect("orders.eu.created", &json!({ "id": 2 })).await;
    team.expect("orders.eu.created", &json!(null)).await;

    let mut progress = Stream::open(listening, "default", "executions.*.progress").await;
    let agent = Agent::builder("teller").name("teller-1").action("tell", tell);
    let told = async {
        let step = json!({ "id": "tell", "agent_type": "teller", "action": "tell" });
        let workflow = publishing.define(&json!({ "name": "telling", "steps": [step] })).await;
        let execution = publishing.execute(&workflow, &json!({})).await;
        for done in 0..3 {
            let heard = progress.next().await;
            assert_eq!(heard["topic"], format!("executions.{execution}.progress"));
            let document = &heard["payload"];
            assert_eq!(document["detail"], json!({ "done": done }), "{heard:#}");
            let task = document["task_id"].as_str().expect("it names its task");
            assert!(task.starts_with(&execution), "{task}");
            assert!(document["agent_id"].as_str().is_some_and(|id| id.starts_with("agt_")), "{heard:#}");
        }
        assert_eq!(listening.ended(&execution).await["status"], "completed");
    };
    tokio::select! {
        () = told => {}
        ended = agent.link(link(agents)).run() => panic!("the agent has ended: {ended:?}"),
    }
}

#[tokio::test]
async fn one_process_tells_whoever_listens() {
    let server = Server::start().await;
    topics_carry(&server.api(), &server.api(), server.grpc_url()).await;
}

#[tokio::test]
async fn the_commands_publish_and_watch() {
    let server = Server::start().await;
    let url = server.url();
    let watching = troupe(&url, &["topics", "watch", "news.#", "--count", "2", "--json"]);
    tokio::pin!(watching);
    // It tells that it listens on standard error, which is read at its end.
    let told = loop {
        let published = troupe(&url, &["topics", "publish", "news.today", "{\"a\": 1}"]).await;
        assert_eq!((published.code, published.stdout.trim()), (Some(0), "published to news.today"));
        if let Ok(told) = timeout(PAUSE, &mut watching).await {
            break told;
        }
    };
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    let lines: Vec<Value> = told.stdout.lines().map(|line| line.parse().expect("each line is JSON")).collect();
    assert_eq!(lines, [(); 2].map(|()| json!({ "type": "message", "topic": "news.today", "payload": { "a": 1 } })));
    let refused = troupe(&url, &["topics", "publish", "a..b", "1"]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("no word may be empty"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_at_one_gateway_is_heard_at_the_other_and_a_gap_is_told() {
    let cluster = Cluster::start(Setup { size: TWO_OF_EACH, ..Setup::default() }).await;
    let gateways: Vec<_> = cluster.urls().into_iter().map(Api::new).collect();
    let [one, other] = gateways.as_slice() else { panic!("there are two") };
    let agents = format!("http://{}", cluster.address("communication-2"));
    topics_carry(one, other, agents).await;

    let mut all = Stream::open(one, "default", "#").await;
    cluster.servers().control("kill", "redis");
    let refused = other.post("/api/v1/topics/lost", &json!(0)).await;
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!("live_unavailable")));
    cluster.servers().control("start", "redis");
    assert_eq!(all.next().await, json!({ "type": "gap" }));
    // Redis is tried again a little later.
    let published = async {
        loop {
            let request = other.request(Method::POST, "/api/v1/topics/after.all").json(&json!(3));
            let answer = other.send(request).await.expect("the gateway answers");
            if answer.status == 202 {
                return;
            }
            assert_eq!((answer.status, &answer.body["code"]), (503, &json!("live_unavailable")));
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(DEADLINE, published).await.expect("Redis is used again");
    all.expect("after.all", &json!(3)).await;
}
