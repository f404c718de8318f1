//! How a service does, and each of the things that it needs.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use tokio::time::{Instant, timeout};

/// What takes longer than this works, but not well.
const SLOW: Duration = Duration::from_millis(500);

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
pub struct Checks(Vec<(&'static str, HealthStatus, Check)>);

impl fmt::Debug for Checks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|(name, ..)| name)).finish()
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
        mut self,
        name: &'static str,
        silent: HealthStatus,
        check: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Complaint>> + Send + 'static,
    {
        self.0.push((name, silent, Arc::new(move || check().boxed())));
        self
    }

    /// With those of another.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Asks all of them at once, each for at most so long.
    pub async fn run(&self, patience: Duration) -> Vec<Checked> {
        join_all(self.0.iter().map(|(name, silent, check)| one(name, *silent, check, patience))).await
    }
}

/// The whole is as well as the worst of its parts.
pub fn overall(checks: &[Checked]) -> HealthStatus {
    checks.iter().map(|check| check.status).max().unwrap_or_default()
}

async fn one(name: &'static str, silent: HealthStatus, check: &Check, patience: Duration) -> Checked {
    let begun = Instant::now();
    let found = timeout(patience, check()).await;
    let latency = begun.elapsed();
    let found = found.unwrap_or_else(|_| {
        Err(Complaint { status: silent, message: format!("no answer in {patience:?}"), detail: String::new() })
    });
    let (status, message) = match found {
        Ok(()) if latency > SLOW => (HealthStatus::Degraded, "slow".to_owned()),
        Ok(()) => (HealthStatus::Healthy, "ok".to_owned()),
        Err(Complaint { status, message, detail }) => {
            tracing::debug!(name, status = status.as_str(), detail, "{message}");
            (status, message)
        }
    };
    Checked { name, status, is_needed: silent == HealthStatus::Unhealthy, latency, message }
}

#[cfg(test)]
mod tests {
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
}
