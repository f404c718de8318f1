//! Words that are meant to be taken for something else: as SQL, as a template, as a path, as a header, as a line of a log.

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};
use testkit::{Api, fuzz::WORDS};

use super::{ADMIN, Product, admin, with};

async fn words_are_words(mut product: Product) {
    let api = product.api();
    let definition = json!({ "name": "echo", "steps": [{ "id": "a", "agent_type": "echo", "input": "${{ input }}" }], "output": "${{ steps.a.output }}" });
    let workflow = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let execute = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().expect("an id"));
    let before = admin(&api, Method::GET, "/api/v1/agents?limit=200", None).await.expect(200)["items"]
        .as_array()
        .expect("a list")
        .len();
    let mut registered = 0;
    for word in WORDS {
        let agent = json!({ "agent_type": "echo", "name": word, "metadata": { "word": word } });
        let answer = admin(&api, Method::POST, "/api/v1/agents", Some(&agent)).await;
        assert!([201, 400].contains(&answer.status), "{word:?}: {answer:?}");
        if answer.status == 201 {
            registered += 1;
            assert_eq!(answer.body["name"], *word, "{answer:?}");
        }
        // What comes as data is data: nothing in it is evaluated.
        let input = json!({ "input": { "word": word, *word: [word] }, "wait_ms": 60_000 });
        let answer = admin(&api, Method::POST, &execute, Some(&input)).await;
        let is_kept = answer.body["output"] == input["input"] && answer.status == 200;
        assert!(is_kept || (answer.status == 400 && word.contains('\0')), "{word:?}: {answer:?}");
        is_a_word_in_a_path_and_a_query(&api, word).await;
    }
    let after = admin(&api, Method::GET, "/api/v1/agents?limit=200", None).await.expect(200)["items"]
        .as_array()
        .expect("a list")
        .len();
    assert_eq!(after, (before + registered).min(200));
    assert!(!std::path::Path::new("/tmp/troupe-was-here").exists());
    // A header is one line, and what is no line is none.
    for word in WORDS.iter().filter(|word| word.bytes().all(|byte| (0x20..0x7f).contains(&byte))) {
        let mut headers = with("x-api-key", ADMIN);
        headers.extend(with("x-correlation-id", word));
        let answer = super::asked(&api, Method::GET, "/api/v1/agents", headers, None).await;
        assert!([200, 400].contains(&answer.status), "{word:?}: {answer:?}");
        assert_eq!(answer.header("x-evil"), "");
    }
    product.is_well();
}

async fn is_a_word_in_a_path_and_a_query(api: &Api, word: &str) {
    let escaped = word.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    for path in [
        format!("/api/v1/agents/{escaped}"),
        format!("/api/v1/executions/{escaped}/events"),
        format!("/api/v1/agents?agent_type={escaped}"),
        format!("/api/v1/messages?correlation_id={escaped}"),
        format!("/api/v1/executions?cursor={escaped}"),
        format!("/docs/{escaped}"),
    ] {
        let answer = admin(api, Method::GET, &path, None).await;
        assert!(answer.status < 500, "{path}: {answer:?}");
        assert!(!answer.body.to_string().contains("root:x:"), "{path}: {answer:?}");
        assert_eq!(answer.header("x-evil"), "", "{path}");
    }
}

both_ways!(words_are_words);

/// Agents of kinds of the product's own, which a cluster has only where somebody registers them.
async fn with_agents(api: &Api, kinds: &[&str]) {
    for kind in kinds {
        let agent = json!({ "agent_type": kind, "name": format!("of-{kind}") });
        admin(api, Method::POST, "/api/v1/agents", Some(&agent)).await.expect(201);
    }
}

