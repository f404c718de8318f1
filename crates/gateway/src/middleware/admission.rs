//! Who asks, and whether they ask too often.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, Method, StatusCode};

use crate::{
    app::App,
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

/// Lets those in who present the API key, where one is demanded, and of all of them nobody too often.
///
/// Health, metrics and the pages of the documentation are not limited. Who presents wrong keys is, whatever is asked for.
pub(super) async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_open(path) {
        return next.run(request).await;
    }
    let limited = path.starts_with("/api/").then(|| class(&request));
    let address = Caller::at(client(&app, &request));
    let caller = match identify(&app, address, request.headers().get("x-api-key").cloned()).await {
        Ok(caller) => caller,
        Err(refused) => return refused.into_response(),
    };
    let Some(class) = limited else { return next.run(request).await };
    let Some(verdict) = app.limiter.take(class, &caller).await else { return next.run(request).await };
    let mut response = if verdict.is_admitted { next.run(request).await } else { too_many(&verdict).into_response() };
    verdict.write(response.headers_mut());
    response
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

/// Whoever has the API key; where none is demanded, whoever is at the address.
///
/// Only wrong keys count: whoever else is at the address, as behind the same NAT or in another page of a browser, keeps nobody out
/// who has the right one. It is asked for first, and always opens.
async fn identify(app: &App, address: Caller, presented: Option<HeaderValue>) -> Result<Caller, Refused> {
    let Some(key) = &app.api_key else { return Ok(address) };
    let unauthenticated = || {
        let detail = "this gateway wants its API key in the header X-API-Key";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    };
    let Some(presented) = presented else { return Err(Refused(unauthenticated(), None)) };
    if key.is(&presented) {
        return Ok(Caller::Key(key.fingerprint()));
    }
    // What this replica knows needs no question to Redis.
    let verdict = match app.limiter.refusal(Class::Unauthenticated, &address) {
        Some(verdict) => Some(verdict),
        None => app.limiter.take(Class::Unauthenticated, &address).await,
    };
    let problem = match &verdict {
        Some(verdict) if !verdict.is_admitted => too_many(verdict),
        Some(_) | None => unauthenticated(),
    };
    Err(Refused(problem, verdict))
}

fn client(app: &App, request: &Request) -> IpAddr {
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
