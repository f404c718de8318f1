//! What is measured. `workflow` is the name of a workflow and `step` the id of a step in its definition: both are as many as
//! people define, and no id of an execution is ever a label.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use workflow::{Invariant, Status};

/// Executions that ended (or were accepted, `status="started"`), by `workflow_type` and `status`.
const EXECUTIONS: &str = "workflow_executions_total";
/// From acceptance to end, in seconds, by `workflow_type`.
const DURATION: &str = "workflow_duration_seconds";
/// Steps that failed for good, by `workflow_type` and `step_name`.
const STEP_FAILURES: &str = "workflow_step_failures_total";
/// Executions that have not ended.
const LIVE: &str = "orchestrator_live_executions";
/// Shards that this replica writes.
const SHARDS: &str = "orchestrator_shards";
/// What nothing would wake, at the last sweep of each `worker`; must stay zero (I7).
const STUCK: &str = "orchestrator_stuck_executions";
/// Repairs of the sweeper.
const REPAIRS: &str = "orchestrator_repairs_total";
/// Invariants that did not hold, by `invariant` (`I1` to `I8`); must stay zero.
const VIOLATIONS: &str = "orchestrator_invariant_violations_total";
/// Executions whose log has become nearly too long, by `workflow_type`.
const LONG_HISTORIES: &str = "orchestrator_long_histories_total";
/// Rows of the log with events of earlier runs of executions that were removed.
const PRUNED: &str = "orchestrator_pruned_rows_total";
/// Deciding what a worker took in at once, in seconds: the engine's time, with events made into bytes.
const DECIDE_SECONDS: &str = "orchestrator_decide_seconds";
/// One commit of the log, in seconds.
const COMMIT_SECONDS: &str = "orchestrator_commit_seconds";
/// Events of one commit.
const COMMIT_EVENTS: &str = "orchestrator_commit_events";
/// Commits that failed.
const COMMIT_FAILURES: &str = "orchestrator_commit_failures_total";
/// Putting what was committed in its place, once, in seconds.
const SETTLE_SECONDS: &str = "orchestrator_settle_seconds";
/// Streams to replicas of communication that were opened.
const EXCHANGES: &str = "orchestrator_exchanges_total";
/// Tasks that no replica of communication had any more, and that were dispatched again.
const TASKS_LOST: &str = "orchestrator_tasks_lost_total";
/// Tasks that two agents got, of which one was told to stop.
const SECOND_HAND_OVERS: &str = "orchestrator_second_hand_overs_total";

pub(crate) fn started(workflow: &str) {
    counter!(EXECUTIONS, "workflow_type" => workflow.to_owned(), "status" => "started").increment(1);
}

pub(crate) fn ended(workflow: &str, status: Status, took: Duration) {
    let status = crate::app::status_text(status);
    counter!(EXECUTIONS, "workflow_type" => workflow.to_owned(), "status" => status).increment(1);
    histogram!(DURATION, "workflow_type" => workflow.to_owned()).record(took.as_secs_f64());
}

pub(crate) fn step_failed(workflow: &str, step: &str) {
    counter!(STEP_FAILURES, "workflow_type" => workflow.to_owned(), "step_name" => step.to_owned()).increment(1);
}

pub(crate) fn live(executions: usize) {
    gauge!(LIVE).set(executions as f64);
}

pub(crate) fn shards(held: usize) {
    gauge!(SHARDS).set(held as f64);
}

pub(crate) fn stuck(worker: usize, executions: usize) {
    gauge!(STUCK, "worker" => worker.to_string()).set(executions as f64);
}

pub(crate) fn repaired(repairs: u64) {
    counter!(REPAIRS).increment(repairs);
}

pub(crate) fn violated(invariant: Invariant, times: u64) {
    counter!(VIOLATIONS, "invariant" => invariant.as_str()).increment(times);
}

pub(crate) fn long_history(workflow: &str) {
    counter!(LONG_HISTORIES, "workflow_type" => workflow.to_owned()).increment(1);
}

pub(crate) fn pruned(rows: u64) {
    counter!(PRUNED).increment(rows);
}

pub(crate) fn decided(took: Duration) {
    histogram!(DECIDE_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn committed(events: usize, took: Duration) {
    histogram!(COMMIT_SECONDS).record(took.as_secs_f64());
    histogram!(COMMIT_EVENTS).record(events as f64);
}

pub(crate) fn commit_failed() {
    counter!(COMMIT_FAILURES).increment(1);
}

pub(crate) fn settled(took: Duration) {
    histogram!(SETTLE_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn exchange_opened() {
    counter!(EXCHANGES).increment(1);
}

pub(crate) fn task_lost() {
    counter!(TASKS_LOST).increment(1);
}

pub(crate) fn second_hand_over() {
    counter!(SECOND_HAND_OVERS).increment(1);
}
