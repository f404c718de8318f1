//! Workflow versions, compiled once.

use std::{sync::Arc, time::Duration};

use ::store::{Believe, Codec, Redis};
use domain::{Clock, Namespace, Payload, WorkflowId};
use errors::{Error, Violation};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use workflow::{Definition, Fault, InputSchema, Limits, Misfit, Plan};

use super::not_found;
use crate::{
    error::OrchestratorError,
    store::{Store, WorkflowRef},
};

/// Workflows whose newest version is remembered.
const HEADS: u64 = 10_000;
/// For so long, where whoever makes a newer one can tell.
const HEADS_FOR: Duration = Duration::from_secs(1);
/// How long Redis keeps a definition.
const WRITTEN_FOR: Duration = Duration::from_hours(1);
/// Definitions as text in memory: those that are being compiled.
const WRITTEN: u64 = 16;

/// A workflow version, compiled.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) workflow_id: WorkflowId,
    pub(crate) name: Arc<str>,
    pub(crate) version: u32,
    pub(crate) plan: Arc<Plan>,
    schema: Option<InputSchema>,
}

impl Compiled {
    /// Every place where the input does not fit the schema, with pointers into the input.
    pub(crate) fn check_input(&self, input: &Payload) -> Result<(), OrchestratorError> {
        let Some(schema) = &self.schema else { return Ok(()) };
        let violations = match schema.check(&input.to_value()) {
            Ok(()) => return Ok(()),
            Err(Misfit::Faults(faults)) => {
                faults.into_iter().map(|(pointer, message)| Violation::new(pointer, "schema", message)).collect()
            }
            Err(Misfit::TooComplex) => {
                let message = "whether it fits the schema takes too long to find out";
                vec![Violation::new("", "schema_too_complex", message)]
            }
        };
        Err(OrchestratorError::InputInvalid(violations))
    }
}

/// Which version of a workflow is the newest, and whether it may be executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) id: WorkflowId,
    pub(crate) newest: u32,
    pub(crate) is_archived: bool,
}

/// A definition as it was given; it never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Given {
    name: Arc<str>,
    definition: Arc<str>,
}

/// A cache over the store.
///
/// A version never changes, so what is compiled, and what Redis has of it, needs no invalidation: Redis spares the database
/// the definitions when a replica takes over the shards of another. Which version is the newest does change: whoever makes one
/// tells the other replicas through Redis, and without Redis they ask the database at every start.
pub(crate) struct Plans {
    store: Arc<dyn Store>,
    limits: Limits,
    compiled: Cache<(WorkflowId, u32), Arc<Compiled>>,
    written: ::store::Cache<Given>,
    heads: ::store::Cache<Head>,
}

impl Plans {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        kept: u64,
        limits: Limits,
        redis: Option<Redis>,
        is_alone: bool,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let believe = |fresh, unheard, capacity| Believe { fresh, unheard, kept: fresh, capacity };
        let unheard = if is_alone { HEADS_FOR } else { Duration::ZERO };
        let json = Some(Codec::json());
        let definitions = believe(WRITTEN_FOR, WRITTEN_FOR, WRITTEN);
        let written = ::store::Cache::new("definitions", definitions, redis.clone(), json, Arc::clone(clock));
        // Asking Redis for it would be no faster than asking the database.
        let heads =
            ::store::Cache::new("workflows", believe(HEADS_FOR, unheard, HEADS), redis, None, Arc::clone(clock));
        Self { store, limits, compiled: Cache::new(kept), written, heads }
    }

    /// Hears which workflows other replicas write, for ever.
    pub(crate) async fn follow(&self) {
        self.heads.follow().await;
    }

    /// Checks a definition that somebody gives.
    pub(crate) fn parse(&self, definition: &[u8]) -> Result<Definition, OrchestratorError> {
        let parsed = Definition::parse(definition, self.limits).map_err(OrchestratorError::DefinitionInvalid)?;
        // Asked here alone: what SQLite has kept of it before goes on being read.
        if parsed.description.contains('\0') {
            let message = "must not contain the character NUL, which PostgreSQL keeps in no text".to_owned();
            let fault = Fault { pointer: "/description".to_owned(), code: "invalid_value", message };
            return Err(OrchestratorError::DefinitionInvalid(vec![fault]));
        }
        Ok(parsed)
    }

    /// The newest version of a workflow.
    pub(crate) async fn head(&self, namespace: &Namespace, workflow: &WorkflowRef) -> Result<Head, OrchestratorError> {
        let load = async || {
            let row = self.store.workflow(namespace, workflow, None).await.map_err(OrchestratorError::Database)?;
            Ok(row.map(|row| Head { id: row.id, newest: row.newest, is_archived: row.is_archived }))
        };
        let found = self.heads.get(&key(namespace, workflow), load).await.map_err(OrchestratorError::Unread)?;
        found.map(|head| head.value).ok_or_else(|| not_found(workflow))
    }

    /// A version, compiled.
    pub(crate) async fn compiled(
        &self,
        namespace: &Namespace,
        id: WorkflowId,
        version: u32,
    ) -> Result<Arc<Compiled>, OrchestratorError> {
        if let Some(compiled) = self.compiled.get(&(id, version)) {
            return Ok(compiled);
        }
        let load = async || {
            let row = self.store.workflow(namespace, &WorkflowRef::Id(id), Some(version)).await;
            let row = row.map_err(OrchestratorError::Database)?;
            Ok::<_, Error>(row.map(|row| Given { name: row.name.into(), definition: row.definition.into() }))
        };
        let written = self.written.get(&format!("{namespace}/{id}/{version}"), load).await;
        let written = written.map_err(OrchestratorError::Unread)?;
        let written = written.ok_or(OrchestratorError::VersionNotFound { workflow: id, version })?;
        let compiled = Arc::new(compile(id, version, &written.value, self.limits.max_history)?);
        self.compiled.insert((id, version), Arc::clone(&compiled));
        Ok(compiled)
    }

    /// A workflow was written, which had and has these names: what was the newest may be no more.
    pub(crate) async fn changed(&self, namespace: &Namespace, id: WorkflowId, names: &[&str]) {
        self.heads.invalidate(&key(namespace, &WorkflowRef::Id(id))).await;
        for name in names {
            self.heads.invalidate(&key(namespace, &WorkflowRef::Name((*name).to_owned()))).await;
        }
    }
}

