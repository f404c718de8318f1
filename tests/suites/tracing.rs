//! Traces as a collector sees them: one execution is one trace over all services, and over a restart; a message's links to its
//! sender's; log lines say where they belong.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value as AnyValue},
    trace::v1::Span as WireSpan,
};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Api, Cluster, Server, Setup, TOKEN, TWO_ORCHESTRATORS, eventually};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Request, Response, Status,
    transport::{Server as Grpc, server::TcpIncoming},
};

/// The trace, and the span, in which the tests' client is.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// A span that was received.
#[derive(Clone, Debug)]
struct Span {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
    attributes: BTreeMap<String, String>,
    /// Trace and span.
    links: Vec<(String, String)>,
}

/// A collector. It ends with this value.
struct Collector {
    address: SocketAddr,
    received: Received,
    _serving: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<Span>>>);

impl Received {
    fn received(&self) -> MutexGuard<'_, Vec<Span>> {
        self.0.lock().expect("nobody panics while receiving")
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for part in request.into_inner().resource_spans {
            let resource = attributes(&part.resource.unwrap_or_default().attributes);
            let spans = part.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.received().extend(spans.map(|span| read(&resource["service.name"], span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn read(service: &str, span: WireSpan) -> Span {
    Span {
        service: service.to_owned(),
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: attributes(&span.attributes),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        AnyValue::StringValue(text) => Some((pair.key.clone(), text.clone())),
        AnyValue::IntValue(number) => Some((pair.key.clone(), number.to_string())),
        _ => None,
    };
    pairs.iter().filter_map(text).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be listened on");
        let address = listener.local_addr().expect("a listener has an address");
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let served = Grpc::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)).await;
            served.expect("the collector serves");
        });
        Self { address, received, _serving: serving }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans so far, by their ids, of one trace.
    fn trace(&self, trace: &str) -> BTreeMap<String, Span> {
        let received = self.received.received();
        received.iter().filter(|span| span.trace == trace).map(|span| (span.id.clone(), span.clone())).collect()
    }

    /// Waits for so many spans of a name, and for the parents of all that have come, up to the client.
    async fn whole(&self, trace: &str, name: &str, count: usize) -> BTreeMap<String, Span> {
        eventually("the trace is whole", async || {
            let spans = self.trace(trace);
            let missing: Vec<_> = spans
                .values()
                .filter(|span| !span.parent.is_empty() && span.parent != CLIENT && !spans.contains_key(&span.parent))
                .map(|span| span.name.clone())
                .collect();
            if missing.is_empty() && named(&spans, name).len() >= count { Ok(spans) } else { Err((missing, spans)) }
        })
        .await
    }
}

fn named<'a>(spans: &'a BTreeMap<String, Span>, name: &str) -> Vec<&'a Span> {
    spans.values().filter(|span| span.name == name).collect()
}

/// The span and those above it, as `service name`, down from the client's.
fn path(spans: &BTreeMap<String, Span>, span: &Span) -> Vec<String> {
    let mut path = vec![format!("{} {}", span.service, span.name)];
    let mut above = spans.get(&span.parent);
    while let Some(span) = above {
        path.push(format!("{} {}", span.service, span.name));
        above = spans.get(&span.parent);
    }
    path.reverse();
    path
}

/// Every way from the client down to a span of this name.
fn paths(spans: &BTreeMap<String, Span>, name: &str) -> BTreeSet<Vec<String>> {
    named(spans, name).into_iter().map(|span| path(spans, span)).collect()
}

fn two_steps() -> Value {
    json!({
        "name": "two-steps",
        "steps": [
            { "id": "one", "agent_type": "echo", "input": { "n": 1 } },
            { "id": "two", "agent_type": "echo", "input": "${{ steps.one.output }}", "depends_on": ["one"] },
        ],
    })
}

