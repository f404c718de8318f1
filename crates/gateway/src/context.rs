//! What a request says about itself besides its body: namespace, correlation, idempotency key.

use std::sync::{Arc, OnceLock};

use access::Principal;
use axum::extract::FromRequestParts;
use domain::Namespace;
use http::{Extensions, HeaderMap, Method, StatusCode, request::Parts};
use tonic::metadata::MetadataValue;
/// Ties requests of one undertaking together; comes back in the answer.
pub(crate) use trace::CORRELATION_ID;

use crate::{app::App, problem::Problem, words};

/// Who is asked for, in HTTP and towards the services behind.
pub(crate) const NAMESPACE: &str = "x-namespace";
/// The request's own id, in answers.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// Makes a POST that creates something safe to repeat.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Given to each request by the outermost middleware.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    /// `req_…`, always our own.
    pub(crate) request: Arc<str>,
    /// The client's, or the same as `request`.
    pub(crate) correlation: Arc<str>,
}

/// Where whoever finds out who asks notes it, for the audit log and for the count of what each key asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found(Arc<OnceLock<Who>>);

/// Who asks, and with which key or what came of it.
#[derive(Debug)]
struct Who {
    principal: Arc<Principal>,
    key: Option<Arc<str>>,
}

impl Found {
    /// It is they, with this key or what came of it. The first counts.
    pub(crate) fn note(&self, principal: Arc<Principal>, key: Option<Arc<str>>) {
        let _ = self.0.set(Who { principal, key });
    }

    pub(crate) fn principal(&self) -> Option<&Arc<Principal>> {
        self.0.get().map(|who| &who.principal)
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.0.get()?.key.as_deref()
    }
}

/// A request's circumstances.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) namespace: String,
    pub(crate) correlation_id: Arc<str>,
    pub(crate) idempotency_key: Option<String>,
    /// Whose an idempotency key is: two callers may use the same.
    pub(crate) caller: String,
    /// Method and path, to which an idempotency key is bound.
    pub(crate) route: String,
}

impl Context {
    /// A message for a service behind, with what ties it to this request. Its trace goes with every call.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Ok(value) = MetadataValue::try_from(&*self.correlation_id) {
            request.metadata_mut().insert(CORRELATION_ID, value);
        }
        request
    }
}

impl FromRequestParts<Arc<App>> for Context {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let principal = principal(&parts.extensions)?;
        let namespace = namespace(&parts.headers, &principal)?.to_string();
        let idempotency_key = match header(&parts.headers, IDEMPOTENCY_KEY)? {
            // Elsewhere the header means nothing, so nothing about it can be wrong.
            Some(text) if parts.method == Method::POST => Some(word::<words::Key>("Idempotency-Key", text)?.0),
            Some(_) | None => None,
        };
        let ids = parts.extensions.get::<Ids>().ok_or_else(|| Problem::internal("a request without ids"))?;
        Ok(Self {
            namespace,
            correlation_id: Arc::clone(&ids.correlation),
            idempotency_key,
            caller: principal.to_string(),
            route: format!("{} {}", parts.method, parts.uri.path()),
        })
    }
}

/// Who asks, as admission has found out.
pub(crate) fn principal(extensions: &Extensions) -> Result<Arc<Principal>, Problem> {
    extensions.get::<Arc<Principal>>().cloned().ok_or_else(crate::auth::unauthenticated)
}

/// The namespace that is asked for: where the header says nothing, the one that the credential is bound to, or `default`.
pub(crate) fn namespace(headers: &HeaderMap, principal: &Principal) -> Result<Namespace, Problem> {
    let asked = match header(headers, NAMESPACE)? {
        Some(text) => {
            let name = word::<words::Name>("X-Namespace", text)?.0;
            Namespace::from_field(&name).map_err(|error| Problem::field("X-Namespace", "invalid_value", error))?
        }
        None => principal.namespace().cloned().unwrap_or_default(),
    };
    reach(principal, &asked)?;
    Ok(asked)
}

/// Refuses where a credential is bound to another namespace.
pub(crate) fn reach(principal: &Principal, namespace: &Namespace) -> Result<(), Problem> {
    if principal.reaches(namespace) {
        return Ok(());
    }
    let detail = "this credential is bound to another namespace";
    Err(Problem::new(StatusCode::FORBIDDEN, "namespace_forbidden", detail))
}

/// A header that comes at most once, as text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field(name, "duplicate_field", "must come once"));
    }
    let text = value.to_str().map_err(|_| Problem::field(name, "invalid_value", "must be visible ASCII characters"))?;
    Ok(Some(text))
}

/// A header or parameter of a kind that is checked.
pub(crate) fn word<T: std::str::FromStr<Err = words::Refused>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|refused| Problem::field(name, "invalid_value", refused))
}
