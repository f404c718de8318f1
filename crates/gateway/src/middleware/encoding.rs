//! Answers in fewer bytes: gzip or zstd, where a client takes them.
//!
//! Never what is live, since a coder would hold events back; nor what has a secret in it (`Cache-Control: no-store`), since the size
//! of an answer tells of a secret next to what somebody else chose (BREACH); nor what is small, and gains nothing.

use axum::{extract::Request, middleware::Next, response::Response};
use http::{Extensions, HeaderMap, HeaderValue, Response as HttpResponse, StatusCode, Version, header};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer, Predicate,
        predicate::{NotForContentType, SizeAbove},
    },
};

/// Bytes from which an answer is worth coding: what fits into one packet as it is takes one packet.
const LEAST: u64 = 1024;

/// The layer that codes.
pub(super) fn layer() -> CompressionLayer<impl Predicate> {
    // Processors are dearer here than the last tenth of the bytes.
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(LEAST).and(NotForContentType::SSE).and(is_no_secret))
}

fn is_no_secret(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    headers.get(header::CACHE_CONTROL).is_none_or(|value| value != "no-store")
}

/// Around the layer: tells it which coding is to be used, and marks what was coded.
///
/// No answer is refused because no coding is good enough: it is sent as it is (RFC 9110, 12.5.3). Outside of the API, where nobody has
/// to say who they are, nothing is coded: it would be a lot of work for a small request.
pub(super) async fn mark(mut request: Request, next: Next) -> Response {
    let chosen = if request.uri().path().starts_with("/api/") { chosen(request.headers()) } else { None };
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    if let Some(coding) = chosen {
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(coding));
    }
    let mut response = next.run(request).await;
    if response.status() == StatusCode::NOT_MODIFIED {
        // As the answer would have it that is not sent.
        response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    // Other bytes want another entity tag (RFC 9110, 8.8.3.3).
    if let Some(tag) = marked(&response) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The coding that a client likes best of those that there are.
fn chosen(headers: &HeaderMap) -> Option<&'static str> {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let named: Vec<(String, f32)> = lines.flat_map(|line| line.split(',')).map(weighed).collect();
    let weight = |coding: &str| {
        let of = |name: &str| named.iter().find(|(found, _)| found == name).map(|(_, weight)| *weight);
        of(coding).or_else(|| of("*")).unwrap_or(0.0)
    };
    let weights = ["zstd", "gzip"].map(|coding| (coding, weight(coding)));
    let liked = weights.into_iter().filter(|(_, weight)| *weight > 0.0);
    liked.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(coding, _)| coding)
}

/// A coding, and how much it is liked: 0 for not at all.
fn weighed(item: &str) -> (String, f32) {
    let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
    let weight = match parameters.trim().to_ascii_lowercase().strip_prefix("q=") {
        Some(weight) => weight.trim().parse().unwrap_or(0.0),
        None => 1.0,
    };
    (name.trim().to_ascii_lowercase(), weight)
}

fn marked<B>(response: &HttpResponse<B>) -> Option<HeaderValue> {
    let coding = response.headers().get(header::CONTENT_ENCODING)?.to_str().ok()?;
    let tag = response.headers().get(header::ETAG)?.to_str().ok()?;
    HeaderValue::try_from(format!("{}-{coding}\"", tag.strip_suffix('"')?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coding_is_the_one_that_is_liked_best() {
        let of = |text: &'static str| {
            chosen(&[(header::ACCEPT_ENCODING, HeaderValue::from_static(text))].into_iter().collect())
        };
        for (text, coding) in [
            ("gzip", Some("gzip")),
            ("zstd", Some("zstd")),
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip;q=1.0, zstd;q=0.5", Some("gzip")),
            ("GZIP ; Q=0.1", Some("gzip")),
            ("*", Some("zstd")),
            ("*, zstd;q=0", Some("gzip")),
            ("*;q=0", None),
            ("br, identity;q=0", None),
            ("gzip;q=0", None),
            ("gzip;q=x", None),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(of(text), coding, "{text}");
        }
        assert_eq!(chosen(&HeaderMap::new()), None);
    }
}
