//! `Idempotency-Key`: a POST that creates something can be sent again without creating it twice.
//!
//! A record binds a key of a caller, within its namespace, to a route and to the hash of a body. It is written **before** the service
//! behind is called, with the id that the new thing will have; since creations there are idempotent by id, a crash between
//! the two, or two requests at once, lead to the same thing. Answers of successes are kept and given again; a failure
//! keeps only the id, so that the next try may succeed. Requests without a key touch no table.

mod store;

use std::{fmt::Display, future::Future, str::FromStr, sync::Arc, time::Duration};

use domain::Clock;
use http::StatusCode;
use lifecycle::crash_point;

use self::store::{Binding, Kept, Outcome};
pub(crate) use self::store::{Store, over};
use crate::{context::Context, problem::Problem, reply::Reply};

/// How often expired records are removed.
const JANITOR_EVERY: Duration = Duration::from_mins(5);

/// The records, and how long they hold.
pub(crate) struct Idempotency {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ttl: Duration,
}

impl Idempotency {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        Self { store, clock, ttl }
    }

    /// Creates something once per key. `fresh` is the id that it gets where the key is new or absent; `create` gets the id
    /// that counts, and must be idempotent by it.
    pub(crate) async fn once<I, F>(
        &self,
        context: &Context,
        body: &[u8],
        fresh: I,
        create: impl FnOnce(I) -> F,
    ) -> Result<Reply, Problem>
    where
        I: Display + FromStr,
        F: Future<Output = Result<Reply, Problem>>,
    {
        let Some(key) = &context.idempotency_key else { return create(fresh).await };
        let now = self.clock.now();
        // No caller's name has a space in it.
        let key = format!("{} {key}", context.caller);
        let binding = Binding {
            namespace: &context.namespace,
            key: &key,
            route: &context.route,
            body_hash: *blake3::hash(body).as_bytes(),
        };
        let reserved = match self.store.reserve(&binding, &fresh.to_string(), now, now + self.ttl).await? {
            Outcome::Reserved => fresh,
            Outcome::Bound(Kept { reply: Some(reply), .. }) => return Ok(reply),
            Outcome::Bound(Kept { id, .. }) => {
                id.parse().map_err(|_| Problem::internal(format!("a record of idempotency holds the id {id:?}")))?
            }
            Outcome::Other => return Err(reused()),
        };
        let id = reserved.to_string();
        crash_point("gateway.idempotency.reserved");
        let reply = create(reserved).await?;
        crash_point("gateway.idempotency.created");
        // The first answer counts, also where two requests came at once.
        let kept = self.store.keep(&binding, &id, &reply).await?;
        crash_point("gateway.idempotency.kept");
        Ok(kept.unwrap_or(reply))
    }

    /// Removes expired records for as long as the process lives; a failure is repaired by the next round.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(JANITOR_EVERY).await;
            match self.store.remove_expired(self.clock.now()).await {
                Ok(0) => {}
                Ok(removed) => tracing::debug!(removed, "removed expired idempotency records"),
                Err(error) => {
                    tracing::warn!(error = errors::chain(&error), "cannot remove expired idempotency records");
                }
            }
        }
    }
}

fn reused() -> Problem {
    let detail = "this Idempotency-Key belongs to another request: another route or another body; use a new key";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail).with_violations(vec![
        errors::Violation::new(
            "Idempotency-Key",
            "idempotency_key_reused",
            "was used for another route or another body",
        ),
    ])
}
