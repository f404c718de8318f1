//! How a service does, and each of the things that it needs.

use std::{
    cmp::Ordering,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, join_all},
};
use tokio::time::{Instant, timeout};

/// What takes longer than this works, but not well.
const SLOW: Duration = Duration::from_millis(500);
/// For so long an answer is given again. Anybody may ask, and whoever asks all the time must not load what the service needs.
const FRESH: Duration = Duration::from_secs(1);

/// How well something does, from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthStatus {
    /// It does its work.
    #[default]
    Healthy,
    /// It does its work, slower or with something missing.
    Degraded,
    /// It does not do its work.
    Unhealthy,
}

impl HealthStatus {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What is wrong with something.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// How bad it is for whoever needs it.
    pub status: HealthStatus,
    /// A sentence for people, whoever they are: probes have no credentials, so it says nothing of the inside.
    pub message: String,
    /// What operators are to know besides; only the log has it.
    pub detail: String,
}

impl Complaint {
    /// Something failed; why is in the log.
    pub fn failed(status: HealthStatus, why: impl Into<String>) -> Self {
        Self { status, message: "failed; the log says why".to_owned(), detail: why.into() }
    }

    /// The work goes on without it, or nearly.
    pub fn degraded(message: impl Into<String>) -> Self {
        Self { status: HealthStatus::Degraded, message: message.into(), detail: String::new() }
    }

    /// The work does not go on without it.
    pub fn unhealthy(message: impl Into<String>) -> Self {
        Self { status: HealthStatus::Unhealthy, message: message.into(), detail: String::new() }
    }
}

/// What was found out about one thing.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its name.
    pub name: &'static str,
    /// How it does.
    pub status: HealthStatus,
    /// Does no work go on without it?
    pub is_needed: bool,
    /// How long it took to say so.
    pub latency: Duration,
    /// What is wrong; `ok` where nothing is.
    pub message: String,
}

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Complaint>> + Send + Sync>;

/// The things that a service needs, each with a question that finds out how it does. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Checks {
    each: Vec<Thing>,
    /// What is being found out, or was a moment ago, and since when: clones of the same ask together.
    asked: Arc<Mutex<Option<(Instant, Found)>>>,
}

type Found = Shared<BoxFuture<'static, Vec<Checked>>>;

/// One thing that a service needs.
#[derive(Clone)]
struct Thing {
    name: &'static str,
    /// How bad it is where it does not answer in time.
    silent: HealthStatus,
    check: Check,
    /// What the log has been told.
    was: Arc<Mutex<HealthStatus>>,
}

impl fmt::Debug for Checks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.each.iter().map(|thing| thing.name)).finish()
    }
}

impl Checks {
    /// Needs nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// One thing more; `silent` says how bad it is where it does not answer in time.
    #[must_use]
    pub fn with<F>(
        self,
        name: &'static str,
        silent: HealthStatus,
        check: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Complaint>> + Send + 'static,
    {
        let thing = Thing { name, silent, check: Arc::new(move || check().boxed()), was: Arc::default() };
        Self { each: self.each.into_iter().chain([thing]).collect(), asked: Arc::default() }
    }

    /// With those of another.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { each: self.each.into_iter().chain(other.each).collect(), asked: Arc::default() }
    }

    /// Asks all of them at once, each for at most so long; once a second at most, however many want to know, and also where they
    /// do not wait for the answer.
    pub async fn run(&self, patience: Duration) -> Vec<Checked> {
        self.asked(patience).await
    }

    fn asked(&self, patience: Duration) -> Found {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((begun, found)) = &*asked
            && (found.peek().is_none() || begun.elapsed() < FRESH)
        {
            return found.clone();
        }
        let each = self.each.clone();
        let asking = each.clone();
        // A task of its own: half an answer that nobody waits for would keep what it has borrowed, as a connection.
        #[expect(clippy::disallowed_methods, reason = "it ends within the patience")]
        let found = tokio::spawn(async move { join_all(asking.iter().map(|thing| thing.ask(patience))).await });
        let found = found.map(move |found| found.unwrap_or_else(|_| each.iter().map(Thing::unknown).collect()));
        let found = found.boxed().shared();
        *asked = Some((Instant::now(), found.clone()));
        found
    }
}

/// The whole is as well as the worst of its parts.
pub fn overall(checks: &[Checked]) -> HealthStatus {
    checks.iter().map(|check| check.status).max().unwrap_or_default()
}

impl Thing {
    async fn ask(&self, patience: Duration) -> Checked {
        let begun = Instant::now();
        let found = timeout(patience, (self.check)()).await;
        let latency = begun.elapsed();
        let found = found.unwrap_or_else(|_| {
            let message = format!("no answer in {patience:?}");
            Err(Complaint { status: self.silent, message, detail: String::new() })
        });
        let found = match found {
            Ok(()) if latency > SLOW => Err(Complaint::degraded("slow")),
            found => found,
        };
        self.note(&found);
        let (status, message) = match found {
            Ok(()) => (HealthStatus::Healthy, "ok".to_owned()),
            Err(Complaint { status, message, .. }) => (status, message),
        };
        Checked { name: self.name, status, is_needed: self.silent == HealthStatus::Unhealthy, latency, message }
    }

