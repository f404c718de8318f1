//! What every answer tells the browser that may show it, and whoever stands in between.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// An answer of the API is data: it loads nothing and is shown in no frame.
const DATA: &str = "default-src 'none'; frame-ancestors 'none'";
/// The page of the documentation loads what is its own; its styles are partly in the page.
const PAGE: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A year: whoever has come over TLS once comes over TLS again.
const TLS_ALONE: &str = "max-age=31536000";

/// Adds what is not there.
pub(super) fn protect(headers: &mut HeaderMap, path: &str, is_over_tls: bool) {
    let policy = if path.starts_with("/docs") { PAGE } else { DATA };
    let always: [(HeaderName, &'static str); 5] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in always {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if is_over_tls {
        let once = HeaderValue::from_static(TLS_ALONE);
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(once);
    }
    if path.starts_with("/api/") && !headers.contains_key(header::CACHE_CONTROL) {
        // Caches in between do not know that `X-API-Key` makes an answer somebody's own. What has a tag a client may keep for
        // itself, and asks whether it is still so.
        let keep = if headers.contains_key(header::ETAG) { "private, no-cache" } else { "no-store" };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    }
}
