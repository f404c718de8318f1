//! Every text of every route, as the description of the API has them: whatever stands there, it is refused or kept as it is.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use testkit::{
    Api,
    fuzz::{WORDS, places},
};

use super::{ADMIN, Product, admin};

/// Requests at once.
const AT_ONCE: usize = 8;

/// A request of the description, with a value for everything in it.
#[derive(Clone, Debug)]
pub(super) struct Call {
    method: Method,
    /// With `{id}` and its like.
    path: String,
    /// By name.
    inner: BTreeMap<String, String>,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Option<Value>,
}

/// Where a text stands in a call.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Inner(String),
    Query(String),
    Header(String),
    /// A pointer.
    Body(String),
}

impl Call {
    pub(super) fn places(&self) -> Vec<Place> {
        let body = self.body.iter().flat_map(|body| {
            let is_text = |place: &String| body.pointer(place).is_some_and(Value::is_string);
            places(body).into_iter().filter(is_text).map(Place::Body).collect::<Vec<_>>()
        });
        let inner = self.inner.keys().cloned().map(Place::Inner);
        let query = self.query.keys().cloned().map(Place::Query);
        inner.chain(query).chain(self.headers.keys().cloned().map(Place::Header)).chain(body).collect()
    }

    /// With this word in one place; of the rest of a query only that.
    pub(super) fn with(&self, place: &Place, word: &str) -> Self {
        let mut call = self.clone();
        call.query.clear();
        call.headers.clear();
        match place {
            Place::Inner(name) => drop(call.inner.insert(name.clone(), word.to_owned())),
            Place::Query(name) => drop(call.query.insert(name.clone(), word.to_owned())),
            Place::Header(name) => drop(call.headers.insert(name.clone(), word.to_owned())),
            Place::Body(pointer) => {
                let place = call.body.as_mut().and_then(|body| body.pointer_mut(pointer));
                *place.expect("it is there") = word.into();
            }
        }
        call
    }

    /// The status, and the body where it is one that ends.
    pub(super) async fn send(&self, api: &Api) -> Option<(u16, Value)> {
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        let path = self
            .inner
            .iter()
            .fold(self.path.clone(), |path, (name, value)| path.replace(&format!("{{{name}}}"), &escaped(value)));
        let mut request = api.request(self.method.clone(), &path).header("x-api-key", ADMIN).query(&self.query);
        for (name, value) in &self.headers {
            // What cannot be sent need not be.
            let name = HeaderName::try_from(name.as_str()).expect("a name");
            request = request.header(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        if let Some(body) = &self.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{self:?}: {error:?}"));
        let status = answer.status().as_u16();
        let kind = answer.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default().to_owned());
        let ends = kind.is_some_and(|kind| kind.contains("json") && !kind.contains("ndjson"));
        let body = if ends { answer.json().await.unwrap_or_default() } else { Value::Null };
        Some((status, body))
    }
}

/// A value as a schema wants it: the first example where there is one.
fn sample(document: &Value, schema: &Value, depth: u8) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return sample(document, document.pointer(&reference[1..]).expect("it leads somewhere"), depth);
    }
    let one = [&schema["examples"][0], &schema["example"], &schema["default"], &schema["const"], &schema["enum"][0]];
    if let Some(one) = one.into_iter().find(|one| !one.is_null()) {
        return one.clone();
    }
    for of in ["oneOf", "anyOf", "allOf"] {
        if let Some(first) = schema[of].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null")) {
            return sample(document, first, depth);
        }
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or("object");
    match kind {
        "string" => json!("text"),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(1)),
        "boolean" => json!(true),
        "array" if depth > 0 => json!([sample(document, &schema["items"], depth - 1)]),
        "object" if depth > 0 => match schema["properties"].as_object() {
            Some(fields) => {
                fields.iter().map(|(name, field)| (name.clone(), sample(document, field, depth - 1))).collect()
            }
            // What may have anything has a text.
            None => json!({ "word": "text" }),
        },
        "array" => json!([]),
        _ => json!({}),
    }
}

fn definition() -> Value {
    json!({
        "name": "texts", "description": "text",
        "steps": [{ "id": "a", "agent_type": "echo", "action": "echo", "input": { "word": "text" }, "when": "true", "timeout": "30s" }],
        "output": "text",
    })
}

