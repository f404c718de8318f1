//! One life of a replica: everything that it is, polled in one place, so that it can be stopped, or be gone, at any moment.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::ground::Ground;

/// Cloning is cheap; all clones are one life.
#[derive(Clone)]
pub(super) struct Process {
    name: Arc<str>,
    ground: Arc<Ground>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Tasks that were spawned, and are not polled yet.
    spawned: Vec<BoxFuture<'static, ()>>,
    is_over: bool,
    is_frozen: bool,
    /// Who is to be woken when it goes on.
    parked: Vec<Waker>,
    /// Polls of tasks so far, and the one at which it ends.
    polls: u64,
    last: Option<u64>,
    waker: Option<Waker>,
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.name)
    }
}

impl Process {
    #[expect(clippy::disallowed_methods, reason = "it is the owner of its tasks, and ends them all at once")]
    pub(super) fn new(name: String, ground: &Arc<Ground>) -> Self {
        let process = Self { name: name.into(), ground: Arc::clone(ground), state: Arc::default() };
        drop(tokio::spawn(Running { process: process.clone(), tasks: FuturesUnordered::new() }));
        process
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.state.lock().unwrap();
        if !state.is_over {
            state.spawned.push(task.boxed());
            state.waker.iter().for_each(Waker::wake_by_ref);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state.lock().unwrap().is_over
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.state.lock().unwrap().is_frozen
    }

    /// Ends it where it stands: `kill -9`.
    pub(super) fn kill(&self, why: &str) {
        let mut state = self.state.lock().unwrap();
        if !state.is_over {
            state.is_over = true;
            self.ground.tell(self, || format!("is killed: {why}"));
            state.waker.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Ends it when its tasks have been polled so often from now on: anywhere in its code that waits for something.
    pub(super) fn kill_after(&self, polls: u64) {
        let mut state = self.state.lock().unwrap();
        state.last = Some(state.polls + polls);
    }

    /// Stops it where it stands: `SIGSTOP`.
    pub(super) fn freeze(&self) {
        self.state.lock().unwrap().is_frozen = true;
        self.ground.tell(self, || "is stopped".to_owned());
    }

    /// Lets it go on: `SIGCONT`.
    pub(super) fn thaw(&self) {
        let mut state = self.state.lock().unwrap();
        if state.is_frozen {
            state.is_frozen = false;
            self.ground.tell(self, || "goes on".to_owned());
            state.parked.drain(..).for_each(Waker::wake);
            state.waker.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// May a task be polled now? Where it is stopped, whoever asked is woken when it goes on.
    fn may_run(&self, context: &Context<'_>) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.is_frozen {
            state.parked.push(context.waker().clone());
            return false;
        }
        state.polls += 1;
        if state.last == Some(state.polls) {
            drop(state);
            self.kill("in the middle of something");
            return false;
        }
        !state.is_over
    }
}

/// A task of a process.
struct Task {
    process: Process,
    task: BoxFuture<'static, ()>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.process.may_run(context) { self.task.poll_unpin(context) } else { Poll::Pending }
    }
}

/// All tasks of a process. When it is over they are dropped.
struct Running {
    process: Process,
    tasks: FuturesUnordered<Task>,
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let process = self.process.clone();
        loop {
            let spawned = {
                let mut state = process.state.lock().unwrap();
                state.waker = Some(context.waker().clone());
                if state.is_over {
                    let spawned = std::mem::take(&mut state.spawned);
                    drop(state);
                    drop(spawned);
                    return Poll::Ready(());
                }
                if state.is_frozen {
                    return Poll::Pending;
                }
                std::mem::take(&mut state.spawned)
            };
            self.tasks.extend(spawned.into_iter().map(|task| Task { process: process.clone(), task }));
            match self.tasks.poll_next_unpin(context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => {
                    let state = process.state.lock().unwrap();
                    if state.is_over || !state.spawned.is_empty() {
                        continue;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
