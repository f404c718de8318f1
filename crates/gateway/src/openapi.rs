//! The description of the API: generated from the handlers, completed with what all of them share.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use utoipa::{
    PartialSchema as _,
    openapi::{
        ComponentsBuilder, HttpMethod, InfoBuilder, LicenseBuilder, Object, OpenApi, OpenApiBuilder, Ref, RefOr,
        Required, ResponseBuilder, Schema,
        content::{Content, ContentBuilder},
        header::HeaderBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{AdditionalProperties, AnyOfBuilder, ArrayItems},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use crate::{
    access::{self, Need},
    api, examples, problem,
    words::{EntityTags, Key, Name},
};

/// Name of the shared failure.
const PROBLEM: &str = "Problem";

/// Names of the ways to say who one is.
const API_KEY: &str = "api_key";
const BEARER: &str = "bearer";

const ABOUT: &str = "A durable multi-agent runtime: agents, workflows, executions, messages.

Every failure is a problem document (RFC 9457). Lists page by cursor; `fields` names what they are to tell of each thing, and \
some are sorted by `sort`. One thing is answered with an `ETag`: \
`If-None-Match` asks for it where it has changed, `If-Match` changes it where it has not. A POST that creates something may carry an \
`Idempotency-Key`: sent again with the same key and body, it creates nothing twice. Where requests are limited, \
`RateLimit-Policy` and `RateLimit` say how many there may be and how many are left; one too many is answered with 429 and \
`Retry-After`.";

const TAGS: [(&str, &str); 9] = [
    ("agents", "Who does the work"),
    ("messages", "What agents are told"),
    ("topics", "What is told to whoever listens"),
    ("workflows", "What is to be done"),
    ("executions", "What is being done, and was"),
    ("dead letters", "What could not be delivered"),
    ("access", "Who may do what"),
    ("audit", "What was done, and by whom"),
    ("operation", "For those who run it"),
];

/// The document before the routes.
pub(crate) fn base() -> OpenApi {
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Troupe")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(license))
        .build();
    // What failures look like; the routes bring their own schemas.
    let key = ApiKeyValue::with_description("X-API-Key", "an API key, where one is demanded");
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("an access token, for which a key is exchanged"))
        .build();
    let components = ComponentsBuilder::new()
        .schema_from::<problem::Document<'_>>()
        .schema_from::<problem::Fault>()
        .security_scheme(API_KEY, SecurityScheme::ApiKey(ApiKey::Header(key)))
        .security_scheme(BEARER, SecurityScheme::Http(bearer))
        .build();
    // Any of them: on loopback nobody has to present anything.
    let security = [
        SecurityRequirement::new(API_KEY, [""; 0]),
        SecurityRequirement::new(BEARER, [""; 0]),
        SecurityRequirement::default(),
    ];
    let tag = |(name, about): (&str, &str)| TagBuilder::new().name(name).description(Some(about)).build();
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some(security))
        .tags(Some(TAGS.map(tag)))
        .build()
}

/// The whole document, as a gateway tells it that demands nothing of anybody.
pub fn document() -> OpenApi {
    document_of(true)
}

/// The whole document. Where a credential is demanded, none is no choice.
pub(crate) fn document_of(is_open: bool) -> OpenApi {
    let mut document = api::router().into_openapi();
    if !is_open {
        document.security = Some([API_KEY, BEARER].map(|name| SecurityRequirement::new(name, [""; 0])).to_vec());
    }
    let schema = Ref::from_schema_name(PROBLEM);
    let problem = ResponseBuilder::new()
        .description("a failure")
        .content(problem::CONTENT_TYPE, ContentBuilder::new().schema(Some(schema)).build())
        .header("X-Request-ID", HeaderBuilder::new().schema(Some(Key::schema())).build())
        .header("Retry-After", told::<u64>("seconds after which it may be tried again; with 429 and 503"))
        .header("RateLimit-Policy", told::<String>("how many requests there may be; where they are limited"))
        .header("RateLimit", told::<String>("how many of them are left; where they are limited"))
        .build();
    if let Some(components) = &mut document.components {
        components.responses.insert(PROBLEM.to_owned(), RefOr::T(problem));
    }
    let schemas = document.components.as_ref().map(|components| components.schemas.clone()).unwrap_or_default();
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete(path, &method, operation);
                cut(operation, &schemas);
                examples::add(operation);
                operation.security = unguarded(path, &method);
            }
        }
    }
    document
}

