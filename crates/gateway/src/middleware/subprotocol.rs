//! Credentials of browsers that open a WebSocket: they can add no headers, but name protocols.

use axum::{extract::Request, middleware::Next, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{api, auth::API_KEY};

/// What the protocols begin with that are credentials.
const BY_KEY: &str = "troupe.key.";
const BY_TOKEN: &str = "troupe.bearer.";

/// Around whatever asks for a credential, or notes what was asked for.
pub(super) async fn present(mut request: Request, next: Next) -> Response {
    if request.uri().path() == api::WEBSOCKET {
        translate(request.headers_mut());
    }
    next.run(request).await
}

/// Makes the header of a credential that is presented as a subprotocol, and takes it out of the protocols, so that nothing after
/// this has to know of it. A credential in a header goes before.
fn translate(headers: &mut HeaderMap) {
    let lines: Vec<_> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    let named = lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim);
    let (credentials, others): (Vec<_>, Vec<_>) =
        named.partition(|name| name.starts_with(BY_KEY) || name.starts_with(BY_TOKEN));
    let Some(credential) = credentials.first() else { return };
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(others) = HeaderValue::try_from(others.join(", "))
        && !others.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
    }
    if headers.contains_key(API_KEY) || headers.contains_key(header::AUTHORIZATION) {
        return;
    }
    let (name, value) = match (credential.strip_prefix(BY_KEY), credential.strip_prefix(BY_TOKEN)) {
        (Some(key), _) => (HeaderName::from_static(API_KEY), key.to_owned()),
        (None, token) => (header::AUTHORIZATION, format!("Bearer {}", token.unwrap_or_default())),
    };
    if let Ok(mut value) = HeaderValue::try_from(value) {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(lines: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        translate(&mut headers);
        let text = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
        headers.iter().map(text).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_credential_among_the_protocols_becomes_its_header() {
        const NAMES: &str = "sec-websocket-protocol";
        let key = presented(&[(NAMES, "troupe.v1, troupe.key.trk_a_b")]);
        assert_eq!(key, [pair(NAMES, "troupe.v1"), pair("x-api-key", "trk_a_b")]);
        let token = presented(&[(NAMES, "troupe.bearer.a.b-c"), (NAMES, "x,troupe.v1")]);
        assert_eq!(token, [pair(NAMES, "x, troupe.v1"), pair("authorization", "Bearer a.b-c")]);
        assert_eq!(presented(&[(NAMES, "troupe.key.k")]), [pair("x-api-key", "k")]);
        let both = presented(&[(NAMES, "troupe.key.k,troupe.v1"), ("x-api-key", "other")]);
        assert_eq!(both, [pair("x-api-key", "other"), pair(NAMES, "troupe.v1")]);
        assert_eq!(presented(&[(NAMES, "troupe.v1")]), [pair(NAMES, "troupe.v1")]);
    }
}
