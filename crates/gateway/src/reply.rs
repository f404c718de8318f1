//! Answers that can be kept: status, place of the new thing, JSON.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{
    etag::{self, IfNoneMatch},
    fields::Fields,
    problem::Problem,
};

/// What things call their revision.
#[derive(Deserialize)]
struct Shown {
    #[serde(alias = "version")]
    revision: u64,
}

/// A successful answer with a JSON body.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// Path of what was created.
    pub(crate) location: Option<String>,
    /// Which state of the thing it shows.
    pub(crate) tag: Option<String>,
    /// How long ago it was true, where nobody could be asked whether it still is.
    pub(crate) age: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: StatusCode, body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| Problem::internal(error.to_string()))?;
        Ok(Self { status, location: None, tag: None, age: None, body })
    }

    /// 200.
    pub(crate) fn ok(body: &impl Serialize) -> Result<Self, Problem> {
        Self::new(StatusCode::OK, body)
    }

    /// 200, with what was true so long ago.
    pub(crate) const fn stale(body: Vec<u8>, age: Duration) -> Self {
        Self { status: StatusCode::OK, location: None, tag: None, age: Some(age), body }
    }

    /// With a secret in it, which nobody on the way may keep (RFC 6749, 5.1).
    pub(crate) fn into_secret(self) -> Response {
        ([(header::CACHE_CONTROL, "no-store")], self).into_response()
    }

    /// With the tag of what it shows at this revision; nothing but the tag where the client has that already.
    ///
    /// What is told from memory has none: nobody knows whether it is still so.
    #[must_use]
    pub(crate) fn tagged(mut self, revision: u64, known: &IfNoneMatch) -> Self {
        if self.age.is_some() {
            return self;
        }
        let tag = etag::tag(revision, &self.body);
        let as_known = known.known(&tag);
        if as_known.is_some() {
            self.status = StatusCode::NOT_MODIFIED;
            self.body.clear();
        }
        self.tag = Some(as_known.unwrap_or(tag));
        self
    }

    /// With the tag of what it shows at this revision.
    #[must_use]
    pub(crate) fn with_tag(self, revision: u64) -> Self {
        self.tagged(revision, &IfNoneMatch::default())
    }

    /// With the tag of the thing that was created, as it was then: at the revision that the body tells. An answer that was kept
    /// is the same as the first one.
    #[must_use]
    pub(crate) fn tagged_as_it_says(self) -> Self {
        match serde_json::from_slice::<Shown>(&self.body) {
            Ok(Shown { revision }) => self.with_tag(revision),
            Err(_) => self,
        }
    }

    /// A page with nothing of its items but the fields that were asked for.
    pub(crate) fn with_fields<T>(mut self, fields: Option<&Fields<T>>) -> Result<Self, Problem> {
        if let Some(fields) = fields {
            self.body = fields.of_page(&self.body)?;
        }
        Ok(self)
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
        if self.status == StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(header::CONTENT_TYPE);
            response.headers_mut().remove(header::CONTENT_LENGTH);
        } else {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(tag) = self.tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
            response.headers_mut().insert(header::ETAG, tag);
        }
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
