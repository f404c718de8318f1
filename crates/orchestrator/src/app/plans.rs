//! Workflow versions, compiled once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use domain::{Namespace, Payload, WorkflowId};
use errors::Violation;
use moka::future::Cache;
use workflow::{Definition, Limits, Plan};

use super::not_found;
use crate::{
    error::OrchestratorError,
    store::{Store, WorkflowRef, WorkflowRow},
};

/// Workflows whose newest version is remembered.
const HEADS: u64 = 10_000;
/// For so long, at most: another replica may have made a newer one.
const HEADS_FOR: Duration = Duration::from_secs(1);

/// A workflow version, compiled.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) workflow_id: WorkflowId,
    pub(crate) name: Arc<str>,
    pub(crate) version: u32,
    pub(crate) plan: Arc<Plan>,
    schema: Option<jsonschema::Validator>,
}

impl Compiled {
    /// Every place where the input does not fit the schema, with pointers into the input.
    pub(crate) fn check_input(&self, input: &Payload) -> Result<(), OrchestratorError> {
        let Some(schema) = &self.schema else { return Ok(()) };
        let value = input.to_value();
        let violation = |error: jsonschema::ValidationError<'_>| {
            Violation::new(error.instance_path().to_string(), "schema", error.to_string())
        };
        let violations: Vec<_> = schema.iter_errors(&value).map(violation).collect();
        if violations.is_empty() { Ok(()) } else { Err(OrchestratorError::InputInvalid(violations)) }
    }
}

/// Which version of a workflow is the newest, and whether it may be executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) id: WorkflowId,
    pub(crate) newest: u32,
    pub(crate) is_archived: bool,
}

/// A cache over the store.
pub(crate) struct Plans {
    store: Arc<dyn Store>,
    limits: Limits,
    compiled: Cache<(WorkflowId, u32), Arc<Compiled>>,
    heads: Cache<(Namespace, WorkflowRef), Head>,
    /// Counts the writes of workflows: what was read before one is not remembered after it.
    writes: AtomicU64,
}

impl Plans {
    pub(crate) fn new(store: Arc<dyn Store>, kept: u64, limits: Limits) -> Self {
        let heads = Cache::builder().max_capacity(HEADS).time_to_live(HEADS_FOR).build();
        Self { store, limits, compiled: Cache::new(kept), heads, writes: AtomicU64::new(0) }
    }

    /// Checks a definition that somebody gives.
    pub(crate) fn parse(&self, definition: &[u8]) -> Result<Definition, OrchestratorError> {
        Definition::parse(definition, self.limits).map_err(OrchestratorError::DefinitionInvalid)
    }

    /// The newest version of a workflow.
    pub(crate) async fn head(&self, namespace: &Namespace, workflow: &WorkflowRef) -> Result<Head, OrchestratorError> {
        let key = (namespace.clone(), workflow.clone());
        if let Some(head) = self.heads.get(&key).await {
            return Ok(head);
        }
        let writes = self.writes.load(Ordering::Acquire);
        let row = self.store.workflow(namespace, workflow, None).await?.ok_or_else(|| not_found(workflow))?;
        let head = Head { id: row.id, newest: row.newest, is_archived: row.is_archived };
        self.heads.insert(key.clone(), head).await;
        if self.writes.load(Ordering::Acquire) != writes {
            self.heads.invalidate(&key).await;
        }
        Ok(head)
    }

    /// A version, compiled.
    pub(crate) async fn compiled(
        &self,
        namespace: &Namespace,
        id: WorkflowId,
        version: u32,
    ) -> Result<Arc<Compiled>, OrchestratorError> {
        if let Some(compiled) = self.compiled.get(&(id, version)).await {
            return Ok(compiled);
        }
        let row = self.store.workflow(namespace, &WorkflowRef::Id(id), Some(version)).await?;
        let row = row.ok_or(OrchestratorError::VersionNotFound { workflow: id, version })?;
        let compiled = Arc::new(compile(row)?);
        self.compiled.insert((id, version), Arc::clone(&compiled)).await;
        Ok(compiled)
    }

    /// A workflow was written: what was the newest may be no more.
    pub(crate) fn changed(&self) {
        self.writes.fetch_add(1, Ordering::AcqRel);
        self.heads.invalidate_all();
    }
}

/// What was stored was checked then, so today's limits do not matter.
fn compile(row: WorkflowRow) -> Result<Compiled, OrchestratorError> {
    let limits = Limits { max_bytes: usize::MAX, max_steps: usize::MAX };
    let definition =
        Definition::parse(row.definition.as_bytes(), limits).map_err(OrchestratorError::DefinitionInvalid)?;
    // Patterns are the user's: an engine without backtracking cannot be kept busy by them.
    let options = jsonschema::options().with_pattern_options(jsonschema::PatternOptions::regex());
    let schema = definition.plan.input_schema.as_ref().map(|schema| options.build(schema)).transpose();
    let schema = schema.map_err(|error| {
        OrchestratorError::DefinitionInvalid(vec![workflow::Fault {
            pointer: "/input_schema".to_owned(),
            code: "invalid_schema",
            message: error.to_string(),
        }])
    })?;
    Ok(Compiled {
        workflow_id: row.id,
        name: row.name.into(),
        version: row.version,
        plan: Arc::new(definition.plan),
        schema,
    })
}
