//! A worker for tests: the other ends of its channels are closed or full of room.

use std::{path::Path, sync::Arc};

use domain::{Clock, ExecutionId, ManualClock, Namespace, Payload, Timestamp, WorkflowId};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use workflow::{Limits, Start};

use super::{
    Holdings, Shared, Starting,
    worker::{Ends, Worker},
    writer::Outcome,
};
use crate::{
    Settings,
    app::Plans,
    store::{self, Held, WorkflowRow},
    violations::Violations,
};

/// What workers share, on a file of its own.
pub(super) async fn shared(directory: &Path) -> Arc<Shared> {
    let mut settings = Settings::default();
    settings.database.path = directory.join("orchestrator.db");
    let store = store::open(&settings.database).await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let plans = Arc::new(Plans::new(Arc::clone(&store), 1, Limits::default(), None, true, &clock));
    Arc::new(Shared {
        store,
        plans,
        clock,
        watchers: Arc::default(),
        settings,
        owner: "rep".to_owned(),
        holdings: Holdings::new(1),
        is_alone: true,
        live: 0.into(),
        repaired: 0.into(),
        violations: Violations::new(),
    })
}

/// A worker with an execution of this workflow, whose start is committed.
pub(super) async fn worker(shared: &Arc<Shared>, definition: &Value) -> (Worker, ExecutionId) {
    let namespace = Namespace::default();
    let row = WorkflowRow {
        id: WorkflowId::from_parts(1, 1),
        namespace: namespace.clone(),
        is_archived: false,
        newest: 1,
        created_at: shared.now(),
        updated_at: shared.now(),
        version: 1,
        name: definition["name"].as_str().unwrap().to_owned(),
        description: String::new(),
        definition: definition.to_string(),
        step_count: 1,
    };
    shared.store.create_workflow(&row).await.unwrap();
    let compiled = shared.plans.compiled(&namespace, row.id, 1).await.unwrap();
    let ends = Ends {
        inputs: mpsc::channel(1).1,
        jobs: mpsc::channel(8).0,
        committed: mpsc::channel(1).1,
        frames: mpsc::channel(1).0,
        searches: mpsc::channel(8).0,
        chores: super::chores::lanes().0,
        locks: mpsc::channel(8).0,
    };
    let mut worker = Worker::new(0, Arc::clone(shared), ends);
    let held = Held { shard: 0, epoch: 1 };
    worker.shared.holdings.expect(held);
    worker.take_shards(&[held], Vec::new());
    let id = ExecutionId::from_parts(1, 1);
    let start = Start {
        execution_id: id,
        namespace,
        workflow_id: row.id,
        workflow_version: 1,
        input: Payload::null(),
        traceparent: String::new(),
        parent: None,
    };
    worker.start(Starting { start, is_fresh: true, compiled, reply: oneshot::channel().0, ended: None });
    commit(&mut worker).await;
    (worker, id)
}

/// One more execution of the same workflow, whose start is committed.
pub(super) async fn begin(worker: &mut Worker, id: ExecutionId, input: Value) {
    let (namespace, workflow_id) = (Namespace::default(), WorkflowId::from_parts(1, 1));
    let compiled = worker.shared.plans.compiled(&namespace, workflow_id, 1).await.unwrap();
    let (input, traceparent, parent) = (Payload::from_value(&input), String::new(), None);
    let start = Start { execution_id: id, namespace, workflow_id, workflow_version: 1, input, traceparent, parent };
    worker.start(Starting { start, is_fresh: true, compiled, reply: oneshot::channel().0, ended: None });
    commit(worker).await;
}

/// Commits what is open, as far as the worker knows.
pub(super) async fn commit(worker: &mut Worker) {
    worker.flush().await;
    worker.committed(Outcome::Committed);
}
