//! Keeps web pages of others out.
//!
//! Where nobody has to say who they are, whoever reaches the gateway may do everything, and a browser on the same machine
//! reaches it for every page that it shows. Two checks stop that: the name by which the gateway is addressed must be one
//! of its own (a page cannot choose it: DNS rebinding), and a request that a page sends must come from the gateway's own
//! page (cross-site requests). A proxy that stands in front would undo both, so it must not.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};

use crate::{app::App, problem::Problem};

/// What proxies say of those for whom they ask: whoever reaches one that is on this machine would be taken for somebody who is.
const FORWARDED: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match check(&app, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(app: &App, request: &Request) -> Result<(), Problem> {
    let text = |name| match request.headers().get(name) {
        Some(value) => value.to_str().map(Some).map_err(|_| refused("a header that cannot be read")),
        None => Ok(None),
    };
    let host = text(header::HOST)?.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
    let host = host.ok_or_else(|| refused("a request must name its Host"))?;
    // A page that has a credential has it from somebody who may.
    if app.auth.is_open() && !is_own_name(host_name(host), &app.settings.allowed_hosts) {
        return Err(refused("this Host is not a name of the gateway (setting allowed_hosts)"));
    }
    let is_forwarded = FORWARDED.iter().any(|name| request.headers().contains_key(*name));
    if app.auth.is_open() && is_forwarded {
        return Err(refused("a proxy sends this, and nobody has to say who they are (setting api_key_file)"));
    }
    if let Some(origin) = text(header::ORIGIN)? {
        let own = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
        if !own && !is_allowed(origin, &app.settings.cors.allowed_origins) {
            return Err(refused("pages of this Origin may not call the gateway (setting cors.allowed_origins)"));
        }
    } else if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))?
        && !matches!(site, "same-origin" | "none")
        && (!request.method().is_safe() || app.auth.is_open() && request.uri().path().starts_with("/api/"))
    {
        // A page may link to the documentation; with the API it has nothing to do, not even to keep it busy.
        return Err(refused("pages of another origin may not call the gateway"));
    }
    Ok(())
}

/// Is it one of the origins that the settings name?
pub(crate) fn is_allowed(origin: &str, allowed: &[String]) -> bool {
    allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
}

fn refused(detail: &'static str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "origin_refused", detail)
}

/// A host without its port, and an IPv6 address without its brackets.
fn host_name(host: &str) -> &str {
    if let Some(address) = host.strip_prefix('[') {
        return address.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

fn is_own_name(name: &str, allowed: &[String]) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || allowed.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_loopback_and_of_the_settings_are_the_gateways_own() {
        for own in ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "[::1]:8080", "troupe.example:443"] {
            assert!(is_own_name(host_name(own), &["troupe.example".to_owned()]), "{own}");
        }
        for other in ["example.org", "127.0.0.1.example.org", "localhost.example.org:80", "10.0.0.1", ""] {
            assert!(!is_own_name(host_name(other), &[]), "{other}");
        }
    }

    /// What browsers, and others, may say of where they are.
    mod fuzz {
        use proptest::prelude::*;
        use testkit::fuzz::{cases, nearly, text};

        use super::*;

        proptest! {
            #![proptest_config(cases(512))]

            #[test]
            fn no_host_but_loopback_and_the_settings_own_is_the_gateways(host in prop_oneof![
                text(),
                nearly("(localhost|127\\.0\\.0\\.[0-9]|\\[::1\\]|troupe\\.example)(:[0-9]{1,5})?"),
            ]) {
                let own = ["troupe.example".to_owned()];
                if is_own_name(host_name(&host), &own) {
                    let name = host_name(&host).to_lowercase();
                    let is_loopback = name.starts_with("127.") || name.contains(':') || name == "localhost";
                    prop_assert!(is_loopback || name == own[0], "{}", host);
                    prop_assert!(host.trim_start_matches('[').to_lowercase().starts_with(&name), "{}", host);
                }
            }

            #[test]
            fn an_origin_is_allowed_where_it_is_named_whole(
                origin in prop_oneof![text(), nearly("https://[a-z]{1,6}\\.example(:[0-9]{2,5})?")],
                named in nearly("https://[a-z]{1,6}\\.example(:[0-9]{2,5})?"),
            ) {
                let allowed = is_allowed(&origin, std::slice::from_ref(&named));
                prop_assert_eq!(allowed, origin.eq_ignore_ascii_case(&named));
                prop_assert!(is_allowed(&named, &[origin, named.clone()]));
            }
        }
    }
}