fn deep(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// In the manner of the JSON test suite: what is not JSON (RFC 8259).
fn no_json() -> Vec<Vec<u8>> {
    [
        "",
        "[1,]",
        "[,1]",
        "[1,,2]",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "['a']",
        "[1",
        "]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\" 1}",
        "{1:1}",
        "[\"a]",
        "\"\t\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u{1}\"",
        "01",
        "+1",
        ".5",
        "1.",
        "1e",
        "0x1",
        "NaN",
        "Infinity",
        "-",
        "--1",
        "nul",
        "True",
        "// a\n1",
        "/* a */1",
        "1 2",
        "[1]]",
        "\u{feff}1",
        "{\"a\":1 \"b\":2}",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([
        b"\"\xff\"".to_vec(),
        b"\"\xc0\xaf\"".to_vec(),
        b"\"\xed\xa0\x80\"".to_vec(),
        b"\"a\nb\"".to_vec(),
        b"\"a\0b\"".to_vec(),
    ])
    .chain([deep(100_000).into_bytes(), "[".repeat(100_000).into_bytes(), "{\"a\":".repeat(100_000).into_bytes()])
    .collect()
}

/// In the manner of the JSON test suite: what is JSON (RFC 8259), and what is not.
async fn what_is_no_json_is_refused_and_what_is_is_kept(mut product: Product) {
    let api = product.api();
    with_agents(&api, &["echo"]).await;
    let definition = json!({ "name": "echo", "steps": [{ "id": "a", "agent_type": "echo", "input": "${{ input }}" }], "output": "${{ steps.a.output }}" });
    let workflow = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let execute = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().expect("an id"));
    let send = async |input: &[u8]| {
        let body = [b"{\"wait_ms\": 60000, \"input\": ", input, b"}"].concat();
        let request =
            api.request(Method::POST, &execute).header("x-api-key", ADMIN).header(CONTENT_TYPE, "application/json");
        api.send(request.body(body)).await.expect("an answer comes")
    };
    for input in &no_json() {
        let answer = send(input).await;
        let shown = String::from_utf8_lossy(&input[..input.len().min(60)]).into_owned();
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
    }
    let yes = [
        "true",
        "0",
        "-0",
        "1e2",
        "1E-2",
        "123456789012345678",
        "0.1",
        "\"\"",
        "\"\\u0061\\n\\\"\"",
        "\"\\ud83d\\ude00\"",
        "[]",
        "{}",
        "{\"\":0}",
        "[[],{}]",
        " [ 1 , 2 ] ",
        "\"\u{2028}\"",
        "\"\u{10ffff}\"",
    ];
    for input in yes {
        let answer = send(input.as_bytes()).await;
        let sent: Value = serde_json::from_str(input).expect("it is JSON");
        assert_eq!((answer.status, &answer.body["output"]), (200, &sent), "{input}: {answer:?}");
    }
    let nothing = send(b"null").await;
    assert_eq!((nothing.status, &nothing.body["output"]), (200, &json!({})), "no input: {nothing:?}");
    // Whatever is made of them, they are answered, and one field is one field.
    for input in ["1e400", "123456789012345678901234567890", "{\"a\":1,\"a\":2}", &deep(100)] {
        let answer = send(input.as_bytes()).await;
        assert!([200, 400].contains(&answer.status), "{input}: {answer:?}");
    }
    let twice = br#"{"agent_type": "echo", "name": "one", "name": "two"}"#;
    let request =
        api.request(Method::POST, "/api/v1/agents").header("x-api-key", ADMIN).header(CONTENT_TYPE, "application/json");
    assert_eq!(api.send(request.body(twice.to_vec())).await.expect("an answer").status, 400);
    product.is_well();
}

both_ways!(what_is_no_json_is_refused_and_what_is_is_kept);

/// Agents that are told to go where they should not.
async fn agents_go_nowhere_that_nobody_has_allowed(mut product: Product) {
    let api = product.api();
    with_agents(&api, &["http", "data"]).await;
    let port = product.address().port();
    let run = async |step: &Value| {
        let definition = json!({ "name": format!("w{}", rand::random::<u64>()), "steps": [step] });
        let workflow = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
        let execute = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().expect("an id"));
        admin(&api, Method::POST, &execute, Some(&json!({ "wait_ms": 60_000 }))).await.expect(200)
    };
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",
        "2130706433",
        "0x7f.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "metadata.google.internal",
    ] {
        let url = format!("http://{host}:{port}/api/v1/agents");
        let ended = run(&json!({ "id": "a", "agent_type": "http", "action": "request", "input": { "url": url }, "retry": { "max_attempts": 1 } })).await;
        assert_eq!(
            (&ended["status"], &ended["failure"]["code"]),
            (&json!("failed"), &json!("host_not_allowed")),
            "{host}: {ended}"
        );
    }
    for url in ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:6379/_FLUSHALL", "http://", "//x"] {
        let ended = run(&json!({ "id": "a", "agent_type": "http", "action": "request", "input": { "url": url }, "retry": { "max_attempts": 1 } })).await;
        assert_eq!(ended["status"], "failed", "{url}: {ended}");
        assert!(
            ["url_not_allowed", "invalid_input", "host_not_allowed"]
                .contains(&ended["failure"]["code"].as_str().unwrap_or_default()),
            "{url}: {ended}"
        );
    }
    for path in ["../../../../etc/passwd", "/etc/passwd", "/proc/self/environ", "a/../../b", "./../x"] {
        let ended = run(&json!({ "id": "a", "agent_type": "data", "action": "read_json", "input": { "path": path }, "retry": { "max_attempts": 1 } })).await;
        assert_eq!(
            (&ended["status"], &ended["failure"]["code"]),
            (&json!("failed"), &json!("path_not_allowed")),
            "{path}: {ended}"
        );
    }
    product.is_well();
}

