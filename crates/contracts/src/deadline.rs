//! Until when the work at hand has to be done: it shrinks along a chain of calls, and never grows.
//!
//! Whoever waits for a call does so with [`within`]. The calls that are made meanwhile, by the same task, find out with
//! [`current`] how long anybody will wait for their answer: those over the network tell it to the server, which works under
//! it with [`until`], and so do the calls that it makes in turn.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, error::Elapsed, timeout_at};

tokio::task_local! {
    static CURRENT: Instant;
}

/// When nobody waits any more for what this task does; nothing where somebody waits for ever.
pub fn current() -> Option<Instant> {
    CURRENT.try_with(|deadline| *deadline).ok()
}

/// Works for at most so long, and no longer than what is done already allows.
pub async fn within<F: Future>(time: Duration, work: F) -> Result<F::Output, Elapsed> {
    until(Instant::now() + time, work).await
}

/// Works until a deadline, and no longer than what is done already allows. The work is dropped where it stands then.
pub async fn until<F: Future>(deadline: Instant, work: F) -> Result<F::Output, Elapsed> {
    let deadline = current().map_or(deadline, |outer| outer.min(deadline));
    timeout_at(deadline, CURRENT.scope(deadline, work)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_shrinks_and_never_grows() {
        assert_eq!(current(), None);
        let work = async {
            let outer = current().unwrap();
            let inner = within(Duration::from_secs(1), async { current() }).await.unwrap().unwrap();
            assert!(inner < outer);
            assert_eq!(within(Duration::from_hours(1), async { current() }).await.unwrap(), Some(outer));
            assert_eq!(current(), Some(outer));
        };
        within(Duration::from_mins(1), work).await.unwrap();
        assert_eq!(current(), None);
    }

    #[tokio::test]
    async fn work_past_its_deadline_is_dropped() {
        within(Duration::ZERO, std::future::pending::<()>()).await.unwrap_err();
    }
}
