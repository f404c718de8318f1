//! What this process uses of its machine, as Prometheus' conventions name it: `process_cpu_seconds_total`,
//! `process_resident_memory_bytes`, `process_threads`, file descriptors and the time of its start; and on Linux
//! `process_io_write_bytes_total`, what it had written to disks.
//!
//! Where the program counts them, `process_allocations_total` and `process_allocated_bytes_total` besides.
//!
//! Read where metrics are asked for, and at no other time.

use std::sync::OnceLock;

use metrics_process::{Collector, collector};

/// Bytes that this process caused to be written to disks; what is overwritten before it is flushed counts once. Only Linux says so.
const WRITTEN: &str = "process_io_write_bytes_total";

const ALLOCATIONS: &str = "process_allocations_total";
const ALLOCATED: &str = "process_allocated_bytes_total";

static COUNTER: OnceLock<fn() -> Allocations> = OnceLock::new();

/// What was asked of the allocator since the start, whether or not it was given back.
#[derive(Clone, Copy, Debug)]
pub struct Allocations {
    /// How often.
    pub count: u64,
    /// How much.
    pub bytes: u64,
}

/// Has what `read` says told with the metrics. The first call counts.
pub fn count_allocations(read: fn() -> Allocations) {
    COUNTER.get_or_init(|| read);
}

pub(crate) fn describe() {
    Collector::default().describe();
}

/// Brings the metrics up to date. What the machine does not tell stays as it was.
pub(crate) fn record() {
    Collector::default().collect();
    if let Some(bytes) = written_bytes() {
        metrics::counter!(WRITTEN).absolute(bytes);
    }
    if let Some(Allocations { count, bytes }) = COUNTER.get().map(|read| read()) {
        metrics::counter!(ALLOCATIONS).absolute(count);
        metrics::counter!(ALLOCATED).absolute(bytes);
    }
}

/// Processor time that this process has taken, in seconds, where the machine tells.
pub fn cpu_seconds() -> Option<f64> {
    collector::collect().cpu_seconds_total
}

#[cfg(target_os = "linux")]
fn written_bytes() -> Option<u64> {
    Some(procfs::process::Process::myself().ok()?.io().ok()?.write_bytes)
}

#[cfg(not(target_os = "linux"))]
const fn written_bytes() -> Option<u64> {
    None
}
