//! The spans of an execution: all in one trace, however long it lives and whichever process goes on with it, since its first
//! event keeps where the trace begins.
//!
//! `orchestrator.start` is the root of what the orchestrator does; tasks are its children, and what becomes of a task is below
//! the task: the result that comes back, and the commit that it leads to.

use domain::ExecutionId;
use tracing::{Span, field::Empty};
use workflow::{Execution, TaskOrder};

use crate::{app::StartCall, exchange::TaskUpdate};

/// An execution starts. It is to go on with what the call says, and else with the call's own trace.
pub(crate) fn start(id: ExecutionId, call: &mut StartCall) -> Span {
    let span = tracing::info_span!("orchestrator.start", execution.id = %id, namespace = %call.namespace);
    trace::adopt(&span, &call.traceparent);
    if !span.is_disabled() {
        call.traceparent = trace::traceparent_of(&span);
    } else if call.traceparent.is_empty() {
        call.traceparent = trace::traceparent();
    }
    span
}

/// An execution is read from its log: for its start, a look whether it is there, as a part of that; otherwise for itself.
pub(crate) fn load(id: ExecutionId, start: Option<&str>) -> Span {
    let span = tracing::info_span!(parent: None, "orchestrator.load", execution.id = %id);
    trace::adopt(&span, start.unwrap_or_default());
    span
}

/// An execution that was read for itself: refers to where its trace begins.
pub(crate) fn loaded(execution: &Execution) {
    trace::link(&Span::current(), execution.traceparent());
}

/// From a decision to its commit. A part of what led to it, or of the execution where time did.
pub(crate) fn commit(id: ExecutionId, execution: &Execution) -> Span {
    let span = tracing::info_span!("orchestrator.commit", execution.id = %id, otel.status_code = Empty);
    if !span.is_disabled() && Span::current().is_disabled() {
        trace::adopt(&span, execution.traceparent());
    }
    span
}

/// Several executions are committed at once: the statements are in the trace of the first, to which the others refer.
pub(crate) fn committed_together(spans: &[Span]) -> Span {
    let Some((first, others)) = spans.split_first() else { return Span::none() };
    if !others.is_empty() {
        let shared = trace::traceparent_of(first);
        for other in others {
            trace::link(other, &shared);
        }
    }
    first.clone()
}

/// The database has not taken it.
pub(crate) fn fail(span: &Span) {
    span.record("otel.status_code", "error");
}

/// A task goes out; answers with what it goes on with.
pub(crate) fn dispatch(id: ExecutionId, execution: &Execution, step_id: &str, order: &TaskOrder) -> String {
    let span = tracing::info_span!(
        parent: None,
        "orchestrator.task.dispatch",
        otel.kind = "producer",
        execution.id = %id,
        step.id = step_id,
        task.index = order.task.unit.index,
        task.attempt = order.task.attempt,
        task.action = order.action,
    );
    if span.is_disabled() {
        return execution.traceparent().to_owned();
    }
    trace::adopt(&span, execution.traceparent());
    trace::traceparent_of(&span)
}

/// The end of a task comes in.
pub(crate) fn result(execution: &Execution, update: &TaskUpdate) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "orchestrator.result",
        otel.kind = "consumer",
        execution.id = %update.execution,
        task.id = update.task_id,
    );
    let is_known = !update.traceparent.is_empty();
    trace::adopt(&span, if is_known { &update.traceparent } else { execution.traceparent() });
    span
}
