//! Answers that go on for long: they end when whoever asked for them may not come in any more.

use std::{future::Future, sync::Arc, time::Duration};

use axum::extract::FromRequestParts;
use http::{HeaderMap, header, request::Parts};
use tokio::time::{Instant, sleep};

use crate::{
    app::App,
    auth::{API_KEY, Denied},
    context::Ids,
    problem::Problem,
};

/// How often it is asked. What is remembered of a credential may be as old as that besides: see
/// [`REMEMBERED`](crate::auth::keys::REMEMBERED).
const EVERY: Duration = Duration::from_secs(2);
/// How long an answer goes on while it cannot be found out whether it may: a database that is away for a moment ends nothing.
const IN_DOUBT: Duration = Duration::from_mins(5);

/// With what an answer was asked for. No answer that goes on for long is made without it.
#[derive(Clone)]
pub(crate) struct Lasting {
    app: Arc<App>,
    /// The headers that credentials come in.
    shown: HeaderMap,
    request_id: Arc<str>,
}

impl Lasting {
    /// Names the request that is answered.
    pub(super) fn request_id(&self) -> Arc<str> {
        Arc::clone(&self.request_id)
    }

    /// Refuses to go on where the credential is good no more, or where that cannot be found out.
    pub(super) async fn check(&self) -> Result<(), Problem> {
        self.app.auth.identify(&self.shown).await.map(drop).map_err(Problem::from)
    }

    /// Waits until the credential is good no more, and says why. Cancel-safe.
    pub(super) async fn ended(self) -> Problem {
        ended(async || self.app.auth.identify(&self.shown).await.map(drop)).await
    }
}

async fn ended<F: Future<Output = Result<(), Denied>>>(ask: impl Fn() -> F) -> Problem {
    let mut certain_at = Instant::now();
    loop {
        sleep(EVERY).await;
        match ask().await {
            Ok(()) => certain_at = Instant::now(),
            Err(Denied::Failed(_)) if certain_at.elapsed() < IN_DOUBT => {}
            Err(denied) => return denied.into(),
        }
    }
}

impl FromRequestParts<Arc<App>> for Lasting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let ids = parts.extensions.get::<Ids>().ok_or_else(|| Problem::internal("a request without ids"))?;
        let names = [http::HeaderName::from_static(API_KEY), header::AUTHORIZATION];
        let shown = names.into_iter().filter_map(|name| parts.headers.get(&name).cloned().map(|value| (name, value)));
        Ok(Self { app: Arc::clone(app), shown: shown.collect(), request_id: Arc::clone(&ids.request) })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::atomic::{AtomicBool, Ordering},
    };

    use errors::Error;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_with_its_credential_and_after_five_minutes_of_doubt() {
        let begun = Instant::now();
        let asked = ended(|| ready(if begun.elapsed() < EVERY * 3 { Ok(()) } else { Err(Denied::Nobody) }));
        assert_eq!(asked.await.code(), "unauthenticated");
        assert_eq!(begun.elapsed(), EVERY * 3);

        let away = || Denied::Failed(Error::unavailable("database_unavailable", "it is away"));
        let (begun, is_back) = (Instant::now(), AtomicBool::new(false));
        let asked = ended(|| {
            // Once, short of the end of the patience: that counts from there anew.
            let is_good = begun.elapsed() >= IN_DOUBT.saturating_sub(EVERY) && !is_back.swap(true, Ordering::Relaxed);
            ready(if is_good { Ok(()) } else { Err(away()) })
        });
        assert_eq!(asked.await.code(), "database_unavailable");
        assert_eq!(begun.elapsed(), (IN_DOUBT * 2).saturating_sub(EVERY));
    }
}
