//! Pages of other origins that may call, as the settings name them, and what a path can be asked for.
//!
//! A browser asks first (a preflight), and without a credential; so this stands around whatever asks for one. What it answers it
//! reads off the settings, the same for everybody, so it is not counted, and what the preflight was for is checked and counted as
//! every request is. A preflight of any other origin goes on to be refused. There are no cookies, and so none are allowed: a page
//! presents a key or a token, as every client does.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tower::{Layer as _, ServiceExt as _};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::guard;
use crate::{app::App, context};

const METHODS: [Method; 5] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];

/// What pages may send besides what every page may.
const SENT: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static(context::NAMESPACE),
    HeaderName::from_static(context::CORRELATION_ID),
    HeaderName::from_static(context::IDEMPOTENCY_KEY),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
];

/// What pages may read besides what every page may.
const READ: [HeaderName; 9] = [
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
    header::AGE,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-stale"),
    HeaderName::from_static(context::REQUEST_ID),
    HeaderName::from_static(context::CORRELATION_ID),
];

pub(super) async fn cors(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let is_options = *request.method() == Method::OPTIONS;
    let is_preflight = is_options && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let is_allowed = origin.is_some_and(|origin| guard::is_allowed(origin, &app.settings.cors.allowed_origins));
    let response = if is_allowed && (is_preflight || !is_options) {
        layer(app.settings.cors.max_age).layer(next).oneshot(request).await.into_response()
    } else {
        let mut response = next.run(request).await;
        if !app.settings.cors.allowed_origins.is_empty() {
            // A browser that keeps it must not show it to a page that would have got another one.
            response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
        }
        response
    };
    if is_options && !is_preflight { told(response) } else { response }
}

fn layer(max_age: Duration) -> CorsLayer {
    // Only allowed origins come here.
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_methods(METHODS)
        .allow_headers(SENT)
        .expose_headers(READ)
        .max_age(max_age)
}

/// The router refuses OPTIONS as a method that the path does not know, and says afterwards, around all of this, which it knows: that
/// is the answer.
fn told(mut response: Response) -> Response {
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}