/// Executes as a client that traces.
async fn execute(api: &Api, workflow: &str) -> String {
    let path = format!("/api/v1/workflows/{workflow}/execute");
    let request = api
        .request(Method::POST, &path)
        .header("traceparent", format!("00-{TRACE}-{CLIENT}-01"))
        .header("X-Correlation-ID", "order-4711")
        .json(&json!({ "input": {} }));
    let answer = api.send(request).await.expect("the server answers");
    assert_eq!(answer.header("x-correlation-id"), "order-4711");
    answer.expect(202)["execution_id"].as_str().expect("an execution has an id").to_owned()
}

/// The tree that an execution of two steps has, where `service` is how a service is called in traces.
fn check_tree(spans: &BTreeMap<String, Span>, insert: &str, service: impl Fn(&str) -> String) {
    let call = "troupe.orchestrator.v1.ExecutionService/StartExecution";
    let at = |of: &str, name: &str| format!("{} {name}", service(of));
    let start = vec![
        at("gateway", "POST /api/v1/workflows/{id}/execute"),
        at("gateway", call),
        at("orchestrator", call),
        at("orchestrator", "orchestrator.start"),
    ];
    let below = |above: &[String], names: &[(&str, &str)]| {
        let names = names.iter().map(|(of, name)| at(of, name));
        above.iter().cloned().chain(names).collect::<Vec<_>>()
    };
    let task = [
        ("orchestrator", "orchestrator.task.dispatch"),
        ("communication", "communication.task.publish"),
        ("communication", "communication.task.deliver"),
        ("agent-runner", "agent.task"),
        ("communication", "communication.task.result"),
        ("orchestrator", "orchestrator.result"),
    ];
    let result = below(&start, &task);
    assert_eq!(paths(spans, "orchestrator.result"), BTreeSet::from([result.clone()]));
    // Both steps; each with its own.
    for (_, name) in task {
        assert_eq!(named(spans, name).len(), 2, "{name}: {spans:#?}");
    }
    let steps: BTreeSet<_> =
        named(spans, "orchestrator.task.dispatch").iter().map(|span| span.attributes["step.id"].as_str()).collect();
    assert_eq!(steps, BTreeSet::from(["one", "two"]));
    // The start is committed, and each result.
    let commit = ("orchestrator", "orchestrator.commit");
    let commits = BTreeSet::from([below(&start, &[commit]), below(&result, &[commit])]);
    assert_eq!(paths(spans, "orchestrator.commit"), commits);
    let inserts = paths(spans, insert);
    assert_eq!(inserts, commits.iter().map(|above| below(above, &[("orchestrator", insert)])).collect());
    // What came in comes through.
    let correlated = |span: &&Span| span.attributes.get("correlation.id").is_some_and(|id| id == "order-4711");
    let served = named(spans, call).into_iter().filter(|span| span.service == service("orchestrator"));
    assert!(served.filter(correlated).count() > 0, "{spans:#?}");
    let first = named(spans, "POST /api/v1/workflows/{id}/execute")[0];
    assert_eq!(first.parent, CLIENT);
    assert_eq!(first.attributes["http.response.status_code"], "202");
}

fn environment(collector: &str) -> Vec<(&str, &str)> {
    vec![
        ("TROUPE_TELEMETRY__OTLP_ENDPOINT", collector),
        ("TROUPE_TELEMETRY__EXPORT_INTERVAL", "50ms"),
        ("TROUPE_LOG", "warn,trace=debug,gateway=debug"),
        ("TROUPE_LOG_FORMAT", "json"),
    ]
}