/// What is demanded where nobody has to be known: the key that is exchanged for a token, unless another token is.
fn unguarded(path: &str, method: &HttpMethod) -> Option<Vec<SecurityRequirement>> {
    let method = match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Post => Method::POST,
        _ => return None,
    };
    match access::need(&method, path)? {
        Need::Rule(_) => None,
        Need::Nothing if path == TOKEN => {
            Some(vec![SecurityRequirement::new(API_KEY, [""; 0]), SecurityRequirement::default()])
        }
        Need::Nothing => Some(Vec::new()),
    }
}

const TOKEN: &str = "/api/v1/auth/token";

/// Adds the headers and failures that every operation of its kind has.
fn complete(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let in_api = path.starts_with("/api/");
    let mut failures =
        vec![StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE];
    let mut parameters = vec![header::<Key>("X-Correlation-ID", "ties requests together; comes back in the answer")];
    if in_api {
        parameters.push(header::<Name>("X-Namespace", "the fence around everything; `default` where absent"));
        failures.push(StatusCode::GATEWAY_TIMEOUT);
    }
    if !path.starts_with("/health") {
        failures.push(StatusCode::TOO_MANY_REQUESTS);
    }
    // A key or a message may be for an agent that is not there.
    let is_for_an_agent = ["/api/v1/auth/keys", "/api/v1/messages"].contains(&path) && *method == HttpMethod::Post;
    if path.contains('{') || is_for_an_agent {
        failures.push(StatusCode::NOT_FOUND);
    }
    if matches!(method, HttpMethod::Post | HttpMethod::Put) {
        failures.push(StatusCode::CONFLICT);
    }
    if is_stream(operation) {
        failures.push(StatusCode::NOT_ACCEPTABLE);
    }
    if path == api::WEBSOCKET {
        failures.push(StatusCode::UPGRADE_REQUIRED);
    }
    if creates(path, method) {
        let meaning = "sent again with the same key and body, the request creates nothing twice";
        parameters.push(header::<Key>("Idempotency-Key", meaning));
        // Another request has had the key.
        failures.push(StatusCode::UNPROCESSABLE_ENTITY);
    }
    parameters.extend(condition(path, method, operation, &mut failures));
    if operation.request_body.is_some() {
        failures.extend([
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ]);
    }
    operation.parameters.get_or_insert_default().extend(parameters.into_iter().map(RefOr::T));
    let reference = || RefOr::Ref(Ref::from_response_name(PROBLEM));
    let names = failures.iter().map(|status| status.as_str().to_owned()).chain(["default".to_owned()]);
    for name in names {
        operation.responses.responses.entry(name).or_insert_with(reference);
    }
}

/// Adds what an entity tag brings with it; answers with the header that names one.
fn condition(
    path: &str,
    method: &HttpMethod,
    operation: &mut Operation,
    failures: &mut Vec<StatusCode>,
) -> Option<Parameter> {
    if is_tagged(path, method) {
        tagged(method, operation);
    }
    if changes(path, method) {
        failures.push(StatusCode::PRECONDITION_FAILED);
        let meaning = "refuse where it is not as it was when it had one of these `ETag`s, at most 4; `*` for any";
        return Some(header::<EntityTags>("If-Match", meaning));
    }
    let is_read = is_tagged(path, method) && *method == HttpMethod::Get;
    is_read.then(|| header::<String>("If-None-Match", "do not answer with what had one of these `ETag`s"))
}

fn parameters_of(operation: &Operation) -> impl Iterator<Item = &Parameter> {
    operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    })
}

type Schemas = BTreeMap<String, RefOr<Schema>>;

