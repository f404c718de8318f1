//! Calls about workflows.

use domain::{Namespace, WorkflowId};
use lifecycle::crash_point;
use store::Page;
use workflow::Definition;

use super::{App, not_found};
use crate::{
    error::OrchestratorError,
    store::{WorkflowFilter, WorkflowRef, WorkflowRow, Written},
};

/// A definition that somebody gives, for a workflow that is there.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) namespace: Namespace,
    pub(crate) id: WorkflowId,
    pub(crate) definition: Vec<u8>,
    /// Refused where the newest version is another.
    pub(crate) expected_version: Option<u32>,
}

impl App {
    /// Stores a new workflow. The same id again answers with what the first call made.
    pub(crate) async fn create_workflow(
        &self,
        namespace: Namespace,
        id: Option<WorkflowId>,
        definition: &[u8],
    ) -> Result<WorkflowRow, OrchestratorError> {
        if let Some(id) = id
            && let Some(row) = self.store.workflow(&namespace, &WorkflowRef::Id(id), None).await?
        {
            return Ok(row);
        }
        let parsed = self.plans.parse(definition)?;
        let now = self.clock.now();
        let row = WorkflowRow {
            id: id.unwrap_or_else(|| WorkflowId::generate(self.clock.as_ref())),
            namespace,
            is_archived: false,
            newest: 1,
            created_at: now,
            updated_at: now,
            version: 1,
            step_count: step_count(&parsed),
            name: parsed.name,
            description: parsed.description,
            definition: String::from_utf8_lossy(definition).into_owned(),
        };
        let written = self.store.create_workflow(&row).await;
        crash_point("orchestrator.workflow.stored");
        let is_taken = |error: &sqlx::Error| {
            error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
        };
        match written {
            Ok(Written::Done) => {
                self.plans.changed(&row.namespace, row.id, &[&row.name]).await;
                Ok(row)
            }
            Ok(Written::NameTaken) => Err(OrchestratorError::NameTaken(row.name)),
            Ok(Written::Changed) => Err(OrchestratorError::IdTaken(row.id.to_string())),
            // The same id at the same time, or in another namespace.
            Err(error) if is_taken(&error) => {
                let found = self.store.workflow(&row.namespace, &WorkflowRef::Id(row.id), None).await?;
                found.ok_or_else(|| OrchestratorError::IdTaken(row.id.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the next version, unless the newest is equal.
    pub(crate) async fn update_workflow(&self, change: Change) -> Result<WorkflowRow, OrchestratorError> {
        let row = self.workflow(&change.namespace, &WorkflowRef::Id(change.id), None).await?;
        if row.is_archived {
            return Err(OrchestratorError::WorkflowArchived(row.id.to_string()));
        }
        if let Some(expected) = change.expected_version
            && expected != row.newest
        {
            return Err(OrchestratorError::WorkflowChanged { expected, found: row.newest });
        }
        let parsed = self.plans.parse(&change.definition)?;
        let definition = String::from_utf8_lossy(&change.definition).into_owned();
        if is_equal(&definition, &row.definition) {
            return Ok(row);
        }
        let (version, name_before) = (row.newest + 1, row.name.clone());
        let next = WorkflowRow {
            newest: version,
            version,
            updated_at: self.clock.now(),
            step_count: step_count(&parsed),
            name: parsed.name,
            description: parsed.description,
            definition,
            ..row
        };
        let written = self.store.update_workflow(&next).await?;
        crash_point("orchestrator.workflow.changed");
        match written {
            Written::Done => {
                self.plans.changed(&next.namespace, next.id, &[&name_before, &next.name]).await;
                Ok(next)
            }
            Written::NameTaken => Err(OrchestratorError::NameTaken(next.name)),
            Written::Changed => {
                let found = self.workflow(&next.namespace, &WorkflowRef::Id(next.id), None).await?.newest;
                Err(OrchestratorError::WorkflowChanged { expected: version - 1, found })
            }
        }
    }

    pub(crate) async fn workflow(
        &self,
        namespace: &Namespace,
        workflow: &WorkflowRef,
        version: Option<u32>,
    ) -> Result<WorkflowRow, OrchestratorError> {
        let row = self.store.workflow(namespace, workflow, version).await?;
        row.ok_or_else(|| not_found(workflow))
    }

    pub(crate) async fn workflows(&self, filter: &WorkflowFilter) -> Result<Page<WorkflowRow>, OrchestratorError> {
        Ok(self.store.workflows(filter).await?)
    }

    /// Answers whether it was active.
    pub(crate) async fn archive_workflow(
        &self,
        namespace: &Namespace,
        id: WorkflowId,
        expected: Option<u32>,
    ) -> Result<bool, OrchestratorError> {
        let row = self.workflow(namespace, &WorkflowRef::Id(id), None).await?;
        let archived = self.store.archive_workflow(id, expected, self.clock.now()).await?;
        if let Some(expected) = expected.filter(|_| !archived) {
            let now = self.workflow(namespace, &WorkflowRef::Id(id), None).await?;
            // Where it is active it was at another version when it was to be archived, whatever it is at by now.
            if now.newest != expected || !now.is_archived {
                return Err(OrchestratorError::WorkflowChanged { expected, found: now.newest });
            }
        }
        self.plans.changed(namespace, id, &[&row.name]).await;
        Ok(archived)
    }
}

fn step_count(definition: &Definition) -> u32 {
    u32::try_from(definition.plan.steps.len()).unwrap_or(u32::MAX)
}

/// The same JSON value, however it is written.
fn is_equal(one: &str, other: &str) -> bool {
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    one == other || value(one).is_some_and(|one| value(other) == Some(one))
}
