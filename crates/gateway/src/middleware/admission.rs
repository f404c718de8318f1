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
use http::{HeaderMap, Method, StatusCode};

use crate::{
    access::{self, Need},
    app::App,
    auth::{Denied, Known},
    context::{self, Found},
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

/// Where a credential is presented in the body, so that who has none in a header may come too.
const IN_BODY: [&str; 2] = ["/api/v1/auth/token", "/api/v1/auth/revoke"];

/// Finds out who asks, whether they may, and of all of them lets nobody ask too often.
///
/// Health, metrics and the pages of the documentation are not limited. Who presents wrong credentials is, whatever is asked for.
pub(super) async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_open(path) {
        return next.run(request).await;
    }
    let limited = path.starts_with("/api/").then(|| class(&request));
    let address = Caller::at(client(&app, &request));
    let known = match identify(&app, &address, request.headers(), IN_BODY.contains(&path)).await {
        Ok(known) => known,
        Err(refused) => return refused.into_response(),
    };
    let Some(Known { principal, counted, until }) = known else {
        // Nobody is bound to anything yet, but a header that is none is none.
        return match context::namespace(request.headers(), &Principal::anonymous()) {
            Ok(_) => next.run(request).await,
            Err(problem) => problem.into_response(),
        };
    };
    if let Some(found) = request.extensions().get::<Found>() {
        found.note(Arc::clone(&principal), until);
    }
    let caller = counted.map_or(address, Caller::Key);
    let verdict = match limited {
        Some(class) => app.limiter.take(class, &caller).await,
        None => None,
    };
    let mut response = match verdict {
        Some(verdict) if !verdict.is_admitted => too_many(&verdict).into_response(),
        Some(_) | None => serve(request, next, &principal).await,
    };
    if let Some(verdict) = verdict {
        verdict.write(response.headers_mut());
    }
    response
}

/// Does what is asked for whoever asks, if they may.
async fn serve(mut request: Request, next: Next, principal: &Arc<Principal>) -> Response {
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
    acting_as(Arc::clone(principal), next.run(request)).await
}

/// Why somebody is not let in; and where they stand, where that is counted.
struct Refused(Problem, Option<Verdict>);

impl Refused {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        if let Some(verdict) = self.1 {
            verdict.write(response.headers_mut());
        }
        response
    }
}

/// Whoever has shown who they are; nobody where that is to be shown in the body.
///
/// Only wrong credentials count: whoever else is at the address, as behind the same NAT or in another page of a browser, keeps nobody
/// out who has the right ones. They are looked at first, and always open.
async fn identify(
    app: &App,
    address: &Caller,
    headers: &HeaderMap,
    is_told_in_body: bool,
) -> Result<Option<Known>, Refused> {
    let denied = match app.auth.identify(headers).await {
        Ok(known) => return Ok(Some(known)),
        Err(denied) => denied,
    };
    match denied {
        // Each of these is a guess, until it is found to be right.
        Denied::Nobody if is_told_in_body => match guess(app, address).await {
            Some(verdict) if !verdict.is_admitted => Err(Refused(too_many(&verdict), Some(verdict))),
            Some(_) | None => Ok(None),
        },
        Denied::Wrong(problem) => {
            let verdict = guess(app, address).await;
            let problem = match &verdict {
                Some(verdict) if !verdict.is_admitted => too_many(verdict),
                Some(_) | None => problem,
            };
            Err(Refused(problem, verdict))
        }
        Denied::Nobody | Denied::Failed(_) => Err(Refused(denied.into(), None)),
    }
}

/// Counts a guess.
async fn guess(app: &App, address: &Caller) -> Option<Verdict> {
    // What this replica knows needs no question to Redis.
    match app.limiter.refusal(Class::Unauthenticated, address) {
        Some(verdict) => Some(verdict),
        None => app.limiter.take(Class::Unauthenticated, address).await,
    }
}

pub(super) fn client(app: &App, request: &Request) -> IpAddr {
    // Only where the router is driven without a socket is there no peer.
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    proxies::client(peer, request.headers(), &app.settings.trusted_proxies)
}

fn class(request: &Request) -> Class {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Class::Read;
    }
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    if route.ends_with("/execute") || route.ends_with("/message") { Class::Start } else { Class::Write }
}

fn too_many(verdict: &Verdict) -> Problem {
    Problem::rate_limited(verdict.wait())
}
