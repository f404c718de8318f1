//! What belongs to a request, for whoever works on it.

use std::sync::Arc;

use http::HeaderMap;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceId},
};

use crate::context::extracted;

/// The header, in HTTP and in gRPC, with what ties requests of one undertaking together.
pub const CORRELATION_ID: &str = "x-correlation-id";
/// A longer one is dropped: it is in every log line.
const LONGEST: usize = 256;

tokio::task_local! {
    static SCOPE: Scope;
}

/// What a request came with. What is called within [`Scope::around`] passes it on, and log lines carry it.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub(crate) correlation: Option<Arc<str>>,
    remote: Option<SpanContext>,
}

impl Scope {
    /// What the headers of a request say.
    pub fn of(headers: &HeaderMap) -> Self {
        let correlation = headers.get(CORRELATION_ID).and_then(|value| value.to_str().ok());
        let correlation = correlation.filter(|id| !id.is_empty() && id.len() <= LONGEST).map(Arc::from);
        Self { correlation, remote: extracted(headers) }
    }

    /// The same with another correlation id.
    #[must_use]
    pub fn correlated(self, correlation: Arc<str>) -> Self {
        Self { correlation: Some(correlation), ..self }
    }

    /// Does it say nothing?
    pub(crate) const fn is_empty(&self) -> bool {
        self.correlation.is_none() && self.remote.is_none()
    }

    pub(crate) const fn is_in_trace(&self) -> bool {
        self.remote.is_some()
    }

    /// The work on the request. What it spawns is outside.
    pub fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        SCOPE.scope(self, work)
    }
}

/// What names the present work in a log line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The trace.
    pub trace: Option<TraceId>,
    /// The span that is entered, where one is recorded.
    pub span: Option<SpanId>,
    /// The request's correlation id.
    pub correlation: Option<Arc<str>>,
}

/// What names the present work.
pub fn ids() -> Ids {
    let entered = Context::map_current(|context| {
        let context = context.span().span_context().clone();
        context.is_valid().then(|| (context.trace_id(), context.span_id()))
    });
    let (correlation, remote) = SCOPE
        .try_with(|scope| (scope.correlation.clone(), scope.remote.as_ref().map(SpanContext::trace_id)))
        .unwrap_or_default();
    Ids { trace: entered.map(|(trace, _)| trace).or(remote), span: entered.map(|(_, span)| span), correlation }
}

pub(crate) fn remote() -> Option<SpanContext> {
    SCOPE.try_with(|scope| scope.remote.clone()).ok().flatten()
}

pub(crate) fn correlation() -> Option<Arc<str>> {
    SCOPE.try_with(|scope| scope.correlation.clone()).ok().flatten()
}
