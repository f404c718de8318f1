//! How much each API key asks for, itself or by the tokens that it was exchanged for, and of which routes.
//!
//! Keys come and go, and metrics must not grow with them: the first [`MOST`] that this process meets are counted by their ids,
//! and all others together. Routes are as many as there are.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::StatusCode;

use super::observe::method_label;
use crate::{app::App, context::Found};

/// Requests by `key`, `method`, `endpoint` (the route's template) and `status` (its first digit).
const REQUESTS: &str = "gateway_key_requests_total";
/// Keys with a label of their own.
const MOST: usize = 100;
/// The label of all others.
const OTHERS: &str = "other";

/// Keys that have a label of their own.
#[derive(Debug, Default)]
pub(crate) struct Labels(Mutex<HashSet<Arc<str>>>);

impl Labels {
    fn of(&self, key: &str) -> Arc<str> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.get(key) {
            return Arc::clone(label);
        }
        if known.len() == MOST {
            return OTHERS.into();
        }
        let label: Arc<str> = key.into();
        known.insert(Arc::clone(&label));
        label
    }
}

/// Around whatever finds out who asks, and within what has [`Found`].
pub(super) async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let found = request.extensions().get::<Found>().cloned().unwrap_or_default();
    let method = method_label(request.method());
    let endpoint = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    if let Some(key) = found.key() {
        let key = app.labels.of(key).to_string();
        let endpoint = endpoint.as_ref().map_or("unmatched", MatchedPath::as_str).to_owned();
        let status = class(response.status());
        metrics::counter!(REQUESTS, "key" => key, "method" => method, "endpoint" => endpoint, "status" => status)
            .increment(1);
    }
    response
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_labels_than_that() {
        let labels = Labels::default();
        for number in 0..2 * MOST {
            let label = labels.of(&format!("key_{number}"));
            assert_eq!(&*label == OTHERS, number >= MOST, "{number}: {label}");
        }
        assert_eq!(&*labels.of("key_7"), "key_7", "it keeps its own");
        assert_eq!(labels.0.lock().unwrap().len(), MOST);
    }
}
