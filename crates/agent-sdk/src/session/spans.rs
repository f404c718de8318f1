//! The spans in which an agent works: what its handlers trace is below them.

use contracts::communication::v1 as proto;
use tracing::{Span, field::Empty};

use crate::{Agent, Message};

/// Work on a task.
pub(super) fn task(agent: &Agent, task: &proto::Task) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "agent.task",
        otel.status_code = Empty,
        error.type = Empty,
        agent = agent.label(),
        execution.id = task.execution_id,
        step.id = task.step_id,
        task.id = task.id,
        task.action = task.action,
        task.attempt = task.attempt,
    );
    trace::adopt(&span, &task.traceparent);
    span
}

/// Work on a message.
pub(super) fn message(agent: &Agent, message: &Message) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "agent.message",
        otel.status_code = Empty,
        error.type = Empty,
        agent = agent.label(),
        message.id = message.id,
        message.type = message.kind,
    );
    trace::adopt(&span, &message.traceparent);
    span
}

/// What the handler passes on is its own span, where a tracer records that; otherwise what came.
pub(super) fn go_on(span: &Span, traceparent: &mut String) {
    let own = trace::traceparent_of(span);
    if !own.is_empty() {
        *traceparent = own;
    }
}

/// The work has not gone well, and why.
pub(super) fn fail(span: &Span, kind: &str) {
    span.record("otel.status_code", "error");
    span.record("error.type", kind);
}