/// Every operation, on what is there.
fn calls(document: &Value, ids: &BTreeMap<&str, String>) -> Vec<Call> {
    let mut calls = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let kind = path.split('/').nth(3).unwrap_or_default();
        for (method, operation) in item.as_object().expect("operations") {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
            if !operation.is_object() {
                continue;
            }
            let mut call = Call {
                method,
                path: path.clone(),
                inner: BTreeMap::new(),
                query: BTreeMap::new(),
                headers: BTreeMap::new(),
                body: None,
            };
            let shared = item["parameters"].as_array().into_iter().flatten();
            for parameter in shared.chain(operation["parameters"].as_array().into_iter().flatten()) {
                let parameter = match parameter["$ref"].as_str() {
                    Some(reference) => document.pointer(&reference[1..]).expect("it leads somewhere"),
                    None => parameter,
                };
                let name = parameter["name"].as_str().expect("a name").to_owned();
                let value = sample(document, &parameter["schema"], 3);
                let mut value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                if let Some(id) = ids.get(kind).filter(|_| name == "id") {
                    value.clone_from(id);
                }
                match parameter["in"].as_str() {
                    Some("path") => call.inner.insert(name, value),
                    Some("query") => call.query.insert(name, value),
                    _ => call.headers.insert(name, value),
                };
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if !schema.is_null() {
                let is_definition = kind == "workflows" && (path.ends_with("workflows") || call.method == Method::PUT);
                call.body = Some(if is_definition { definition() } else { sample(document, schema, 5) });
            }
            calls.push(call);
        }
    }
    calls
}

/// Where an answer has a text at the place where the request had one, it is the same.
fn is_kept(asked: &Call, place: &Place, word: &str, answer: &Value) -> bool {
    let Place::Body(pointer) = place else { return true };
    let is_of_now =
        ["/expires_in", "/overlap", "/secret", "/status", "/role", "/id"].iter().any(|end| pointer.ends_with(end));
    let in_answer =
        |pointer: &str| answer.pointer(pointer).or_else(|| answer.pointer(&format!("/definition{pointer}")));
    // Some lists are sets.
    let list = pointer.rsplit_once('/').and_then(|(list, _)| in_answer(list)).and_then(Value::as_array);
    let is_there = list.is_some_and(|list| list.iter().any(|one| one == word));
    let said = in_answer(pointer);
    is_of_now || asked.body.is_none() || is_there || said.is_none_or(|said| !said.is_string() || said == word)
}

/// Every operation of a product, on things that are made for it.
pub(super) async fn all_calls(api: &Api) -> Vec<Call> {
    let made = admin(api, Method::POST, "/api/v1/workflows", Some(&definition())).await.expect(201);
    let workflow = made["id"].as_str().expect("an id").to_owned();
    let agent = json!({ "agent_type": "echo", "name": "texts", "capabilities": ["greet"] });
    let agent = admin(api, Method::POST, "/api/v1/agents", Some(&agent)).await.expect(201);
    let started = format!("/api/v1/workflows/{workflow}/execute");
    let started = admin(api, Method::POST, &started, Some(&json!({ "wait_ms": 60_000 }))).await.expect(200);
    let text = |value: &Value| value.as_str().expect("an id").to_owned();
    let ids = BTreeMap::from([
        ("workflows", workflow),
        ("agents", text(&agent["id"])),
        ("executions", text(&started["execution_id"])),
    ]);
    let document = admin(api, Method::GET, "/openapi.json", None).await.expect(200);
    let calls = calls(&document, &ids);
    assert!(calls.len() > 45, "{}", calls.len());
    calls
}

