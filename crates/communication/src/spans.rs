//! The spans of tasks and messages on their way through.
//!
//! A task goes on with the trace of its execution. A delivery of a message begins a trace of its own, which links to the
//! sender's: it may come long after, and several times.

use std::sync::Arc;

use tracing::{Level, Span, field::Empty};

use crate::app::{Draft, Envelope, Task};

/// A task has come from its orchestrator.
pub(crate) fn published(task: &mut Task) {
    let span = tracing::info_span!(
        parent: None,
        "communication.task.publish",
        otel.kind = "producer",
        messaging.operation.name = "publish",
        messaging.destination.name = %task.target,
        task.id = &*task.id,
        namespace = %task.namespace,
    );
    if !span.is_disabled() {
        trace::adopt(&span, &task.traceparent);
        task.traceparent = trace::traceparent_of(&span);
    }
}

/// A task goes out to an agent; answers with what the agent goes on with.
pub(crate) fn delivered(task: &Task, delivery: u32) -> String {
    let span = tracing::info_span!(
        parent: None,
        "communication.task.deliver",
        otel.kind = "consumer",
        messaging.operation.name = "deliver",
        messaging.destination.name = %task.target,
        task.id = &*task.id,
        task.delivery = delivery,
        namespace = %task.namespace,
    );
    if span.is_disabled() {
        return task.traceparent.clone();
    }
    trace::adopt(&span, &task.traceparent);
    trace::traceparent_of(&span)
}

/// A result comes from an agent, which may not say in which trace it has worked; then it is that of the task. None at all
/// where nobody knows: it would tear the trace of what follows.
pub(crate) fn result<'a>(task: &str, said: &'a str, known: impl FnOnce() -> Option<&'a str>) -> Span {
    if !tracing::span_enabled!(Level::INFO) {
        return Span::none();
    }
    let traceparent = if said.is_empty() { known().unwrap_or_default() } else { said };
    if traceparent.is_empty() {
        return Span::none();
    }
    let span = tracing::info_span!(parent: None, "communication.task.result", task.id = task);
    trace::adopt(&span, traceparent);
    span
}

/// A message is accepted, and goes on with what is noted in it.
pub(crate) fn sent(draft: &mut Draft) -> Span {
    let span = tracing::info_span!(
        "communication.message.send",
        otel.kind = "producer",
        messaging.operation.name = "send",
        messaging.destination.name = %draft.to,
        message.id = Empty,
        namespace = %draft.namespace,
    );
    if span.is_disabled() {
        if draft.traceparent.is_empty() {
            draft.traceparent = trace::traceparent();
        }
        return span;
    }
    if let Some(id) = draft.id {
        span.record("message.id", tracing::field::display(id));
    }
    trace::adopt(&span, &draft.traceparent);
    draft.traceparent = trace::traceparent_of(&span);
    span
}

/// A message goes out to an agent; answers with what the agent goes on with.
pub(crate) fn message_delivered(envelope: &Envelope, delivery: u32) -> String {
    let message = &envelope.message;
    let span = tracing::info_span!(
        parent: None,
        "communication.message.deliver",
        otel.kind = "consumer",
        messaging.operation.name = "deliver",
        messaging.destination.name = %message.agent,
        message.id = %message.id,
        message.delivery = delivery,
        namespace = %message.namespace,
    );
    if span.is_disabled() {
        return message.traceparent.clone();
    }
    trace::link(&span, &message.traceparent);
    trace::traceparent_of(&span)
}

/// Messages are recorded in one commit: a part of the first one's trace, with links to the others'.
pub(crate) fn commit(messages: &[Arc<Envelope>]) -> Span {
    /// More tell nothing more.
    const LINKS: usize = 32;
    let Some((first, others)) = messages.split_first() else { return Span::none() };
    let span = tracing::info_span!(parent: None, "communication.commit", messages = messages.len());
    trace::adopt(&span, &first.message.traceparent);
    for other in others.iter().take(LINKS) {
        trace::link(&span, &other.message.traceparent);
    }
    span
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const AGENTS: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const TASKS: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_result_stays_in_the_trace_also_where_its_agent_does_not_trace() {
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let _traced = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        let trace = |span: &Span| trace::traceparent_of(span).get(3..35).unwrap_or_default().to_owned();
        assert_eq!(trace(&result("t", AGENTS, || Some(TASKS))), AGENTS[3..35]);
        assert_eq!(trace(&result("t", "", || Some(TASKS))), TASKS[3..35]);
        for unknown in [None, Some("")] {
            assert!(result("t", "", || unknown).is_disabled());
        }
    }
}
