//! The owner of spawned tasks.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio_util::task::TaskTracker;

use crate::Shutdown;

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// Its end is normal; an error is logged, and a panic stops the service.
    Continue,
    /// The service cannot live without it: any end before a drain stops the service with an error.
    StopService,
}

/// The task that stopped a service.
#[derive(Clone, Debug, thiserror::Error)]
#[error("task {task} {how}")]
pub struct TaskFailed {
    /// Its name.
    pub task: &'static str,
    /// How it ended.
    pub how: String,
}

/// Owns the tasks of a service: spawns them under a name, stops the service when one dies alone, waits for all at the end.
/// Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    tracker: TaskTracker,
    failed: Arc<Mutex<Option<TaskFailed>>>,
    /// Who runs the tasks; the runtime where it is nobody else.
    runs: Option<Runs>,
}

/// Takes tasks to run.
#[derive(Clone)]
struct Runs(Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>);

impl fmt::Debug for Runs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Runs")
    }
}

impl Tasks {
    /// An owner that stops its tasks when `shutdown` cuts.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tracker: TaskTracker::new(), failed: Arc::default(), runs: None }
    }

    /// The same, where the tasks do not run on the runtime but wherever `run` puts them: a test that stops or drops all that
    /// a service is at any moment polls them itself.
    pub fn run_by(shutdown: Shutdown, run: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static) -> Self {
        Self { runs: Some(Runs(Arc::new(run))), ..Self::new(shutdown) }
    }

    /// The stop that these tasks watch.
    pub const fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Spawns a task. It is dropped where it stands when the shutdown cuts.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F, E>(&self, name: &'static str, on_exit: OnExit, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let owner = self.clone();
        let guarded = std::panic::AssertUnwindSafe(task).catch_unwind();
        let future = async move {
            // Dropping the task mid-way is what a cut means.
            let ended = tokio::select! {
                biased;
                () = owner.shutdown.cutting() => return,
                ended = guarded => ended,
            };
            owner.ended(name, on_exit, ended);
        };
        let future = self.tracker.track_future(future);
        match &self.runs {
            Some(runs) => (runs.0)(future.boxed()),
            None => drop(tokio::spawn(future)),
        }
    }

    fn ended<E: std::fmt::Display>(
        &self,
        task: &'static str,
        on_exit: OnExit,
        ended: std::thread::Result<Result<(), E>>,
    ) {
        let how = match ended {
            Ok(Ok(())) if on_exit == OnExit::Continue || self.shutdown.is_draining() => return,
            Ok(Ok(())) => "ended by itself".to_owned(),
            Ok(Err(error)) if on_exit == OnExit::Continue => {
                tracing::warn!(task, %error, "task failed");
                return;
            }
            Ok(Err(error)) => format!("failed: {error}"),
            Err(panic) => format!("panicked: {}", panic_message(panic.as_ref())),
        };
        tracing::error!(task, how, "task died, stopping the service");
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(TaskFailed { task, how });
        self.shutdown.drain();
    }

    /// Waits until the shutdown drains, then until every task has ended, at most `grace`; then cuts.
    pub async fn join(self, grace: Duration) -> Result<(), TaskFailed> {
        self.shutdown.draining().await;
        self.tracker.close();
        // Both arms are cancel-safe.
        tokio::select! {
            () = self.tracker.wait() => {}
            () = tokio::time::sleep(grace) => tracing::warn!(?grace, tasks = self.tracker.len(), "grace period over, stopping at once"),
            () = self.shutdown.cutting() => {}
        }
        self.shutdown.cut();
        self.tracker.wait().await;
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), Err)
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_task_that_dies_alone_stops_the_service_with_an_error() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("worker", OnExit::StopService, async { Err("disk full") });
        assert_eq!(tasks.join(GRACE).await.unwrap_err().task, "worker");
    }

    #[tokio::test]
    async fn a_panic_stops_the_service_even_where_an_end_would_not() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("job", OnExit::Continue, async {
            assert!(std::env::args().count() > 1_000, "boom");
            Ok::<(), Infallible>(())
        });
        assert!(tasks.join(GRACE).await.unwrap_err().how.contains("boom"));
    }

    #[tokio::test]
    async fn a_drain_lets_tasks_finish() {
        let tasks = Tasks::new(Shutdown::new());
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("worker", OnExit::StopService, async move {
            shutdown.draining().await;
            finished.await
        });
        tasks.shutdown().drain();
        finish.send(()).unwrap();
        tasks.join(GRACE).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_the_grace_period_cuts() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("stuck", OnExit::StopService, std::future::pending::<Result<(), Infallible>>());
        tasks.shutdown().drain();
        tasks.join(Duration::ZERO).await.unwrap();
    }
}
