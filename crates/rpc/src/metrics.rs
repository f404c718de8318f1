//! What clients measure of the calls between services.

/// Counter: calls that have ended, by `service` (whom), `rpc` and `code`. A stream ends here when it is open.
pub(crate) const CALLS: &str = "troupe_rpc_calls_total";
/// Histogram, seconds: from the call to the beginning of its answer, retries included, by `service` and `rpc`.
pub(crate) const SECONDS: &str = "troupe_rpc_call_duration_seconds";
/// Counter: calls sent once more, by `service` and `why` (`unsent`: nobody had seen it; `unanswered`: its fate is unknown, and
/// the RPC may be repeated).
pub(crate) const RETRIES: &str = "troupe_rpc_retries_total";
/// Counter: calls that were refused here, by `service` and `why` (`circuit`: no replica answers; `bulkhead`: too many at once).
pub(crate) const REFUSED: &str = "troupe_rpc_refused_total";
/// Gauge: replicas by `service` and `circuit` (`closed`, `half_open`, `open`).
pub(crate) const REPLICAS: &str = "troupe_rpc_replicas";
/// Counter: calls that the door of this process has refused for who made them, by `outcome` (`noted`: on its way into the audit log;
/// `omitted`: there were too many).
pub(crate) const DENIED: &str = "troupe_rpc_denied_total";
