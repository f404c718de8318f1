//! How many requests at once, and for how long.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::StatusCode;

use crate::{app::App, problem::Problem};

/// Refuses a request that there is no room for, and gives up one that takes too long.
///
/// Health and metrics always have room: they must answer just when there is too much to do.
pub(super) async fn limit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let permit = if request.uri().path().starts_with("/api/") {
        match app.requests.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => return Problem::overloaded("too many requests at once (setting max_requests)").into_response(),
        }
    } else {
        None
    };
    let answered = tokio::time::timeout(app.settings.request_timeout, next.run(request)).await;
    drop(permit);
    answered.unwrap_or_else(|_| {
        let detail = format!("not done within {:?} (setting request_timeout)", app.settings.request_timeout);
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "request_timeout", detail).into_response()
    })
}