async fn texts_are_kept_or_refused(mut product: Product) {
    let api = product.api();
    let calls = all_calls(&api).await;

    let all = calls.iter().flat_map(|call| {
        call.places().into_iter().flat_map(move |place| WORDS.iter().map(move |word| (call, place.clone(), *word)))
    });
    let checks = futures::stream::iter(all).map(|(call, place, word)| {
        let api = &api;
        async move {
            let asked = call.with(&place, word);
            let Some((status, answer)) = asked.send(api).await else { return 0 };
            let what = || format!("{} {} with {word:?} in {place:?}: {status} {answer}", call.method, call.path);
            // What was said about the agent before has left nobody that a message to a capability could go to.
            let is_of_nobody = answer["code"] == "no_live_agent" && call.path == "/api/v1/messages";
            assert!(status < 500 || is_of_nobody, "{}", what());
            assert!(!answer.to_string().contains("root:x:"), "{}", what());
            if status < 300 {
                assert!(is_kept(&asked, &place, word, &answer), "{}", what());
                // What is created is read back.
                if status == 201
                    && let Some(id) = answer["id"].as_str()
                    && call.inner.is_empty()
                {
                    let path = format!("{}/{id}", call.path);
                    let reading = Call { method: Method::GET, path, body: None, ..asked.clone() };
                    let (status, read) = reading.send(api).await.expect("it can be sent");
                    assert!(status == 200 && is_kept(&asked, &place, word, &read), "{}: {status} {read}", what());
                }
            } else if status == 304 {
                assert!(answer.is_null(), "it is as it was seen: {}", what());
            } else {
                assert!(answer["code"].is_string() && answer["request_id"].is_string(), "{}", what());
            }
            1
        }
    });
    let tried = checks.buffer_unordered(AT_ONCE).fold(0, async |all, one| all + one).await;
    assert!(tried > 8_000, "{tried} requests");
    assert!(!std::path::Path::new("/tmp/troupe-was-here").exists());
    product.is_well();
}

both_ways!(texts_are_kept_or_refused);

/// What is wrong travels from process to process, however much it is.
async fn many_faults_are_told(mut product: Product) {
    let api = product.api();
    let long = "\u{e9}".repeat(100_000);
    let step =
        |number: usize| json!({ "id": format!("s{number}"), "agent_type": 5, "timeout": "\u{2028}".repeat(300) });
    let many: Vec<_> = (0..600).map(step).collect();
    let deep =
        json!([{ "id": "a", "agent_type": "x", long.as_str(): 1, "input": { "a": format!("${{{{ {long} }}}}") } }]);
    for (steps, least) in [(Value::from(many), 600), (deep, 2)] {
        let answer =
            admin(&api, Method::POST, "/api/v1/workflows", Some(&json!({ "name": "w", "steps": steps }))).await;
        let problem = answer.expect(400);
        assert!(
            problem["errors"].as_array().is_some_and(|errors| errors.len() >= least),
            "{:.500}",
            problem.to_string()
        );
    }
    // So does what is not found.
    for path in [
        format!("/api/v1/messages?agent_id={}", "x".repeat(5_000)),
        format!("/api/v1/messages?cursor={}", "9".repeat(500)),
    ] {
        admin(&api, Method::GET, &path, None).await.expect(400);
    }
    product.is_well();
}

both_ways!(many_faults_are_told);

/// A lock is a row of a database, and its name comes from whoever starts an execution. One that no database keeps holds nobody up.
async fn names_of_locks_hold_nobody_up(mut product: Product) {
    let api = product.api();
    let keyed = json!({ "name": "keyed", "config": { "concurrency_key": "${{ input.key }}" }, "steps": [{ "id": "a", "agent_type": "echo" }] });
    let mutex = json!({ "name": "mutex", "steps": [{ "id": "a", "agent_type": "echo", "mutex": "${{ input.key }}" }] });
    // Nothing that is kept in fewer bytes.
    let long: String = (0..20_000).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
    for definition in [keyed, mutex] {
        let workflow = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
        let execute = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().expect("an id"));
        for key in ["a\0b", &long, "", "\u{10ffff}", "fine"] {
            let body = json!({ "input": { "key": key }, "wait_ms": 30_000 });
            let ended = admin(&api, Method::POST, &execute, Some(&body)).await.expect(200);
            let is_failed = ended["status"] == "failed" && ended["failure"]["code"] == "expression";
            assert!(
                is_failed || ended["status"] == "completed",
                "{:.20} of {}: {ended:.2000}",
                key,
                definition["name"]
            );
            assert!(key != "fine" || !is_failed, "{ended}");
        }
    }
    product.is_well();
}

both_ways!(names_of_locks_hold_nobody_up);
