//! What is decided together is committed together: the batch that is being filled, and those whose commit is awaited.

use domain::ExecutionId;
use tracing::Span;
use workflow::{Effect, TaskKey};

use super::lock_keeper::Numbered;
use crate::{
    hash::{HashMap, HashSet},
    store::NewEvent,
};

/// Answers a caller, knowing whether its events are committed.
pub(super) type Answer = Box<dyn FnOnce(bool) + Send>;

/// What one execution has in a batch.
pub(super) struct Share {
    /// Of the open batch; the writer has those of a batch in flight.
    pub(super) events: Vec<NewEvent>,
    /// From the first decision to the commit.
    pub(super) span: Span,
    /// The numbers of its first and its newest event in the batch, once that is in flight.
    pub(super) written: Option<(u64, u64)>,
    pub(super) replies: Vec<Answer>,
    pub(super) effects: Vec<Effect>,
    pub(super) locks: Vec<Numbered>,
    /// Results to acknowledge.
    pub(super) acks: Vec<String>,
    /// Tasks whose result was void, and which may be nowhere once that is acknowledged.
    pub(super) voided: Vec<TaskKey>,
    /// Tasks that time took from their agents.
    pub(super) cancels: Vec<(String, &'static str)>,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            span: Span::none(),
            written: None,
            replies: Vec::new(),
            effects: Vec::new(),
            locks: Vec::new(),
            acks: Vec::new(),
            voided: Vec::new(),
            cancels: Vec::new(),
        }
    }
}

/// The batch that is being filled.
#[derive(Default)]
pub(super) struct Open {
    pub(super) shares: HashMap<ExecutionId, Share>,
    pub(super) events: usize,
    /// Of the data of its events.
    pub(super) bytes: usize,
    /// Executions read again after the database had refused their events.
    pub(super) resumed: Vec<ExecutionId>,
}

impl Open {
    pub(super) fn share(&mut self, id: ExecutionId) -> &mut Share {
        self.shares.entry(id).or_default()
    }

    /// Was something of the execution decided since the batch before?
    pub(super) fn has_events(&self, id: ExecutionId) -> bool {
        self.shares.get(&id).is_some_and(|share| !share.events.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    pub(super) fn take(&mut self, id: ExecutionId) -> Option<Share> {
        let share = self.shares.remove(&id)?;
        self.events -= share.events.len();
        self.bytes -= share.events.iter().map(|event| event.data.len()).sum::<usize>();
        Some(share)
    }
}

/// A batch whose commit is awaited.
#[derive(Default)]
pub(super) struct After {
    pub(super) number: u64,
    pub(super) generation: u64,
    pub(super) shares: HashMap<ExecutionId, Share>,
}

impl After {
    /// Takes out what belongs to `executions`.
    pub(super) fn split_off(&mut self, executions: &HashSet<ExecutionId>) -> Vec<(ExecutionId, Share)> {
        self.shares.extract_if(|id, _| executions.contains(id)).collect()
    }
}
