//! Questions to the database about who somebody is: only so many at once, and nobody waits for long.
//!
//! They come before any other bound of requests, so whoever has many credentials that were good once could have all of the few
//! connections that there are. Each kind of credential has questions of its own: those that come in bodies keep no others waiting.

use std::{future::Future, time::Duration};

use errors::Error;
use tokio::sync::Semaphore;

/// Questions at once: twice as many as there are connections unless that is set otherwise.
const MOST: usize = 8;
/// Questions at once and of those who wait for one. One more is refused: after a restart all come at once, and more than that do not.
const MOST_WAITING: usize = 1_024;
/// How long one waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Lookups {
    asking: Semaphore,
    waiting: Semaphore,
    patience: Duration,
}

impl Default for Lookups {
    fn default() -> Self {
        Self { asking: Semaphore::new(MOST), waiting: Semaphore::new(MOST_WAITING), patience: PATIENCE }
    }
}

impl Lookups {
    pub(super) async fn ask<T>(&self, question: impl Future<Output = sqlx::Result<T>>) -> Result<T, Error> {
        let Ok(_waiting) = self.waiting.try_acquire() else { return Err(unavailable()) };
        let asking = async {
            let _asking = self.asking.acquire().await;
            question.await
        };
        match tokio::time::timeout(self.patience, asking).await {
            Ok(answer) => answer.map_err(::store::error),
            Err(_) => Err(unavailable()),
        }
    }
}

fn unavailable() -> Error {
    let message = "the database cannot be asked now who somebody is; see whether it runs, and how busy it is";
    Error::unavailable("database_unavailable", message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_so_many_ask_at_once_and_none_of_them_for_long() {
        let lookups = Lookups { patience: Duration::from_millis(200), ..Lookups::default() };
        let asked = AtomicUsize::new(0);
        let stuck = || {
            lookups.ask(async {
                asked.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<sqlx::Result<()>>().await
            })
        };
        let mut asking: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(stuck())).collect();
        for one in &mut asking {
            assert!(one.now_or_never().is_none(), "it waits");
        }
        assert_eq!(asked.load(Ordering::Relaxed), MOST, "the others have not asked yet");
        let refused = stuck().now_or_never().expect("one more does not").unwrap_err();
        assert_eq!(refused.reason, "database_unavailable");
        let refused = futures::future::join_all(asking).await;
        assert!(
            refused.iter().all(|refused| refused.as_ref().is_err_and(|error| error.reason == "database_unavailable"))
        );
        assert!(lookups.ask(async { Ok(()) }).await.is_ok());
    }
}
