//! What clients may write, against what the description of the API says that they may.

use std::{fmt, net::IpAddr, str::FromStr};

use allocation_counter::measure;
use http::{HeaderMap, HeaderValue};
use proptest::{prelude::*, sample::select, string::string_regex};
use regex::Regex;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use testkit::fuzz::{cases, damaged, json, mutated, nearly, text};
use utoipa::{PartialSchema, ToSchema};

use crate::{
    api::Sort,
    fields::Fields,
    json::{self as parser, Object},
    problem::Problem,
    proxies::{self, Network},
    query, words, yaml,
};

/// The schema of a word.
struct Said {
    pattern: Regex,
    /// Without its ends, for texts that fit it.
    inner: String,
    lengths: std::ops::RangeInclusive<u64>,
}

impl Said {
    fn of<W: PartialSchema>() -> Self {
        let schema = serde_json::to_value(W::schema()).unwrap();
        // Patterns are of ECMA-262, where a digit is an ASCII one.
        let pattern = schema["pattern"].as_str().unwrap().replace(r"\d", "[0-9]");
        let inner = pattern.trim_start_matches('^').trim_end_matches('$').to_owned();
        let length = |name: &str| schema[name].as_u64().unwrap();
        Self { pattern: Regex::new(&pattern).unwrap(), inner, lengths: length("minLength")..=length("maxLength") }
    }

    fn allows(&self, text: &str) -> bool {
        self.lengths.contains(&(text.chars().count() as u64)) && self.pattern.is_match(text)
    }

    fn texts(&self) -> impl Strategy<Value = String> + use<> {
        let fitting = || string_regex(&self.inner).unwrap();
        prop_oneof![text(), nearly(fitting()), fitting()]
    }
}

fn document_of(problem: &Problem) -> Value {
    serde_json::to_value(problem.document("req_1")).unwrap()
}

/// What is taken is what the schema allows, and it is written as it was read.
fn agrees<W>(said: &Said, text: &str, is_exact: bool) -> Result<(), TestCaseError>
where
    W: FromStr<Err = words::Refused> + fmt::Display + DeserializeOwned + PartialEq + fmt::Debug,
{
    let mut parsed = None;
    let asked = measure(|| parsed = Some(text.parse::<W>())).bytes_max;
    prop_assert!(asked <= 4_096 + 8 * text.len() as u64, "{} bytes for {}", asked, text.len());
    let in_json = serde_json::from_value::<W>(json!(text));
    match parsed.unwrap() {
        Ok(word) => {
            prop_assert!(said.allows(text), "{:?} is taken, and the schema says that it is not", text);
            let again = word.to_string().parse::<W>().ok();
            prop_assert_eq!(again.as_ref(), Some(&word));
            prop_assert_eq!(in_json.ok(), Some(word));
        }
        Err(refused) => {
            prop_assert!(!is_exact || !said.allows(text), "{:?} is refused, and the schema allows it", text);
            prop_assert!(refused.to_string().chars().count() < 600, "{}", refused);
            prop_assert!(in_json.is_err());
        }
    }
    Ok(())
}

macro_rules! words_agree {
    ($($name:ident: $word:ty, $is_exact:literal;)*) => {$(
        #[test]
        fn $name() {
            let said = Said::of::<$word>();
            let mut runner = proptest::test_runner::TestRunner::new(cases(192));
            runner.run(&said.texts(), |text| agrees::<$word>(&said, &text, $is_exact)).unwrap();
        }
    )*};
}

words_agree! {
    agent_ids_agree: words::AgentId, true;
    execution_ids_agree: words::ExecutionId, true;
    names_agree: words::Name, true;
    targets_agree: words::Target, true;
    groups_agree: words::Group, true;
    topics_agree: words::Topic, true;
    patterns_agree: words::TopicPattern, true;
    titles_agree: words::Title, true;
    keys_agree: words::Key, true;
    remarks_agree: words::Remark, true;
    cursors_agree: words::Cursor, true;
    positions_agree: words::Position, true;
    // A calendar knows more than a pattern.
    instants_agree: words::Instant, false;
    heads_agree: words::Head, true;
    entity_tags_agree: words::EntityTags, true;
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    limit: Option<words::Limit>,
    cursor: Option<words::Cursor>,
    since: Option<words::Instant>,
    all: bool,
    status: Option<words::Status>,
    name: Option<words::Title>,
    sort: Option<Sort>,
    fields: Option<Fields<Entry>>,
}