/// Adds, where fields can be chosen, that the items of a page may have some of theirs alone.
fn cut(operation: &mut Operation, schemas: &Schemas) {
    if !parameters_of(operation).any(|parameter| parameter.name == "fields") {
        return;
    }
    let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200") else { return };
    let Some(page) = answer.content.get_mut("application/json").and_then(schema_of) else {
        return;
    };
    let Some(mut part) = object(page, schemas).cloned() else { return };
    let Some(RefOr::T(Schema::Array(items))) = part.properties.get_mut("items") else { return };
    let ArrayItems::RefOrSchema(item) = &mut items.items else { return };
    let Some(mut some) = object(item, schemas).cloned() else { return };
    some.description = Some("the fields that `fields` names".to_owned());
    some.required.clear();
    some.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    **item = RefOr::T(Schema::Object(some));
    *page = AnyOfBuilder::new().item(page.clone()).item(Schema::Object(part)).into();
}

fn schema_of(content: &mut RefOr<Content>) -> Option<&mut RefOr<Schema>> {
    match content {
        RefOr::T(content) => content.schema.as_mut(),
        RefOr::Ref(_) => None,
    }
}

/// The schema of an object, wherever it is.
fn object<'a>(schema: &'a RefOr<Schema>, schemas: &'a Schemas) -> Option<&'a Object> {
    match schema {
        RefOr::T(Schema::Object(object)) => Some(object),
        RefOr::T(_) => None,
        RefOr::Ref(reference) => object(schemas.get(reference.ref_location.rsplit('/').next()?)?, schemas),
    }
}

/// A header of an answer, that not every answer has.
fn told<T: utoipa::PartialSchema>(meaning: &str) -> utoipa::openapi::Header {
    HeaderBuilder::new().schema(Some(T::schema())).description(Some(meaning)).build()
}

/// Things that have an entity tag, and are changed as they were seen.
const THINGS: [&str; 3] = ["agents", "workflows", "auth/keys"];

/// Does it answer with one thing that has an entity tag?
fn is_tagged(path: &str, method: &HttpMethod) -> bool {
    let Some(path) = path.strip_prefix("/api/v1/") else { return false };
    match path.strip_suffix("/{id}") {
        Some(things) if *method == HttpMethod::Get => things == "executions" || THINGS.contains(&things),
        Some(things) => *method == HttpMethod::Put && THINGS.contains(&things),
        None => *method == HttpMethod::Post && (path == ROTATE || THINGS.contains(&path)),
    }
}

const ROTATE: &str = "auth/keys/{id}/rotate";

/// Does it change a thing that has an entity tag?
fn changes(path: &str, method: &HttpMethod) -> bool {
    let Some(path) = path.strip_prefix("/api/v1/") else { return false };
    let is_thing = path.strip_suffix("/{id}").is_some_and(|things| THINGS.contains(&things));
    is_thing && matches!(method, HttpMethod::Put | HttpMethod::Delete) || path == ROTATE
}

/// Adds to the answers that they have a tag, and to those of a read that there may be nothing but the tag.
fn tagged(method: &HttpMethod, operation: &mut Operation) {
    let tag = || told::<String>("which state this is; for `If-None-Match` and `If-Match`");
    for status in ["200", "201"] {
        if let Some(RefOr::T(answer)) = operation.responses.responses.get_mut(status) {
            answer.headers.insert("ETag".to_owned(), RefOr::T(tag()));
        }
    }
    if *method == HttpMethod::Get {
        let unchanged = ResponseBuilder::new().description("it is as it was").header("ETag", tag()).build();
        operation.responses.responses.insert("304".to_owned(), RefOr::T(unchanged));
    }
}

/// Does the operation create something, so that it takes an `Idempotency-Key`?
fn creates(path: &str, method: &HttpMethod) -> bool {
    const LAST: [&str; 7] = ["agents", "message", "messages", "workflows", "execute", "{name}", "replay"];
    *method == HttpMethod::Post && path.rsplit('/').next().is_some_and(|last| LAST.contains(&last))
}

/// Does it answer with nothing but a stream, so that it must be asked for one?
fn is_stream(operation: &Operation) -> bool {
    match operation.responses.responses.get("200") {
        Some(RefOr::T(answer)) => answer.content.keys().eq([api::EVENT_STREAM]),
        Some(RefOr::Ref(_)) | None => false,
    }
}

fn header<T: utoipa::PartialSchema>(name: &str, description: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(T::schema()))
        .build()
}