    /// Its check has panicked.
    fn unknown(&self) -> Checked {
        let Complaint { status, message, .. } = Complaint::failed(self.silent, "");
        let is_needed = self.silent == HealthStatus::Unhealthy;
        Checked { name: self.name, status, is_needed, latency: Duration::ZERO, message }
    }

    /// Tells the log where it does better or worse than when it was asked last.
    fn note(&self, found: &Result<(), Complaint>) {
        let now = found.as_ref().err().map_or(HealthStatus::Healthy, |complaint| complaint.status);
        let was = std::mem::replace(&mut *self.was.lock().unwrap_or_else(PoisonError::into_inner), now);
        let (name, status) = (self.name, now.as_str());
        let why = match found {
            Ok(()) => "",
            Err(complaint) if complaint.detail.is_empty() => &complaint.message,
            Err(complaint) => &complaint.detail,
        };
        match now.cmp(&was) {
            Ordering::Greater => tracing::warn!(name, status, why, "something that the service needs does worse"),
            Ordering::Less => tracing::info!(name, status, why, "something that the service needs does better"),
            Ordering::Equal => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    #[test]
    fn why_something_failed_is_for_the_log_alone() {
        let complaint = Complaint::failed(HealthStatus::Unhealthy, "10.0.0.7 refuses the password of troupe");
        assert!(!complaint.message.contains("10.0.0.7") && complaint.detail.contains("10.0.0.7"), "{complaint:?}");
    }

    #[tokio::test]
    async fn each_thing_is_asked_and_the_worst_counts() {
        let checks = Checks::new().with("good", HealthStatus::Unhealthy, || async { Ok(()) }).with(
            "bad",
            HealthStatus::Unhealthy,
            || async { Err(Complaint::degraded("half of it is away")) },
        );
        let found = checks.run(SLOW).await;
        let told: Vec<_> = found.iter().map(|check| (check.name, check.status.as_str(), &*check.message)).collect();
        assert_eq!(told, [("good", "healthy", "ok"), ("bad", "degraded", "half of it is away")]);
        assert_eq!(overall(&found), HealthStatus::Degraded);
        let checks = checks.with("silent", HealthStatus::Unhealthy, std::future::pending);
        assert_eq!(overall(&checks.run(Duration::from_millis(1)).await), HealthStatus::Unhealthy);
        assert_eq!(overall(&[]), HealthStatus::Healthy);
    }

    /// A check that counts how often it is asked, and fails while it is told to.
    fn counted(asked: &Arc<AtomicUsize>, fails: &Arc<AtomicBool>) -> Checks {
        let (asked, fails) = (Arc::clone(asked), Arc::clone(fails));
        Checks::new().with("database", HealthStatus::Unhealthy, move || {
            asked.fetch_add(1, Relaxed);
            let fails = fails.load(Relaxed);
            async move {
                tokio::time::sleep(SLOW / 2).await;
                if fails { Err(Complaint::failed(HealthStatus::Unhealthy, "no route to 10.0.0.7")) } else { Ok(()) }
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_want_to_know_it_is_asked_once_a_second() {
        let (asked, fails) = (Arc::default(), Arc::default());
        let checks = counted(&asked, &fails);
        // Some who go away at once: it goes on without them.
        for _ in 0..100 {
            assert!(checks.run(SLOW).now_or_never().is_none());
        }
        tokio::time::sleep(SLOW).await;
        assert!(checks.run(SLOW).now_or_never().is_some());
        let found = join_all((0..100).map(|_| checks.run(SLOW))).await;
        assert!(found.iter().all(|found| overall(found) == HealthStatus::Healthy));
        fails.store(true, Relaxed);
        assert_eq!(overall(&checks.clone().run(SLOW).await), HealthStatus::Healthy);
        assert_eq!(asked.load(Relaxed), 1);
        tokio::time::advance(FRESH).await;
        assert_eq!(overall(&checks.run(SLOW).await), HealthStatus::Unhealthy);
        assert_eq!(asked.load(Relaxed), 2);
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_says_why_once_and_when_it_is_well_again() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        let (asked, fails) = (Arc::default(), Arc::default());
        let checks = counted(&asked, &fails);
        let mut told = Vec::new();
        for is_failing in [false, true, true, false, false] {
            fails.store(is_failing, Relaxed);
            checks.run(SLOW).await;
            tokio::time::advance(FRESH).await;
            let text = String::from_utf8(std::mem::take(&mut *log.0.lock().unwrap())).unwrap();
            told.push((text.contains("WARN") && text.contains("no route to 10.0.0.7"), text.contains("INFO")));
        }
        assert_eq!(told, [(false, false), (true, false), (false, false), (false, true), (false, false)]);
    }
}
