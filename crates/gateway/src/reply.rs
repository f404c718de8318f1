//! Answers that can be kept: status, place of the new thing, JSON.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::problem::Problem;

/// A successful answer with a JSON body.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// Path of what was created.
    pub(crate) location: Option<String>,
    /// How long ago it was true, where nobody could be asked whether it still is.
    pub(crate) age: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: StatusCode, body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| Problem::internal(error.to_string()))?;
        Ok(Self { status, location: None, age: None, body })
    }

    /// 200.
    pub(crate) fn ok(body: &impl Serialize) -> Result<Self, Problem> {
        Self::new(StatusCode::OK, body)
    }

    /// 200, with what was true so long ago.
    pub(crate) const fn stale(body: Vec<u8>, age: Duration) -> Self {
        Self { status: StatusCode::OK, location: None, age: Some(age), body }
    }

    /// With a secret in it, which nobody on the way may keep (RFC 6749, 5.1).
    pub(crate) fn into_secret(self) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], self).into_response()
    }

    /// With the path of what was created.
    #[must_use]
    pub(crate) fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(location) = self.location.and_then(|path| HeaderValue::try_from(path).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        if let Some(age) = self.age {
            response.headers_mut().insert("x-stale", HeaderValue::from_static("true"));
            response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
        }
        response
    }
}
