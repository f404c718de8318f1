//! What was found out of credentials a moment ago, and is believed for [`FOR`]; unless something was revoked here since.
//!
//! A question to the database that began before a revocation may be answered after it, with what was before. So what is found belongs
//! to the generation in which it was asked for, and a revocation begins the next one: whoever asks then neither gets what is
//! remembered, nor waits for a question that is under way.

use std::{
    future::Future,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use errors::Error;

/// How long it is believed without asking the database: so long may what was revoked still open elsewhere.
pub(crate) const FOR: Duration = Duration::from_secs(5);
/// How many are remembered.
const MOST: u64 = 10_000;
/// Those with a generation in common: what is forgotten of one is asked for again of so small a part of all.
const PARTS: usize = 256;

pub(super) struct Remembered<T> {
    found: moka::future::Cache<(u64, String), T>,
    generations: [AtomicU64; PARTS],
    hasher: RandomState,
}

impl<T: Clone + Send + Sync + 'static> Default for Remembered<T> {
    fn default() -> Self {
        let found = moka::future::Cache::builder().max_capacity(MOST).time_to_live(FOR).build();
        Self { found, generations: [const { AtomicU64::new(0) }; PARTS], hasher: RandomState::new() }
    }
}

impl<T: Clone + Send + Sync + 'static> Remembered<T> {
    /// What is remembered by this name, or else what is found. Those who ask at once ask together.
    pub(super) async fn get(&self, name: &str, find: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let generation = self.generation(name).load(Ordering::Acquire);
        let found = self.found.try_get_with((generation, name.to_owned()), find).await;
        found.map_err(|error: Arc<Error>| Error::clone(&error))
    }

    /// Nothing that was asked for until now is believed any more: it was changed.
    pub(super) fn forget(&self, name: &str) {
        self.generation(name).fetch_add(1, Ordering::AcqRel);
    }

    /// As [`forget`](Self::forget), of all.
    pub(super) fn forget_all(&self) {
        for generation in &self.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn generation(&self, name: &str) -> &AtomicU64 {
        &self.generations[self.hasher.hash_one(name) as usize % PARTS]
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    type Forget = fn(&Remembered<&'static str>);

    #[tokio::test]
    async fn what_was_asked_for_before_a_revocation_is_believed_by_nobody_who_comes_after_it() {
        let ways: [Forget; 2] = [|remembered| remembered.forget("a"), |remembered| remembered.forget_all()];
        for forget in ways {
            let remembered = Remembered::default();
            let (answer, answered) = oneshot::channel::<()>();
            let mut early = Box::pin(remembered.get("a", async {
                answered.await.unwrap();
                Ok("good")
            }));
            assert!((&mut early).now_or_never().is_none(), "the database is asked");
            forget(&remembered);
            let meanwhile = remembered.get("a", async { Ok("revoked") }).now_or_never();
            assert_eq!(meanwhile.expect("it waits for no question of before").unwrap(), "revoked");
            answer.send(()).unwrap();
            assert_eq!(early.await.unwrap(), "good", "whoever has asked before came before");
            let late = remembered.get("a", async { panic!("it is remembered by now") }).await;
            assert_eq!(late.unwrap(), "revoked");
        }
    }

    #[tokio::test]
    async fn what_is_found_is_remembered_and_what_fails_is_not() {
        let remembered = Remembered::default();
        let failed = remembered.get("a", async { Err(Error::unavailable("database_unavailable", "it is away")) }).await;
        assert_eq!(failed.unwrap_err().reason, "database_unavailable");
        for _ in 0..2 {
            assert_eq!(remembered.get("a", async { Ok(1) }).await.unwrap(), 1);
        }
        assert_eq!(remembered.get("a", async { Ok(2) }).await.unwrap(), 1);
        assert_eq!(remembered.get("b", async { Ok(2) }).await.unwrap(), 2);
    }
}
