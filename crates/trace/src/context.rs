//! Trace context as text, in and out of spans.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{SpanContext, TraceContextExt as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::scope;

const TRACEPARENT: &str = "traceparent";

/// The context to pass on from here, as a `traceparent`: that of the span that is entered, or else what came with the request.
/// Empty where there is neither.
pub fn traceparent() -> String {
    written(&current())
}

/// The context of a span, as a `traceparent`; empty where nobody records it.
pub fn traceparent_of(span: &Span) -> String {
    if span.is_disabled() { String::new() } else { written(&context_of(span)) }
}

/// Makes a span continue the trace that a `traceparent` names; one that names none changes nothing. Before the span is
/// entered for the first time.
pub fn adopt(span: &Span, traceparent: &str) {
    if !span.is_disabled()
        && let Some(remote) = parsed(traceparent)
    {
        set_parent(span, remote);
    }
}

/// The same with what headers say.
pub fn adopt_headers(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled()
        && let Some(remote) = extracted(headers)
    {
        set_parent(span, remote);
    }
}

/// Makes a span refer to the one that a `traceparent` names, in a trace of its own.
pub fn link(span: &Span, traceparent: &str) {
    if !span.is_disabled()
        && let Some(remote) = parsed(traceparent)
    {
        span.add_link(remote);
    }
}

fn set_parent(span: &Span, remote: SpanContext) {
    // It fails for a span that has begun, or that is recorded by something else than a tracer: then there is no trace to join.
    let _ = span.set_parent(Context::new().with_remote_span_context(remote));
}

/// Makes a span continue what came with the request, where no span around it does already.
pub(crate) fn continue_request(span: &Span) {
    if !span.is_disabled()
        && !Context::map_current(opentelemetry::trace::TraceContextExt::has_active_span)
        && let Some(remote) = scope::remote()
    {
        set_parent(span, remote);
    }
}

/// Writes into `headers` what is to be passed on from `span`; from here, where nobody records it.
pub(crate) fn inject(span: &Span, headers: &mut HeaderMap) {
    let context = if span.is_disabled() { current() } else { context_of(span) };
    if context.is_valid() {
        let context = Context::new().with_remote_span_context(context);
        TraceContextPropagator::new().inject_context(&context, &mut Headers(headers));
    }
}

/// What headers say; nothing where it is no trace context: a broken one is no reason to refuse work.
pub(crate) fn extracted(headers: &HeaderMap) -> Option<SpanContext> {
    headers.contains_key(TRACEPARENT).then(|| read(&ReadHeaders(headers))).flatten()
}

fn parsed(traceparent: &str) -> Option<SpanContext> {
    if traceparent.is_empty() { None } else { read(&Text(traceparent)) }
}

fn read(from: &dyn Extractor) -> Option<SpanContext> {
    // The library forgives much; W3C says to begin anew instead.
    from.get(TRACEPARENT).filter(|text| is_whole(text))?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), from);
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

/// Is there a trace here that something could be a part of?
pub(crate) fn is_in_trace() -> bool {
    current().is_valid()
}

/// `version-trace-parent-flags` in hex; a later version may say more.
fn is_whole(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_right = |(place, byte): (usize, &u8)| match place {
        2 | 35 | 52 => *byte == b'-',
        // The library takes a sign for a digit.
        _ => byte.is_ascii_hexdigit(),
    };
    bytes.len() >= 55
        && bytes[..55].iter().enumerate().all(is_right)
        && (bytes.len() == 55 || !text.starts_with("00-") && bytes[55] == b'-')
}

fn current() -> SpanContext {
    let entered = Context::map_current(|context| context.span().span_context().clone());
    if entered.is_valid() { entered } else { scope::remote().unwrap_or(entered) }
}

fn context_of(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

fn written(context: &SpanContext) -> String {
    if !context.is_valid() {
        return String::new();
    }
    let flags = u8::from(context.trace_flags().is_sampled());
    format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
}

struct Text<'a>(&'a str);

impl Extractor for Text<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

struct ReadHeaders<'a>(&'a HeaderMap);

impl Extractor for ReadHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        // A state is often empty, and then says nothing.
        if !value.is_empty()
            && let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value))
        {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOMEWHERE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_written_and_what_is_broken_is_nothing() {
        assert_eq!(written(&parsed(SOMEWHERE).unwrap()), SOMEWHERE);
        let unsampled = SOMEWHERE.replace("-01", "-00");
        assert_eq!(written(&parsed(&unsampled).unwrap()), unsampled);
        let signed = "00-+0a0aaa00000aa000a0aa0aa00aaa0aa-aa0aaaa00aa00a0a-00";
        for broken in
            ["", "00-1-2-01", signed, &SOMEWHERE[1..], &SOMEWHERE.to_uppercase(), &SOMEWHERE.replace('7', "\u{e9}")]
        {
            assert_eq!(parsed(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_span_that_nobody_records_has_no_context() {
        let span = tracing::info_span!("unrecorded");
        adopt(&span, SOMEWHERE);
        link(&span, SOMEWHERE);
        assert_eq!(traceparent_of(&span), "");
        assert_eq!(traceparent(), "");
    }

    /// What clients may write as `traceparent`.
    mod fuzz {
        use proptest::prelude::*;
        use testkit::fuzz::{cases, nearly, text};

        use super::super::{extracted, parsed, written};

        proptest! {
            #![proptest_config(cases(512))]

            #[test]
            fn a_context_that_is_read_is_written_the_same(said in prop_oneof![
                text(),
                nearly("0[0-9a-f]-[0-9a-f]{32}-[0-9a-f]{16}-0[01](-[a-z]{1,9})?"),
            ]) {
                if let Some(context) = parsed(&said) {
                    prop_assert_eq!(parsed(&written(&context)).map(|again| written(&again)), Some(written(&context)));
                    prop_assert_eq!(&written(&context)[3..52], &said[3..52]);
                }
            }

            #[test]
            fn any_headers_are_a_context_or_none(parent in any::<Vec<u8>>(), state in text()) {
                let mut headers = http::HeaderMap::new();
                if let Ok(value) = http::HeaderValue::from_bytes(&parent) {
                    headers.insert("traceparent", value);
                }
                if let Ok(value) = http::HeaderValue::from_str(&state) {
                    headers.insert("tracestate", value);
                }
                prop_assert_eq!(extracted(&headers), None);
            }
        }
    }
}
