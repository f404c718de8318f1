//! Notes every mutation, and everything that was denied.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, Method, StatusCode};

use super::admission::client;
use crate::{
    access::{self, Need},
    app::App,
    audit::{Entry, Log},
    context::{self, Found, Ids},
    problem::Problem,
};

/// What a client that has left gets, in the log: nobody has seen an answer, and what was asked for may have been done.
const LEFT: u16 = 499;
/// Of a path that a client has made up, as much as is kept.
const MOST_OF_PATH: usize = 512;
const MOST_OF_NAME: usize = 128;

/// A mutation is answered when it is noted.
pub(super) async fn audit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_mutation = path.starts_with("/api/") && !matches!(*request.method(), Method::GET | Method::HEAD);
    if is_mutation && let Err(error) = app.audit.check() {
        return Problem::from(error).into_response();
    }
    let begun = Begun::new(&app, &request);
    request.extensions_mut().insert(begun.found.clone());
    if !is_mutation {
        let response = next.run(request).await;
        if is_denial(response.status()) {
            let (entry, is_stranger) = begun.entry(&response);
            app.audit.note_later(entry, is_stranger);
        }
        return response;
    }
    let mut pending = Pending { log: &app.audit, begun: Some(begun) };
    let response = next.run(request).await;
    let Some(begun) = pending.begun.take() else { return response };
    let (entry, is_stranger) = begun.entry(&response);
    if is_stranger || response.status() == StatusCode::TOO_MANY_REQUESTS {
        // Nothing was done, and nobody is to be made to wait for a flood of these.
        if is_denial(response.status()) {
            app.audit.note_later(entry, is_stranger);
        }
        return response;
    }
    match app.audit.note(entry).await {
        Ok(()) => response,
        Err(error) => Problem::from(error).into_response(),
    }
}

fn is_denial(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// A mutation under way: where its client leaves, that is noted, since it may have been done.
struct Pending<'a> {
    log: &'a Log,
    begun: Option<Begun>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            let (entry, _) = begun.filled(LEFT, "client_left");
            self.log.note_later(entry, false);
        }
    }
}

/// What is known of a request before it is answered.
struct Begun {
    entry: Entry,
    headers: HeaderMap,
    found: Found,
}

impl Begun {
    fn new(app: &App, request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let action = match route.and_then(|route| access::need(request.method(), route)) {
            Some(Need::Rule(rule)) => rule.permission.as_str(),
            Some(Need::Nothing) | None => "",
        };
        let (request_id, correlation_id) = match request.extensions().get::<Ids>() {
            Some(ids) => (ids.request.to_string(), ids.correlation.to_string()),
            None => (String::new(), String::new()),
        };
        let address = client(app, request);
        let entry = Entry {
            at: app.audit.now(),
            actor: String::new(),
            role: String::new(),
            action: action.to_owned(),
            route: format!("{} {}", request.method(), route.unwrap_or_default()).trim_end().to_owned(),
            target: request.uri().path().chars().take(MOST_OF_PATH).collect(),
            namespace: String::new(),
            address: address.to_string(),
            status: 0,
            code: String::new(),
            correlation_id,
            request_id,
        };
        let namespace = request.headers().get(context::NAMESPACE).cloned();
        let headers = namespace.map(|value| (http::HeaderName::from_static(context::NAMESPACE), value));
        Self { entry, headers: headers.into_iter().collect(), found: Found::default() }
    }

    /// With the answer; and whether nobody knows whose it is.
    fn entry(self, response: &Response) -> (Entry, bool) {
        let code = response.extensions().get::<Problem>().map_or("", Problem::code);
        self.filled(response.status().as_u16(), code)
    }

    fn filled(self, status: u16, code: &str) -> (Entry, bool) {
        let Self { entry, headers, found } = self;
        let principal = found.principal();
        // What was asked for, also where it is not theirs.
        let asked = context::header(&headers, context::NAMESPACE).ok().flatten();
        let asked = asked.map(|text| text.chars().take(MOST_OF_NAME).collect());
        let own = || principal.and_then(|found| found.namespace().cloned()).unwrap_or_default().to_string();
        let entry = Entry {
            actor: principal.map(ToString::to_string).unwrap_or_default(),
            role: principal.and_then(|found| found.role).map(|role| role.to_string()).unwrap_or_default(),
            namespace: asked.unwrap_or_else(own),
            status,
            code: code.to_owned(),
            ..entry
        };
        (entry, principal.is_none())
    }
}
