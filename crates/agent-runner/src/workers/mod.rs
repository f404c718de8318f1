//! What a runner does by itself.

pub(crate) mod defaults;
pub(crate) mod watch;

use std::time::Duration;

use backon::ExponentialBuilder;

/// Jittered, from 50 ms to 5 s, for ever.
const fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
}
