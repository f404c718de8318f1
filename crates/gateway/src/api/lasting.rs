//! Answers that go on for long: they end when whoever asked for them may not come in any more.

use std::{future::Future, sync::Arc, time::Duration};

use axum::extract::FromRequestParts;
use errors::Error;
use http::{HeaderMap, header, request::Parts};
use tokio::time::{Instant, error::Elapsed, sleep, timeout};

use crate::{
    app::App,
    auth::{API_KEY, Denied},
    context::Ids,
    problem::Problem,
};

/// How long one question may take; what gets no answer is as uncertain as where the database is away.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked. What is remembered of a credential may be as old as that besides: see
/// [`FOR`](crate::auth::remembered::FOR).
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
    known: Known,
}

impl Lasting {
    /// Names the request that is answered.
    pub(super) fn request_id(&self) -> Arc<str> {
        Arc::clone(&self.request_id)
    }

    /// Refuses to begin anything more where the credential is good no more, or where that cannot be found out.
    pub(super) async fn check(&self) -> Result<(), Problem> {
        timeout(PATIENCE, self.app.auth.identify(&self.shown))
            .await
            .unwrap_or_else(late)
            .map(drop)
            .map_err(Problem::from)
    }

    /// Refuses to go on where the credential is good no more, or where that could not be found out for too long.
    pub(super) async fn check_on(&mut self) -> Result<(), Problem> {
        let Self { app, shown, known, .. } = self;
        known.check(async { app.auth.identify(shown).await.map(drop) }).await
    }

    /// Waits until the credential is good no more, and says why. Cancel-safe.
    pub(super) async fn ended(self) -> Problem {
        let Self { app, shown, known, .. } = &self;
        ended(*known, async || app.auth.identify(shown).await.map(drop)).await
    }
}

/// Until when a credential was known to be good.
#[derive(Clone, Copy)]
struct Known(Instant);

impl Known {
    async fn check(&mut self, asked: impl Future<Output = Result<(), Denied>>) -> Result<(), Problem> {
        match timeout(PATIENCE, asked).await.unwrap_or_else(late) {
            Ok(()) => self.0 = Instant::now(),
            Err(Denied::Failed(_)) if self.0.elapsed() < IN_DOUBT => {}
            Err(denied) => return Err(denied.into()),
        }
        Ok(())
    }
}

fn late<T>(_: Elapsed) -> Result<T, Denied> {
    Err(Denied::Failed(Error::unavailable("database_unavailable", "it is not found out in time who somebody is")))
}

async fn ended<F: Future<Output = Result<(), Denied>>>(mut known: Known, ask: impl Fn() -> F) -> Problem {
    loop {
        sleep(EVERY).await;
        if let Err(problem) = known.check(ask()).await {
            return problem;
        }
    }
}

impl FromRequestParts<Arc<App>> for Lasting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let ids = parts.extensions.get::<Ids>().ok_or_else(|| Problem::internal("a request without ids"))?;
        let names = [http::HeaderName::from_static(API_KEY), header::AUTHORIZATION];
        let of = |name: http::HeaderName| {
            parts.headers.get_all(&name).iter().cloned().map(move |value| (name.clone(), value))
        };
        let shown = names.into_iter().flat_map(of);
        let (request_id, known) = (Arc::clone(&ids.request), Known(Instant::now()));
        Ok(Self { app: Arc::clone(app), shown: shown.collect(), request_id, known })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_with_its_credential_and_after_five_minutes_of_doubt() {
        let begun = Instant::now();
        let asked =
            ended(Known(begun), || ready(if begun.elapsed() < EVERY * 3 { Ok(()) } else { Err(Denied::Nobody) }));
        assert_eq!(asked.await.code(), "unauthenticated");
        assert_eq!(begun.elapsed(), EVERY * 3);

        let away = || Denied::Failed(Error::unavailable("database_unavailable", "it is away"));
        let (begun, is_back) = (Instant::now(), AtomicBool::new(false));
        let asked = ended(Known(begun), || {
            // Once, short of the end of the patience: that counts from there anew.
            let is_good = begun.elapsed() >= IN_DOUBT.saturating_sub(EVERY) && !is_back.swap(true, Ordering::Relaxed);
            ready(if is_good { Ok(()) } else { Err(away()) })
        });
        assert_eq!(asked.await.code(), "database_unavailable");
        assert_eq!(begun.elapsed(), (IN_DOUBT * 2).saturating_sub(EVERY));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_is_a_doubt() {
        let begun = Instant::now();
        let code = ended(Known(begun), pending).await.code();
        assert_eq!(code, "database_unavailable");
        assert!((IN_DOUBT..IN_DOUBT + EVERY + PATIENCE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}