both_ways!(agents_go_nowhere_that_nobody_has_allowed);

/// Definitions that are small, and ask for more than there is.
async fn no_definition_keeps_the_product_busy(mut product: Product) {
    let api = product.api();
    with_agents(&api, &["echo"]).await;
    let mut doubling: serde_json::Map<String, Value> = (0..60)
        .map(|level| {
            let next = json!({ "$ref": format!("#/$defs/{}", level + 1) });
            (level.to_string(), json!({ "allOf": [next, next] }))
        })
        .collect();
    doubling.insert("60".to_owned(), json!({ "type": "string" }));
    let schema = json!({ "$defs": doubling, "$ref": "#/$defs/0" });
    let definition =
        json!({ "name": "schema", "input_schema": schema, "steps": [{ "id": "a", "agent_type": "echo" }] });
    let workflow = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await.expect(201);
    let execute = format!("/api/v1/workflows/{}/execute", workflow["id"].as_str().expect("an id"));
    let refused = admin(&api, Method::POST, &execute, Some(&json!({ "input": "x" }))).await.expect(400);
    assert_eq!(refused["errors"][0]["code"], "schema_too_complex", "{refused}");

    let lists = "[1,2,3,4,5,6,7,8,9,10]";
    for (name, expression) in [
        (
            "nested",
            format!(
                "{lists}.map(a, {lists}.map(b, {lists}.map(c, {lists}.map(d, {lists}.map(e, {lists}.map(f, {lists}.map(g, {lists}.map(h, a + h))))))))"
            ),
        ),
        ("long", "1".to_owned() + &" + 1".repeat(20_000)),
        ("deep", "(".repeat(5_000) + "1" + &")".repeat(5_000)),
        ("pattern", "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab'.matches('^(a+)+$')".to_owned()),
    ] {
        let step = json!({ "id": "a", "agent_type": "echo", "input": { "x": format!("${{{{ {expression} }}}}") } });
        let definition = json!({ "name": name, "steps": [step] });
        let made = admin(&api, Method::POST, "/api/v1/workflows", Some(&definition)).await;
        assert!([201, 400, 422].contains(&made.status), "{name}: {made:?}");
        if made.status == 201 {
            let execute = format!("/api/v1/workflows/{}/execute", made.body["id"].as_str().expect("an id"));
            let ended = admin(&api, Method::POST, &execute, Some(&json!({ "wait_ms": 30_000 }))).await.expect(200);
            assert!(["completed", "failed"].contains(&ended["status"].as_str().unwrap_or_default()), "{name}: {ended}");
        }
        product.api().get("/health/live").await.expect(200);
    }
    product.is_well();
}

both_ways!(no_definition_keeps_the_product_busy);
