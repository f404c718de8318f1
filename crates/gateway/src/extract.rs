//! Paths, queries and bodies, each refused with a problem that names what is wrong.

use std::{str::FromStr, sync::Arc};

use axum::{
    body::Body as HttpBody,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::{HeaderMap, StatusCode, header, request::Parts};
use serde::de::DeserializeOwned;

use crate::{app::App, context, json, problem::Problem, words};

/// The `{id}` of a path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T> FromRequestParts<Arc<App>> for Path<T>
where
    T: FromStr<Err = words::Refused> + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        segment(parts, app, "id").await.map(Self)
    }
}

/// The `{name}` of a path.
pub(crate) struct PathName(pub(crate) words::Name);

impl FromRequestParts<Arc<App>> for PathName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        segment(parts, app, "name").await.map(Self)
    }
}

/// The `{topic}` of a path.
pub(crate) struct PathTopic(pub(crate) words::Topic);

impl FromRequestParts<Arc<App>> for PathTopic {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        segment(parts, app, "topic").await.map(Self)
    }
}

/// The `{pattern}` of a path.
pub(crate) struct PathPattern(pub(crate) words::TopicPattern);

impl FromRequestParts<Arc<App>> for PathPattern {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        segment(parts, app, "pattern").await.map(Self)
    }
}

async fn segment<T>(parts: &mut Parts, app: &Arc<App>, name: &'static str) -> Result<T, Problem>
where
    T: FromStr<Err = words::Refused>,
{
    let unreadable = || Problem::field(name, "invalid_value", "must be percent-encoded UTF-8");
    let segments = RawPathParams::from_request_parts(parts, app).await.map_err(|_| unreadable())?;
    let text = segments.iter().find(|(found, _)| *found == name).map(|(_, text)| text).ok_or_else(unreadable)?;
    context::word(name, text)
}

/// A JSON body, and its bytes for the idempotency record.
pub(crate) struct Body<T> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let bytes = read_json(request, app).await?;
        Ok(Self { value: json::parse(&bytes)?, bytes })
    }
}

/// A body that is any JSON value.
pub(crate) struct Value(pub(crate) json::Any);

impl FromRequest<Arc<App>> for Value {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        json::parse_any(&read_json(request, app).await?).map(Self)
    }
}

/// A JSON body that may be left out, and its bytes.
pub(crate) struct OptionalBody<T> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let format = Format::of(request.headers());
        let bytes = read(request, app).await?;
        if bytes.is_empty() {
            return Ok(Self { value: T::default(), bytes });
        }
        match format? {
            // `null` says as little as no body at all.
            Some(Format::Json) => Ok(Self { value: json::parse::<Option<T>>(&bytes)?.unwrap_or_default(), bytes }),
            Some(Format::Yaml) | None => Err(unsupported("application/json")),
        }
    }
}

/// A definition as JSON text, whatever it came as, and the bytes as they came.
pub(crate) struct Definition {
    pub(crate) json: Bytes,
    pub(crate) bytes: Bytes,
}

impl FromRequest<Arc<App>> for Definition {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let accepted = "application/json or application/yaml";
        let format = Format::of(request.headers())?.ok_or_else(|| unsupported(accepted))?;
        let bytes = read(request, app).await?;
        let json = match format {
            Format::Json => {
                // The orchestrator looks inside; what is no JSON at all need not go there.
                json::parse::<json::Object>(&bytes)?;
                bytes.clone()
            }
            Format::Yaml => crate::yaml::to_json(bytes.clone(), app.settings.max_body.0).await?,
        };
        Ok(Self { json, bytes })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Yaml,
}

impl Format {
    /// By `Content-Type`; none where that is missing, a problem where it is something else.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
        let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/json" => Ok(Some(Self::Json)),
            "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(Some(Self::Yaml)),
            _ => Err(unsupported("application/json")),
        }
    }
}

fn unsupported(accepted: &str) -> Problem {
    let detail = format!("the Content-Type must be {accepted}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type_unsupported", detail)
}

/// The whole of a body that says of itself that it is JSON.
async fn read_json(request: Request, app: &App) -> Result<Bytes, Problem> {
    match Format::of(request.headers())? {
        Some(Format::Json) => read(request, app).await,
        Some(Format::Yaml) | None => Err(unsupported("application/json")),
    }
}

/// The request with its whole body at hand, of at most so many bytes.
pub(crate) async fn at_hand(request: Request, app: &App, limit: usize) -> Result<(Request, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let limit = limit.min(app.settings.max_body.0);
    let bytes = read_body(body, app, limit).await?;
    Ok((Request::from_parts(parts, HttpBody::from(bytes.clone())), bytes))
}

/// The whole body, within the limits of size and time.
async fn read(request: Request, app: &App) -> Result<Bytes, Problem> {
    if let Some(coding) = request
        .headers()
        .get(header::CONTENT_ENCODING)
        .filter(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        // A small body may stand for one without end.
        let detail = format!("bodies are taken as they are, and not in the coding {coding:?}");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_coding_unsupported", detail));
    }
    read_body(request.into_body(), app, app.settings.max_body.0).await
}

async fn read_body(body: HttpBody, app: &App, limit: usize) -> Result<Bytes, Problem> {
    tokio::time::timeout(app.settings.body_timeout, collect(body, limit)).await.unwrap_or_else(|_| {
        let detail = format!("the body did not come within {:?} (setting body_timeout)", app.settings.body_timeout);
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail))
    })
}

async fn collect(body: HttpBody, limit: usize) -> Result<Bytes, Problem> {
    let broken = |_| Problem::new(StatusCode::BAD_REQUEST, "body_broken", "the body ended before its end");
    let mut stream = body.into_data_stream();
    let Some(first) = stream.next().await.transpose().map_err(broken)? else { return Ok(Bytes::new()) };
    let Some(second) = stream.next().await.transpose().map_err(broken)? else {
        // The usual case: one chunk, nothing copied.
        return if first.len() > limit { Err(too_large(limit)) } else { Ok(first) };
    };
    let mut whole = BytesMut::from(first);
    let mut dropped = 0;
    let mut next = Some(second);
    while let Some(chunk) = next {
        if whole.len() + chunk.len() > limit {
            // Read on for a while and drop it: a client that is cut off in the middle of sending never sees the answer.
            dropped += whole.len() + chunk.len();
            whole.clear();
            if dropped > limit.saturating_mul(8) {
                break;
            }
        } else if dropped == 0 {
            whole.extend_from_slice(&chunk);
        } else {
            dropped += chunk.len();
        }
        next = stream.next().await.transpose().map_err(broken)?;
    }
    if dropped > 0 { Err(too_large(limit)) } else { Ok(whole.freeze()) }
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("a body has at most {limit} bytes here (setting max_body, where it is not for a token)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}
