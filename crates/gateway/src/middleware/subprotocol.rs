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

/// Makes the header of each credential that is presented as a subprotocol, and takes it out of the protocols, so that nothing after
/// this has to know of it. Several stay several, and are refused as such.
fn translate(headers: &mut HeaderMap) {
    let lines: Vec<_> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    let named = lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim);
    let (credentials, others): (Vec<_>, Vec<_>) =
        named.partition(|name| name.starts_with(BY_KEY) || name.starts_with(BY_TOKEN));
    if credentials.is_empty() {
        return;
    }
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(others) = HeaderValue::try_from(others.join(", "))
        && !others.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
    }
    for credential in credentials {
        let (name, value) = match (credential.strip_prefix(BY_KEY), credential.strip_prefix(BY_TOKEN)) {
            (Some(key), _) => (HeaderName::from_static(API_KEY), key.to_owned()),
            (None, token) => (header::AUTHORIZATION, format!("Bearer {}", token.unwrap_or_default())),
        };
        if let Ok(mut value) = HeaderValue::try_from(value) {
            value.set_sensitive(true);
            headers.append(name, value);
        }
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
        assert_eq!(both, [pair("x-api-key", "other"), pair("x-api-key", "k"), pair(NAMES, "troupe.v1")]);
        let several = presented(&[(NAMES, "troupe.bearer.t, troupe.key.k, troupe.v1")]);
        assert_eq!(several, [pair(NAMES, "troupe.v1"), pair("authorization", "Bearer t"), pair("x-api-key", "k")]);
        assert_eq!(presented(&[(NAMES, "troupe.v1")]), [pair(NAMES, "troupe.v1")]);
    }

    /// What browsers may name.
    mod fuzz {
        use proptest::prelude::*;
        use testkit::fuzz::{cases, nearly, text};

        use super::*;

        const LINE: &str = "(troupe\\.v1|troupe\\.key\\.[a-z0-9_]{0,9}|troupe\\.bearer\\.[A-Za-z0-9._-]{0,9}|chat)(, ?(troupe\\.v1|troupe\\.key\\.[a-z0-9_]{0,9}|troupe\\.bearer\\.[a-z]{1,9}|chat)){0,3}";

        fn named(headers: &HeaderMap) -> Vec<String> {
            let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
            lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_owned()).collect()
        }

        proptest! {
            #![proptest_config(cases(512))]

            #[test]
            fn every_credential_becomes_a_header_and_everything_else_stays_a_protocol(
                lines in prop::collection::vec(prop_oneof![text(), nearly(LINE), LINE], 0..4),
                key in proptest::option::of("[a-z]{1,9}"),
            ) {
                let mut headers = HeaderMap::new();
                for value in lines.iter().filter_map(|line| HeaderValue::from_str(line).ok()) {
                    headers.append(header::SEC_WEBSOCKET_PROTOCOL, value);
                }
                if let Some(key) = &key {
                    headers.insert(API_KEY, key.parse().unwrap());
                }
                let is_credential = |name: &String| name.starts_with(BY_KEY) || name.starts_with(BY_TOKEN);
                let (credentials, others): (Vec<_>, Vec<_>) = named(&headers).into_iter().partition(is_credential);
                translate(&mut headers);
                let keys = headers.get_all(API_KEY).iter().filter_map(|key| key.to_str().ok()).map(|key| format!("{BY_KEY}{key}"));
                let tokens = headers.get_all(header::AUTHORIZATION).iter().filter_map(|token| token.to_str().ok());
                let tokens = tokens.map(|token| token.replacen("Bearer ", BY_TOKEN, 1));
                let mut presented: Vec<_> = keys.chain(tokens).collect();
                let mut expected: Vec<_> = key.iter().map(|key| format!("{BY_KEY}{key}")).chain(credentials).collect();
                presented.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(presented, expected);
                let meant = |names: Vec<String>| names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>();
                prop_assert_eq!(meant(named(&headers)), meant(others));
            }
        }
    }
}
