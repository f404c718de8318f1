//! Notes every mutation before it is done and after, and everything that was denied.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use domain::Namespace;
use http::{HeaderMap, StatusCode, header};
use lifecycle::crash_point;

use super::admission::client;
use crate::{
    access::{self, Need},
    app::App,
    audit::{BEGUN, Bound, Entry, Log},
    context::{self, Found, Ids},
    problem::Problem,
    rate::Caller,
};

/// What a client that has left gets, in the log: nobody has seen an answer, and what was asked for may have been done.
const LEFT: u16 = 499;
/// Of a path that a client has made up, as much as is kept.
const MOST_OF_PATH: usize = 512;
const MOST_OF_NAME: usize = 128;
/// What whoever is bound to a namespace is told of ids that are not of it.
const NOT_FOUND: [&str; 6] = [
    "agent_not_found",
    "dead_letter_not_found",
    "execution_not_found",
    "key_not_found",
    "message_not_found",
    "workflow_not_found",
];

/// Set by [`record`]: the request was let in, and how it ends is noted there.
#[derive(Clone, Debug, Default)]
struct Recorded(Arc<AtomicBool>);

/// Notes what is denied on a connection that goes on after its request was answered.
#[derive(Clone)]
pub(crate) struct Denials(Begun);

impl Denials {
    /// Somebody did not get something of a namespace; noted where that is a denial.
    pub(crate) fn note(&self, log: &Log, target: &str, namespace: &str, problem: &Problem) {
        let Self(begun) = self;
        let Some(bound) = begun.denied(problem.status(), problem.code()) else { return };
        let entry = begun.filled(problem.status().as_u16(), problem.code());
        let entry = Entry { at: log.now(), target: target.to_owned(), namespace: namespace.to_owned(), ..entry };
        log.note_later(entry, bound);
    }
}

/// Around everything: notes what was denied.
pub(super) async fn audit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let begun = Begun::new(&app, &request, Found::default());
    request.extensions_mut().insert(Denials(begun.clone()));
    let recorded = Recorded::default();
    request.extensions_mut().insert(begun.found.clone());
    request.extensions_mut().insert(recorded.clone());
    let response = next.run(request).await;
    if !recorded.0.load(Ordering::Relaxed)
        && let Some(bound) = begun.denied(response.status(), code(&response))
    {
        app.audit.note_later(begun.answered(&app.audit, &response), bound);
    }
    response
}

/// Around what is done for those who are let in: nothing is done before it is noted who wants what done, and how it ended is
/// noted when it has.
pub(super) async fn record(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let is_mutation = request.uri().path().starts_with("/api/") && !request.method().is_safe();
    if !is_mutation {
        return next.run(request).await;
    }
    if let Some(Recorded(recorded)) = request.extensions().get() {
        recorded.store(true, Ordering::Relaxed);
    }
    let found = request.extensions().get::<Found>().cloned().unwrap_or_default();
    let begun = Begun::new(&app, &request, found);
    if let Err(error) = app.audit.note(begun.filled(BEGUN, "")).await {
        // It may be written all the same, when that can be done again.
        app.audit.note_later(begun.filled(StatusCode::SERVICE_UNAVAILABLE.as_u16(), error.reason), begun.bound());
        return Problem::from(error).into_response();
    }
    crash_point("gateway.audit.begun");
    let mut pending = Pending { log: &app.audit, begun: Some(begun) };
    let response = next.run(request).await;
    crash_point("gateway.audit.done");
    if let Some(begun) = pending.begun.take() {
        app.audit.note_end(begun.answered(&app.audit, &response)).await;
    }
    response
}

/// What an answer says of what was done, for the log. It goes with the answer.
#[derive(Clone, Debug)]
pub(crate) struct Concerns {
    /// Where what was done to is at home; nothing where that is everywhere.
    pub(crate) namespace: Option<Namespace>,
    /// What it is.
    pub(crate) details: String,
}

/// Is what a route does done in a namespace? Credentials, the log itself and what nobody has described are of the whole
/// installation, whatever namespace a request names: so nobody hides there what they do to another's.
fn is_of_a_namespace(route: &str) -> bool {
    let path = route.split_once(' ').map_or("", |(_, path)| path);
    path.starts_with("/api/") && !path.starts_with("/api/v1/auth/") && !path.starts_with("/api/v1/audit")
}

