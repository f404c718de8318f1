//! The description of the API: generated from the handlers, completed with what all of them share.

use http::StatusCode;
use utoipa::{
    PartialSchema as _,
    openapi::{
        ComponentsBuilder, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
        ResponseBuilder,
        content::ContentBuilder,
        header::HeaderBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use crate::{
    api, problem,
    words::{Key, Name},
};

/// Name of the shared failure.
const PROBLEM: &str = "Problem";

/// Names of the ways to say who one is.
const API_KEY: &str = "api_key";
const BEARER: &str = "bearer";

const ABOUT: &str = "A durable multi-agent runtime: agents, workflows, executions, messages.

Every failure is a problem document (RFC 9457). Lists page by cursor. A POST that creates something may carry an \
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

/// The whole document.
pub fn document() -> OpenApi {
    let mut document = api::router().into_openapi();
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
            }
        }
    }
    document
}

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
    if path.contains('{') {
        failures.push(StatusCode::NOT_FOUND);
    }
    if matches!(method, HttpMethod::Post | HttpMethod::Put) {
        failures.push(StatusCode::CONFLICT);
    }
    if is_stream(operation) {
        failures.push(StatusCode::NOT_ACCEPTABLE);
    }
    if creates(path, method) {
        let meaning = "sent again with the same key and body, the request creates nothing twice";
        parameters.push(header::<Key>("Idempotency-Key", meaning));
        // Another request has had the key.
        failures.push(StatusCode::UNPROCESSABLE_ENTITY);
    }
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

/// A header of an answer, that not every answer has.
fn told<T: utoipa::PartialSchema>(meaning: &str) -> utoipa::openapi::Header {
    HeaderBuilder::new().schema(Some(T::schema())).description(Some(meaning)).build()
}

/// Does the operation create something, so that it takes an `Idempotency-Key`?
fn creates(path: &str, method: &HttpMethod) -> bool {
    const LAST: [&str; 6] = ["agents", "message", "workflows", "execute", "{name}", "replay"];
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
