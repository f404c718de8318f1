//! What is not the API itself: metrics, the description, and the page that shows it.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Redirect},
    routing::get,
};
use http::header;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::{app::App, openapi, problem::Problem};

/// Where the description is.
const DOCUMENT: &str = "/openapi.json";

/// Adds the pages for people, which are no part of the description, and what answers for everything else.
pub(crate) fn with_pages(router: Router<Arc<App>>) -> Router<Arc<App>> {
    let page = SwaggerUi::new("/docs").config(Config::from(DOCUMENT));
    router
        .merge(page)
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .fallback(|| async { Problem::of_status(http::StatusCode::NOT_FOUND) })
}

/// The process's metrics.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "in Prometheus' text format", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.render_metrics())
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json")))]
pub(crate) async fn openapi_document(State(app): State<Arc<App>>) -> impl IntoResponse {
    // Made once each: they never change while the process lives.
    static OPEN: LazyLock<String> = LazyLock::new(|| openapi::document_of(true).to_json().unwrap_or_default());
    static GUARDED: LazyLock<String> = LazyLock::new(|| openapi::document_of(false).to_json().unwrap_or_default());
    let text = if app.auth.is_open() { &OPEN } else { &GUARDED };
    ([(header::CONTENT_TYPE, "application/json")], text.as_str())
}