fn code(response: &Response) -> &'static str {
    response.extensions().get::<Problem>().map_or("", Problem::code)
}

/// A mutation under way: where its client leaves, that is noted, since it may have been done.
struct Pending<'a> {
    log: &'a Log,
    begun: Option<Begun>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.log.note_later(Entry { at: self.log.now(), ..begun.filled(LEFT, "client_left") }, Bound::None);
        }
    }
}

/// What is known of a request before it is answered.
#[derive(Clone)]
struct Begun {
    entry: Entry,
    address: Caller,
    headers: HeaderMap,
    found: Found,
}

impl Begun {
    fn new(app: &App, request: &Request, found: Found) -> Self {
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
            resource: String::new(),
            details: String::new(),
            namespace: String::new(),
            address: address.to_string(),
            status: BEGUN,
            code: String::new(),
            correlation_id,
            request_id,
        };
        let namespace = request.headers().get(context::NAMESPACE).cloned();
        let headers = namespace.map(|value| (http::HeaderName::from_static(context::NAMESPACE), value));
        Self { entry, address: Caller::at(address), headers: headers.into_iter().collect(), found }
    }

    /// How many are written of what whoever asks has caused.
    fn bound(&self) -> Bound {
        match self.found.principal() {
            Some(_) => Bound::None,
            None => Bound::Stranger(self.address.clone()),
        }
    }

    /// Is an answer a denial, and how many of its kind are noted?
    ///
    /// What is not found may be another namespace's: that is known to its service alone, which does not tell. So every id counts that
    /// whoever is bound to one does not find in it; whoever reaches all of them is denied nothing.
    fn denied(&self, status: StatusCode, code: &str) -> Option<Bound> {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(self.bound()),
            StatusCode::NOT_FOUND if NOT_FOUND.contains(&code) => {
                let principal = self.found.principal().filter(|principal| principal.namespace().is_some())?;
                Some(Bound::Missing(Caller::Key(principal.to_string().into())))
            }
            _ => None,
        }
    }

    /// With the answer, and what that says.
    fn answered(&self, log: &Log, response: &Response) -> Entry {
        let made = response.headers().get(header::LOCATION).and_then(|path| path.to_str().ok()).unwrap_or_default();
        let entry = self.filled(response.status().as_u16(), code(response));
        let entry = Entry { at: log.now(), resource: made.to_owned(), ..entry };
        match response.extensions().get::<Concerns>() {
            Some(Concerns { namespace, details }) => Entry {
                namespace: namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
                details: details.clone(),
                ..entry
            },
            None => entry,
        }
    }

    fn filled(&self, status: u16, code: &str) -> Entry {
        let principal = self.found.principal();
        let own = principal.and_then(|found| found.namespace());
        let namespace = if is_of_a_namespace(&self.entry.route) {
            // What was asked for, also where it is not theirs.
            let asked = context::header(&self.headers, context::NAMESPACE).ok().flatten();
            let asked = asked.map(|text| text.chars().take(MOST_OF_NAME).collect());
            asked.unwrap_or_else(|| own.cloned().unwrap_or_default().to_string())
        } else {
            own.map(ToString::to_string).unwrap_or_default()
        };
        Entry {
            actor: principal.map(ToString::to_string).unwrap_or_default(),
            role: principal.and_then(|found| found.role).map(|role| role.to_string()).unwrap_or_default(),
            namespace,
            status,
            code: code.to_owned(),
            ..self.entry.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_to_credentials_and_to_nothing_described_is_of_no_namespace() {
        for of_one in ["POST /api/v1/agents", "DELETE /api/v1/executions/{id}/events"] {
            assert!(is_of_a_namespace(of_one), "{of_one}");
        }
        for of_all in ["POST /api/v1/auth/keys", "GET /api/v1/audit", "GET /api/v1/audit/export", "GET", "GET /metrics"]
        {
            assert!(!is_of_a_namespace(of_all), "{of_all}");
        }
    }
}