fn key(namespace: &Namespace, workflow: &WorkflowRef) -> String {
    match workflow {
        WorkflowRef::Id(id) => format!("{namespace}/id/{id}"),
        WorkflowRef::Name(name) => format!("{namespace}/name/{name}"),
    }
}

/// What was stored was checked then, so today's limits of definitions do not matter.
fn compile(
    workflow_id: WorkflowId,
    version: u32,
    written: &Given,
    max_history: u64,
) -> Result<Compiled, OrchestratorError> {
    let limits = Limits { max_bytes: usize::MAX, max_steps: usize::MAX, max_history };
    let definition =
        Definition::parse(written.definition.as_bytes(), limits).map_err(OrchestratorError::DefinitionInvalid)?;
    let schema = definition.plan.input_schema.as_ref().map(InputSchema::compile).transpose();
    let schema = schema.map_err(|message| {
        OrchestratorError::DefinitionInvalid(vec![workflow::Fault {
            pointer: "/input_schema".to_owned(),
            code: "invalid_schema",
            message,
        }])
    })?;
    let (name, plan) = (Arc::clone(&written.name), Arc::new(definition.plan));
    Ok(Compiled { workflow_id, name, version, plan, schema })
}

#[cfg(test)]
mod tests {
    use domain::{ManualClock, Timestamp};
    use testkit::{Servers, eventually};

    use super::*;
    use crate::store::{WorkflowRow, Written, open};

    #[tokio::test]
    async fn what_one_replica_has_made_newest_the_others_hear_of_and_a_version_is_the_same_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&settings::Database::sqlite(folder.path().join("test.db"))).await.unwrap();
        // It stands still: what is believed for a time is believed for ever, unless somebody tells.
        let manual = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        let clock: Arc<dyn Clock> = Arc::new(manual);
        let url = &Servers::shared().redis;
        let redis = settings::Redis { timeout: Duration::from_secs(2), ..settings::Redis::at(url) };
        let redis = Redis::open(&redis, "orchestrator").unwrap();
        let plans = || Plans::new(Arc::clone(&store), 10, Limits::default(), redis.clone(), false, &clock);
        let (a, b) = (plans(), plans());
        let namespace = Namespace::default();
        let row = WorkflowRow {
            id: WorkflowId::generate(&domain::SystemClock),
            namespace: namespace.clone(),
            is_archived: false,
            newest: 1,
            created_at: clock.now(),
            updated_at: clock.now(),
            version: 1,
            name: "named".to_owned(),
            description: String::new(),
            definition: r#"{"name":"named","steps":[{"id":"a","agent_type":"echo"}]}"#.to_owned(),
            step_count: 1,
        };
        assert_eq!(store.create_workflow(&row).await.unwrap(), Written::Done);
        let workflow = WorkflowRef::Name("named".to_owned());
        let versions = async {
            for version in 2..10 {
                assert_eq!(b.head(&namespace, &workflow).await.unwrap().newest, version - 1);
                let next = WorkflowRow { newest: version, version, ..row.clone() };
                assert_eq!(store.update_workflow(&next).await.unwrap(), Written::Done);
                a.changed(&namespace, row.id, &[&row.name]).await;
                assert_eq!(a.head(&namespace, &workflow).await.unwrap().newest, version);
                // The first time it may not listen yet.
                eventually("the other replica to hear of it", async || {
                    if version == 2 {
                        a.changed(&namespace, row.id, &[&row.name]).await;
                    }
                    match b.head(&namespace, &workflow).await.unwrap().newest {
                        newest if newest == version => Ok(()),
                        newest => Err(newest),
                    }
                })
                .await;
                let (one, other) =
                    (a.compiled(&namespace, row.id, version).await, b.compiled(&namespace, row.id, version).await);
                assert_eq!((one.unwrap().version, other.unwrap().version), (version, version));
            }
        };
        tokio::select! {
            () = b.follow() => unreachable!("it follows for ever"),
            () = versions => {}
        }
        assert!(a.compiled(&namespace, row.id, 99).await.is_err());
        store.close().await;
    }
}