/// What a list tells of.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is read")]
struct Entry {
    id: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are read, and that is all")]
struct Body {
    name: words::Title,
    target: words::Target,
    priority: Option<words::Priority>,
    expires_in: Option<words::Lifetime>,
    version: Option<words::Version>,
    role: Option<words::Role>,
    #[serde(default)]
    scopes: Vec<words::Scope>,
    config: Option<Object>,
    payload: parser::Any,
}

fn valid_body() -> Value {
    json!({
        "name": "a name", "target": "type:greeter", "priority": 5, "expires_in": "30s", "version": 3, "role": "viewer",
        "scopes": ["agents:read"], "config": { "a": [1, 2, { "b": null }] }, "payload": [1.5, "x", { "y": true }],
    })
}

/// A refusal says where in the document, and in how few words.
pub(crate) fn is_told(problem: &Problem, document: Option<&Value>) -> Result<(), TestCaseError> {
    let told = document_of(problem);
    prop_assert_eq!(&told["status"], 400, "{}", told);
    let faults = told["errors"].as_array().unwrap();
    prop_assert!(!faults.is_empty(), "{}", told);
    for fault in faults {
        prop_assert!(fault["code"].is_string() && fault["message"].is_string(), "{}", fault);
        if let (Some(document), Some(pointer)) = (document, fault["pointer"].as_str()) {
            prop_assert!(testkit::fuzz::is_in(document, pointer), "{} in {}", pointer, document);
        }
    }
    prop_assert!(told.to_string().len() < 12_000, "{} bytes", told.to_string().len());
    Ok(())
}

fn any_yaml() -> impl Strategy<Value = Vec<u8>> {
    let valid = "name: w\nx: &x { a: 1, b: [1, 2.5, ~, 'x', \"\\u00e9\"] }\nsteps:\n  - id: a\n    input: *x\n    text: |\n      one\n      two\n  - <<: *x\n    when: !!str true\n";
    prop_oneof![
        any::<Vec<u8>>(),
        text().prop_map(String::into_bytes),
        damaged(Just(valid.as_bytes().to_vec())),
        mutated(valid_body()).prop_map(|value| value.to_string().into_bytes())
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_query_is_read_or_the_parameter_is_named(query in prop_oneof![
        text(),
        nearly("(limit=[0-9]{1,4}|cursor=[a-z]{1,9}|all=(true|false)|name=[a-z%0-9+]{1,9})(&(since=2026-01-01T00:00:00Z|status=200|limit=1|sort=-?created_at|fields=(id|name)(,(id|name))?))?"),
    ]) {
        let mut parsed = None;
        let asked = measure(|| parsed = Some(query::parse::<Parameters>(&query))).bytes_max;
        prop_assert!(asked <= 16_384 + 64 * query.len() as u64, "{} bytes for {}", asked, query.len());
        if let Some(Err(problem)) = &parsed {
            is_told(problem, None)?;
            let fault = &document_of(problem)["errors"][0];
            // A name that is empty, or begins as a pointer does, is told as one.
            prop_assert!(fault["field"].is_string() || fault["pointer"].is_string(), "{}", fault);
        }
    }

    #[test]
    fn a_body_with_something_wrong_is_told_where(body in prop_oneof![mutated(valid_body()), json()]) {
        let text = body.to_string();
        let mut parsed = None;
        let asked = measure(|| parsed = Some(parser::parse::<Body>(text.as_bytes()))).bytes_max;
        prop_assert!(asked <= 16_384 + 64 * text.len() as u64, "{} bytes for {}", asked, text.len());
        if let Some(Err(problem)) = &parsed {
            is_told(problem, Some(&body))?;
        }
    }

    #[test]
    fn a_damaged_body_is_refused_or_another(bytes in prop_oneof![any::<Vec<u8>>(), damaged(Just(valid_body().to_string().into_bytes()))]) {
        if let Err(problem) = parser::parse::<Body>(&bytes) {
            is_told(&problem, serde_json::from_slice(&bytes).ok().as_ref())?;
        }
    }

    #[test]
    fn any_yaml_is_json_within_its_bounds_or_refused(bytes in any_yaml()) {
        const LIMIT: usize = 100_000;
        let mut converted = None;
        let asked = measure(|| converted = Some(yaml::convert(&bytes, LIMIT))).bytes_max;
        prop_assert!(asked <= (1 << 20) + 400 * bytes.len() as u64, "{} bytes for {}", asked, bytes.len());
        match converted.unwrap() {
            Ok(json) => {
                prop_assert!(json.len() <= LIMIT);
                let value: Value = serde_json::from_slice(&json).unwrap();
                prop_assert!(value.is_object());
                // JSON is YAML, and means the same.
                prop_assert_eq!(yaml::convert(&json, LIMIT).ok(), Some(json.clone()));
            }
            Err(problem) => is_told(&problem, None)?,
        }
    }

    #[test]
    fn whatever_proxies_say_is_an_address(lines in prop::collection::vec(nearly("([0-9a-f.:\\[\\]]{1,20}, ?){0,6}(10\\.0\\.0\\.[0-9]{1,2}|::1|unknown)"), 0..4)) {
        let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for value in lines.iter().filter_map(|line| HeaderValue::from_str(line).ok()) {
            headers.append("x-forwarded-for", value);
        }
        let (stranger, proxy): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        prop_assert_eq!(proxies::client(stranger, &headers, &trusted), stranger, "it is not believed");
        let _ = proxies::client(proxy, &headers, &trusted);
    }

    #[test]
    fn a_network_reads_as_it_is_written(text in prop_oneof![text(), nearly("[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}(/[0-9]{1,2})?"), nearly("[0-9a-f]{1,4}::(/[0-9]{1,3})?")]) {
        if let Ok(network) = text.parse::<Network>() {
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn a_lifetime_is_between_its_bounds(value in prop_oneof![json(), select(vec!["0s", "999d", "1y", "99d", "+5s", "5 s", "0x5s", "-1s", "1é"]).prop_map(Value::from), any::<f64>().prop_map(Value::from)]) {
        if let Ok(words::Lifetime(lifetime)) = serde_json::from_value(value) {
            prop_assert!((1..=31_536_000).contains(&lifetime.as_secs()));
        }
    }
}
