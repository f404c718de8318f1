//! Who asks, and whether they ask too often.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use ::access::{Principal, acting_as};
use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use serde_json::Value;

use crate::{
    access::{self, Need},
    app::App,
    auth::{Denied, Known, Presented},
    context::{self, Found},
    extract::at_hand,
    problem::Problem,
    proxies,
    rate::{Caller, Class, Verdict},
};

/// Probes have no credentials, and health tells nothing else. Nor do browsers that load a page: that of the documentation is the
/// same everywhere, and asks for the key that its requests are to carry.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/health" | "/health/live" | "/health/ready" | "/docs" | "/openapi.json")
        || path.starts_with("/docs/")
}

/// Where metrics are.
const METRICS: &str = "/metrics";

/// Where a credential is presented in the body, so that who has none in a header may come too; and in which field.
const IN_BODY: [(&str, &str); 2] = [("/api/v1/auth/token", "refresh_token"), ("/api/v1/auth/revoke", "token")];
/// Bytes of such a body: a token has a thousand or two, and whoever sends more has not said yet who they are.
const MOST_IN_BODY: usize = 16 * 1024;

/// Finds out who asks, whether they may, and of all of them lets nobody ask too often.
///
/// Health, metrics and the pages of the documentation are not limited. Who presents wrong credentials is, whatever is asked for.
pub(super) async fn admit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // What reads metrics need not be able to do anything else.
    if is_open(path) || path == METRICS && app.auth.opens_metrics(request.headers()) {
        return next.run(request).await;
    }
    let limited = path.starts_with("/api/").then(|| class(&request));
    let address = Caller::at(client(&app, &request));
    let Known { principal, counted, key, presented } = match app.auth.identify(request.headers()).await {
        Ok(known) => known,
        Err(Denied::Nobody) => match IN_BODY.iter().find(|(place, _)| *place == path) {
            Some((_, field)) => return by_body(&app, &address, field, request, next).await,
            None => return refused(&app, &address, Denied::Nobody).await,
        },
        Err(denied) => return refused(&app, &address, denied).await,
    };
    if let Some(found) = request.extensions().get::<Found>() {
        found.note(Arc::clone(&principal), key);
    }
    let caller = counted.map_or(address, Caller::Key);
    // A socket asks for more, when this request is long answered.
    request.extensions_mut().insert(caller.clone());
    let verdict = match limited {
        Some(class) => app.limiter.take(class, &caller).await,
        None => None,
    };
    let mut response = match verdict {
        Some(verdict) if !verdict.is_admitted => too_many(&verdict).into_response(),
        Some(_) | None => serve(request, next, &principal, presented).await,
    };
    if let Some(verdict) = verdict {
        verdict.write(response.headers_mut());
    }
    response
}

/// Does what is asked for whoever asks, if they may.
async fn serve(mut request: Request, next: Next, principal: &Arc<Principal>, presented: Presented) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let allowed = match route.map(|route| (access::need(request.method(), route.as_str()), route)) {
        Some((Some(Need::Rule(rule)), _)) => {
            access::authorize(rule, principal).and_then(|()| context::namespace(request.headers(), principal).map(drop))
        }
        Some((Some(Need::Nothing), _)) => context::namespace(request.headers(), principal).map(drop),
        None => Ok(()),
        // A method that the path does not know is answered by the router.
        Some((None, route)) if access::is_listed(route.as_str()) => Ok(()),
        Some((None, _)) => Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "nobody may use this route")),
    };
    if let Err(problem) = allowed {
        return problem.into_response();
    }
    request.extensions_mut().insert(Arc::clone(principal));
    request.extensions_mut().insert(presented);
    acting_as(Arc::clone(principal), next.run(request)).await
}

/// Lets in whoever shows in the body who they are.
///
/// What does not prove itself is a guess, and counts for its address. What was made here is none, however many come from there: it
/// counts with all that comes of the same exchange, so that nobody is busy with one that was good once, or with renewing for ever.
async fn by_body(app: &App, address: &Caller, field: &str, request: Request, next: Next) -> Response {
    // Nobody is bound to anything yet, but a header that is none is none.
    if let Err(problem) = context::namespace(request.headers(), &Principal::anonymous()) {
        return problem.into_response();
    }
    let (request, body) = match at_hand(request, app, MOST_IN_BODY).await {
        Ok(read) => read,
        Err(problem) => return problem.into_response(),
    };
    let counted = shown(app, &body, field).map_or_else(|| address.clone(), Caller::Key);
    match app.limiter.guess(&counted).await {
        Some(verdict) if !verdict.is_admitted => with_verdict(too_many(&verdict), Some(verdict)),
        Some(_) | None => next.run(request).await,
    }
}

/// By what it is counted that somebody comes with this body.
fn shown(app: &App, body: &[u8], field: &str) -> Option<Arc<str>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    // Apart, so that who renews too often keeps nobody from revoking that.
    Some(format!("{field}:{}", app.auth.tokens.shown(body.get(field)?.as_str()?)?).into())
}

/// Refuses somebody. Only wrong credentials count: whoever else is at the address, as behind the same NAT or in another page of a
/// browser, keeps nobody out who has the right ones. They are looked at first, and always open.
async fn refused(app: &App, address: &Caller, denied: Denied) -> Response {
    match denied {
        Denied::Wrong(problem) => {
            let verdict = app.limiter.guess(address).await;
            let problem = match &verdict {
                Some(verdict) if !verdict.is_admitted => too_many(verdict),
                Some(_) | None => problem,
            };
            with_verdict(problem, verdict)
        }
        Denied::Nobody | Denied::Several | Denied::Failed(_) => Problem::from(denied).into_response(),
    }
}

/// A refusal, and where they stand, where that is counted.
fn with_verdict(problem: Problem, verdict: Option<Verdict>) -> Response {
    let mut response = problem.into_response();
    if let Some(verdict) = verdict {
        verdict.write(response.headers_mut());
    }
    response
}

pub(super) fn client(app: &App, request: &Request) -> IpAddr {
    // Only where the router is driven without a socket is there no peer.
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    proxies::client(peer, request.headers(), &app.settings.trusted_proxies)
}

fn class(request: &Request) -> Class {
    if request.method().is_safe() {
        return Class::Read;
    }
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let starts = ["/execute", "/message", "/messages"].iter().any(|last| route.ends_with(last));
    if starts { Class::Start } else { Class::Write }
}

fn too_many(verdict: &Verdict) -> Problem {
    Problem::rate_limited(verdict.wait())
}
