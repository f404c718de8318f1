//! What follows from a task's key alone, so that replays and replicas agree: how long its next attempt waits, and which child
//! execution it starts.

use std::time::Duration;

use domain::{ExecutionId, Timestamp};

use super::state::State;
use crate::{TaskKey, plan::Retry};

/// When the attempt after `attempts` is due: exponential, capped, and spread between half and the whole of itself by a hash
/// of the task, so that replays and replicas agree and crowds do not retry in step.
pub(super) fn backoff(retry: &Retry, execution: ExecutionId, task: TaskKey, attempts: u32) -> Duration {
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let longest = retry.max_interval.as_secs_f64();
    let whole = (retry.initial_interval.as_secs_f64() * retry.backoff.powi(exponent)).min(longest);
    let share = if retry.jitter { 0.5 + 0.5 * fraction(execution, task) } else { 1.0 };
    Duration::try_from_secs_f64(whole * share).unwrap_or(retry.max_interval)
}

/// From 0 to 1, evenly spread over tasks.
fn fraction(execution: ExecutionId, task: TaskKey) -> f64 {
    let hash = hash(execution, task);
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&hash[..4]);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// The id of the child execution that a task starts: the same each time.
fn child_id(execution: ExecutionId, created_at: Timestamp, task: TaskKey) -> ExecutionId {
    let hash = hash(execution, task);
    let mut bytes = [0; 16];
    bytes[..10].copy_from_slice(&hash[..10]);
    let millis = u64::try_from(created_at.as_micros() / 1_000).unwrap_or_default();
    ExecutionId::from_parts(millis, u128::from_le_bytes(bytes))
}

fn hash(execution: ExecutionId, task: TaskKey) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(execution.to_string().as_bytes());
    let index = task.unit.index.map_or(0, |index| index + 1);
    for number in [task.unit.frame, task.unit.step, index, task.purpose as u32, task.attempt] {
        hasher.update(&number.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

impl State {
    /// The child execution that a task starts.
    pub(super) fn child(&self, task: TaskKey) -> Option<ExecutionId> {
        let head = self.head.as_ref()?;
        Some(child_id(head.id, head.created_at, task))
    }
}
