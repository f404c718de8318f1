//! When the next group commit begins.

use std::time::Duration;

/// How long a small commit waits under load: about as long as it takes.
const MOMENT: Duration = Duration::from_millis(1);
/// Callers with a part in the commits of all replicas from which on there is load: fewer wait for each commit longer than it would
/// save.
const LOAD: usize = 24;
/// Callers with a part in a commit from which on it is worth its cost.
const WORTH_IT: usize = 64;

/// Paces the commits of one writer, where several replicas write to one database: a small commit that follows a large one waits a
/// moment for more. Each replica sees only its share of the callers, so its commits are smaller, and all replicas share the cost of
/// their number.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    is_shared: bool,
    before: usize,
}

impl Pace {
    /// A writer's pace. `is_shared`: there may be others on the same database.
    pub const fn new(is_shared: bool) -> Self {
        Self { is_shared, before: 0 }
    }

    /// Before a commit in which so many callers have a part: is it to wait for more? Without load it never is. `replicas`: how many
    /// share the load, as far as this one can tell. Cancel-safe.
    pub async fn gather(&self, callers: usize, replicas: usize) {
        if self.is_to_wait(callers, replicas) {
            tokio::time::sleep(MOMENT).await;
        }
    }

    fn is_to_wait(&self, callers: usize, replicas: usize) -> bool {
        self.is_shared && self.before * replicas >= LOAD && callers < WORTH_IT
    }

    /// A commit begins in which so many callers have a part.
    pub const fn begin(&mut self, callers: usize) {
        self.before = callers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_small_commit_after_a_large_one_waits_and_only_among_replicas() {
        let mut pace = Pace::new(true);
        assert!(!pace.is_to_wait(1, 1), "the first");
        pace.begin(LOAD - 1);
        assert!(!pace.is_to_wait(1, 1), "no load");
        pace.begin(LOAD);
        assert!(pace.is_to_wait(1, 1));
        assert!(!pace.is_to_wait(WORTH_IT, 1));
        pace.begin(1);
        assert!(!pace.is_to_wait(1, 1), "the load is over");
        pace.begin(LOAD / 2);
        assert!(!pace.is_to_wait(1, 1), "no load where there is no other");
        assert!(pace.is_to_wait(1, 2), "another has as much");

        let mut alone = Pace::new(false);
        alone.begin(LOAD);
        assert!(!alone.is_to_wait(1, 1));
    }
}
