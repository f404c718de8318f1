//! Waiting for a condition.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long a test waits for something that must happen: far longer than it takes, so that a slow machine does not fail it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Asks again and again until the answer is `Ok`; gives up after 90 seconds with the last `Err`.
///
/// # Panics
/// When patience runs out.
pub async fn eventually<T, E: Debug, F: Future<Output = Result<T, E>>>(what: &str, probe: impl FnMut() -> F) -> T {
    within(PATIENCE, what, probe).await
}

/// [`eventually`] with a patience of its own.
///
/// # Panics
/// When patience runs out.
pub async fn within<T, E: Debug, F: Future<Output = Result<T, E>>>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(last) if begun.elapsed() > patience => panic!("{what}: not within {patience:?}; last seen: {last:?}"),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}
