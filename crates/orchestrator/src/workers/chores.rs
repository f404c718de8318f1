//! What workers have done by the runner, and in which order: each execution has its turn, one chore at a time, so that who wants a
//! thousand children holds nobody up who wants one.

use std::{collections::VecDeque, sync::Arc};

use domain::{ExecutionId, Payload, Timestamp};
use tokio::sync::mpsc;
use workflow::{ErrandKind, Failure, Parent, TaskKey, Telling};

use crate::hash::HashMap;

/// Chores that are on their way to the runner: what waits at the worker is in turn, what is here is not.
const ON_THE_WAY: usize = 64;
/// Executions that may have got a lock; beyond it they find it out by themselves.
const LOCKS: usize = 1_024;

/// Something to do.
#[derive(Debug)]
pub(crate) enum Chore {
    /// For a step; answered with [`super::Input::Errand`].
    Errand { id: ExecutionId, namespace: String, task: TaskKey, task_id: String, traceparent: String, what: ErrandKind },
    /// An execution does not want this child any more.
    CancelChild { id: ExecutionId, namespace: String, child: ExecutionId, reason: &'static str },
    /// This child has ended.
    Report { namespace: String, child: ExecutionId, parent: Parent, outcome: Result<Payload, Failure> },
    /// Are these children still wanted? Answered with [`super::Input::Unwanted`] for each that is not.
    Ask { asked: Vec<Asking> },
    /// Which of these children have ended? Answered with [`super::Input::Again`] for each.
    Look { children: Vec<(ExecutionId, TaskKey, ExecutionId)> },
    /// The execution may have got a lock.
    Review { id: ExecutionId },
    /// What happened before then in earlier runs of these executions may go; with the event with which the present run began.
    Prune { runs: Arc<Vec<(ExecutionId, u64)>>, before: Timestamp },
}

/// A child that asks its parent whether it is still wanted.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(super) namespace: String,
    pub(super) child: ExecutionId,
    pub(super) parent: Parent,
}

impl Chore {
    /// Whose turn it is: that of the execution because of which it is to be done, or of none.
    fn whose(&self) -> Option<ExecutionId> {
        match self {
            Self::Errand { id, .. } | Self::CancelChild { id, .. } | Self::Review { id } => Some(*id),
            Self::Report { parent, .. } => Some(parent.execution_id),
            Self::Ask { .. } | Self::Look { .. } | Self::Prune { .. } => None,
        }
    }

    /// Does communication do it?
    pub(super) fn is_mail(&self) -> bool {
        let Self::Errand { what: ErrandKind::Tell { to, .. }, .. } = self else { return false };
        matches!(to, Telling::Topic(_) | Telling::Agent(_))
    }
}

/// The ways to the runner: what waits on one holds up nothing on another.
#[derive(Clone)]
pub(crate) struct Lanes<T> {
    /// Calls to executions.
    pub(super) calls: T,
    /// What communication is to pass on.
    pub(super) mails: T,
    /// Who is to look after its locks.
    pub(super) locks: T,
}

/// The ends of workers and of the runner.
pub(super) fn lanes() -> (Lanes<mpsc::Sender<Chore>>, Lanes<mpsc::Receiver<Chore>>) {
    let ((calls, calls_in), (mails, mails_in)) = (mpsc::channel(ON_THE_WAY), mpsc::channel(ON_THE_WAY));
    let (locks, locks_in) = mpsc::channel(LOCKS);
    (Lanes { calls, mails, locks }, Lanes { calls: calls_in, mails: mails_in, locks: locks_in })
}

/// What waits, each execution in its turn.
#[derive(Default)]
pub(super) struct Turns {
    waiting: HashMap<Option<ExecutionId>, VecDeque<Chore>>,
    /// Who has something that waits, each once.
    order: VecDeque<Option<ExecutionId>>,
    len: usize,
}

impl Turns {
    pub(super) fn push(&mut self, chore: Chore) {
        let whose = chore.whose();
        let waiting = self.waiting.entry(whose).or_default();
        if waiting.is_empty() {
            self.order.push_back(whose);
        }
        waiting.push_back(chore);
        self.len += 1;
    }

    /// The next chore of whoever's turn it is, who then waits until all others have had theirs.
    pub(super) fn pop(&mut self) -> Option<Chore> {
        let whose = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&whose)?;
        let chore = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&whose);
        } else {
            self.order.push_back(whose);
        }
        self.len -= 1;
        Some(chore)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel(id: u128, child: u128) -> Chore {
        let (id, child) = (ExecutionId::from_parts(1, id), ExecutionId::from_parts(2, child));
        Chore::CancelChild { id, namespace: String::new(), child, reason: "" }
    }

    fn drain(turns: &mut Turns) -> Vec<u128> {
        let number = |child: ExecutionId| u128::from_be_bytes(child.to_bytes()) & 0xff;
        let chores = std::iter::from_fn(|| turns.pop());
        chores
            .map(|chore| match chore {
                Chore::CancelChild { child, .. } => number(child),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn each_execution_has_its_turn_and_its_own_order() {
        let mut turns = Turns::default();
        for child in 0..4 {
            turns.push(cancel(1, child));
        }
        turns.push(cancel(2, 10));
        turns.push(cancel(3, 20));
        turns.push(cancel(3, 21));
        assert_eq!(turns.len(), 7);
        assert_eq!(drain(&mut turns), [0, 10, 20, 1, 21, 2, 3]);
        assert!(turns.is_empty() && turns.waiting.is_empty() && turns.order.is_empty());
    }
}