#[tokio::test]
async fn one_execution_is_one_trace_and_its_log_lines_say_so() {
    let collector = Collector::start().await;
    let url = collector.url();
    let server = Server::start_with(&environment(&url)).await;
    let api = server.api();
    let workflow = api.define(&two_steps()).await;
    let execution = execute(&api, &workflow).await;
    assert_eq!(api.ended(&execution).await["status"], "completed");
    let spans = collector.whole(TRACE, "INSERT journal", 3).await;
    check_tree(&spans, "INSERT journal", |_| "troupe-dev".to_owned());
    assert_eq!(named(&spans, "INSERT journal")[0].attributes["db.system.name"], "sqlite");

    let log = server.log();
    // The greeting is for people.
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).expect(line)).collect();
    let of_request: Vec<_> = lines.iter().filter(|line| line["correlation_id"] == "order-4711").collect();
    let targets: BTreeSet<_> = of_request.iter().map(|line| line["target"].as_str().unwrap_or_default()).collect();
    assert_eq!(targets, BTreeSet::from(["gateway::middleware::observe", "trace::grpc"]), "{log}");
    for line in of_request {
        assert_eq!(line["trace_id"], TRACE, "{line:#}");
        assert!(spans.contains_key(line["span_id"].as_str().expect("it has a span")), "{line:#}");
    }
}

#[tokio::test]
async fn a_restart_goes_on_with_the_trace_and_a_stop_loses_no_span() {
    let collector = Collector::start().await;
    let url = collector.url();
    let mut environment = environment(&url);
    // Nothing goes out before the end.
    environment[1].1 = "1h";
    let mut server = Server::start_with(&environment).await;
    let waiting = json!({
        "name": "waiting",
        "steps": [
            { "id": "go", "signal": { "name": "go" } },
            { "id": "after", "agent_type": "echo", "depends_on": ["go"] },
        ],
    });
    let workflow = server.api().define(&waiting).await;
    let execution = execute(&server.api(), &workflow).await;
    assert_eq!(server.stop().await, Some(0));
    assert!(!named(&collector.trace(TRACE), "orchestrator.start").is_empty(), "a stop sends what waits");

    server.restart().await;
    let signal = format!("/api/v1/executions/{execution}/signals/go");
    server.api().post(&signal, &json!({})).await;
    assert_eq!(server.api().ended(&execution).await["status"], "completed");
    assert_eq!(server.stop().await, Some(0));
    let spans = collector.whole(TRACE, "agent.task", 1).await;
    let start = named(&spans, "orchestrator.start")[0];
    assert_eq!(named(&spans, "orchestrator.task.dispatch")[0].parent, start.id);
}

#[tokio::test]
async fn a_message_begins_a_trace_that_links_to_its_senders() {
    let collector = Collector::start().await;
    let url = collector.url();
    let server = Server::start_with(&environment(&url)).await;
    let api = server.api();
    let agent = json!({ "agent_type": "echo", "name": "box", "config": {} });
    let agent = api.post("/api/v1/agents", &agent).await.expect(201);
    let path = format!("/api/v1/agents/{}/message", agent["id"].as_str().expect("an agent has an id"));
    let request = api.request(Method::POST, &path).header("traceparent", format!("00-{TRACE}-{CLIENT}-01"));
    let sent = api.send(request.json(&json!({ "payload": 1 }))).await.expect("the server answers").expect(202);

    let spans = collector.whole(TRACE, "INSERT messages", 1).await;
    let send = named(&spans, "communication.message.send")[0];
    assert_eq!(send.attributes["message.id"], sent["message_id"].as_str().expect("a message has an id"));
    assert!(path_of(&spans, send).starts_with("POST /api/v1/agents/{id}/message > troupe."), "{spans:#?}");
    assert!(path_of(&spans, named(&spans, "INSERT messages")[0]).contains("send > communication.commit >"));

    let deliver = eventually("the message is delivered", async || {
        let received = collector.received.received().clone();
        let found = received.iter().find(|span| span.name == "communication.message.deliver").cloned();
        found.ok_or(received)
    })
    .await;
    assert_ne!(deliver.trace, TRACE);
    assert_eq!(deliver.parent, "");
    assert_eq!(deliver.links, [(TRACE.to_owned(), send.id.clone())]);
    let spans = collector.whole(&deliver.trace, "agent.message", 1).await;
    assert_eq!(named(&spans, "agent.message")[0].parent, deliver.id);
}

