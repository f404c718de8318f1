//! An execution as it is shown.

use domain::{AgentId, ExecutionId, Namespace, Payload};
use workflow::{Execution, Failure, Parent, StepView, TaskKey, TaskPlace};

use super::Compiled;
use crate::{
    hash::{HashMap, HashSet},
    store::Summary,
};

/// Where a task that is out is, and what its agent shows.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) place: TaskPlace,
    pub(crate) agent_id: Option<AgentId>,
    pub(crate) progress: Option<Payload>,
}

/// An execution at one moment, all of it committed when it is handed out.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) summary: Summary,
    pub(crate) input: Option<Payload>,
    pub(crate) output: Option<Payload>,
    pub(crate) parent: Option<Parent>,
    /// How many wait before it for their turn, where somebody asked.
    pub(crate) queued_before: Option<u32>,
    /// Empty where nobody asked for them.
    pub(crate) steps: Vec<StepView>,
    pub(crate) tasks: HashMap<TaskKey, Shown>,
    /// Decisions for which there are too few live voters.
    pub(crate) seeking: HashSet<String>,
}

impl Snapshot {
    /// Without steps.
    pub(crate) fn of(execution: &Execution, hash: [u8; 32], shard: u32, compiled: &Compiled) -> Self {
        Self {
            summary: summary_of(execution, hash, shard, compiled),
            input: execution.input().cloned(),
            output: execution.output().cloned(),
            parent: execution.parent().cloned(),
            queued_before: None,
            steps: Vec::new(),
            tasks: HashMap::default(),
            seeking: HashSet::default(),
        }
    }
}

/// The row of an execution that has its first event.
pub(crate) fn summary_of(execution: &Execution, hash: [u8; 32], shard: u32, compiled: &Compiled) -> Summary {
    let cancelled = || execution.cancel_reason().map(|reason| Failure::fatal("cancelled", reason));
    Summary {
        id: execution.id().unwrap_or_else(|| ExecutionId::from_parts(0, 0)),
        namespace: execution.namespace().cloned().unwrap_or_else(Namespace::default),
        shard,
        workflow_id: compiled.workflow_id,
        workflow_name: compiled.name.clone(),
        workflow_version: compiled.version,
        created_at: execution.created_at().unwrap_or_default(),
        status: execution.status(),
        counts: execution.counts(),
        failure: execution.failure().cloned().or_else(cancelled),
        ended_at: execution.ended_at(),
        last_sequence: execution.last_sequence(),
        last_hash: hash.to_vec(),
    }
}