fn path_of(spans: &BTreeMap<String, Span>, span: &Span) -> String {
    let names = path(spans, span).into_iter().map(|step| step.split_once(' ').expect("service name").1.to_owned());
    names.collect::<Vec<_>>().join(" > ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_execution_is_one_trace_over_all_processes_of_a_cluster() {
    let collector = Collector::start().await;
    let settings = format!("[telemetry]\notlp_endpoint = {:?}\nexport_interval = \"50ms\"\n", collector.url());
    let cluster = Cluster::start(Setup { size: TWO_ORCHESTRATORS, settings: &settings, ..Setup::default() }).await;
    let api = cluster.api();
    let workflow = api.define(&two_steps()).await;
    // The replica that is asked may pass the call on to the one that has the shard; then there are two calls in a row.
    let execution = execute(&api, &workflow).await;
    assert_eq!(api.ended(&execution).await["status"], "completed");
    let mut spans = collector.whole(TRACE, "INSERT execution_events", 3).await;
    skip_forwarding(&mut spans);
    check_tree(&spans, "INSERT execution_events", |service| format!("troupe-{service}"));
    assert_eq!(named(&spans, "INSERT execution_events")[0].attributes["db.system.name"], "postgresql");
}

/// The context goes through RabbitMQ: the communication that has published the task has stopped when an agent comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_waits_in_the_broker_stays_in_its_trace() {
    let collector = Collector::start().await;
    let settings = format!("[telemetry]\notlp_endpoint = {:?}\nexport_interval = \"50ms\"\n", collector.url());
    let mut cluster = Cluster::start(Setup { settings: &settings, ..Setup::default() }).await;
    let api = cluster.api();
    let own = json!({ "name": "own", "steps": [{ "id": "own", "agent_type": "guest", "action": "greet" }] });
    let workflow = api.define(&own).await;
    let execution = execute(&api, &workflow).await;
    collector.whole(TRACE, "communication.task.publish", 1).await;
    assert_eq!(cluster.stop("communication-1").await, Some(0));
    cluster.restart("communication-1").await;

    let server = agent_sdk::Server::at(format!("http://{}", cluster.communications()[0])).token(TOKEN);
    let greet = |_: agent_sdk::Task| async { Ok(json!("hello")) };
    let mut guest = JoinSet::new();
    guest.spawn(
        agent_sdk::Agent::builder("guest").action("greet", greet).connect(server).run_until(agent_sdk::Shutdown::new()),
    );
    assert_eq!(api.ended(&execution).await["status"], "completed");
    let spans = collector.whole(TRACE, "orchestrator.result", 1).await;
    let deliveries = named(&spans, "communication.task.deliver");
    assert_eq!((deliveries.len(), named(&spans, "communication.task.publish").len()), (1, 1), "{spans:#?}");
    let path = path_of(&spans, deliveries[0]);
    assert!(
        path.ends_with("orchestrator.task.dispatch > communication.task.publish > communication.task.deliver"),
        "{path}"
    );
    let result = path_of(&spans, named(&spans, "orchestrator.result")[0]);
    assert!(result.starts_with(&path), "{result}");
}

/// Takes out the calls from one orchestrator to another.
fn skip_forwarding(spans: &mut BTreeMap<String, Span>) {
    let is_call = |span: &Span| span.name.ends_with("/StartExecution") && span.service == "troupe-orchestrator";
    while let Some(inner) = spans
        .values()
        .find(|span| is_call(span) && spans.get(&span.parent).is_some_and(is_call))
        .map(|span| (span.id.clone(), span.parent.clone()))
    {
        let (inner, outer) = inner;
        spans.remove(&inner);
        for span in spans.values_mut().filter(|span| span.parent == inner) {
            span.parent.clone_from(&outer);
        }
    }
}
