//! Workflows and their versions.

use domain::{Namespace, Timestamp, WorkflowId};
use sqlx::{QueryBuilder, Row as _, SqliteConnection, sqlite::SqliteRow};
use store::{Page, Sqlite};

use crate::store::{WorkflowFilter, WorkflowRef, WorkflowRow, Written, parsed};

/// The columns that two active workflows of one name break.
const NAME_KEY: &str = "workflows.namespace, workflows.name";

const SELECT: &str = "SELECT w.id, w.namespace, w.status, w.version AS newest, w.created_at, w.updated_at, v.version, \
                      v.name, v.description, v.definition, v.step_count FROM workflows AS w \
                      JOIN workflow_versions AS v ON v.workflow_id = w.id AND v.version = ";

pub(super) async fn create(sqlite: &Sqlite, row: &WorkflowRow) -> sqlx::Result<Written> {
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    let insert = "INSERT INTO workflows (id, namespace, name, version, status, created_at, updated_at) \
                  VALUES (?, ?, ?, ?, 'active', ?, ?)";
    let written = sqlx::query(insert)
        .bind(row.id.to_string())
        .bind(row.namespace.as_str().to_owned())
        .bind(row.name.clone())
        .bind(row.version)
        .bind(row.created_at.as_micros())
        .bind(row.updated_at.as_micros())
        .execute(&mut *transaction)
        .await;
    if let Err(error) = written {
        return name_taken(error);
    }
    insert_version(&mut transaction, row).await?;
    transaction.commit().await?;
    Ok(Written::Done)
}

pub(super) async fn update(sqlite: &Sqlite, row: &WorkflowRow) -> sqlx::Result<Written> {
    let mut transaction = sqlite.writer.begin_with("BEGIN IMMEDIATE").await?;
    let update = "UPDATE workflows SET name = ?, version = ?, updated_at = ? WHERE id = ? AND version = ? AND \
                  status = 'active'";
    let written = sqlx::query(update)
        .bind(row.name.clone())
        .bind(row.version)
        .bind(row.updated_at.as_micros())
        .bind(row.id.to_string())
        .bind(row.version - 1)
        .execute(&mut *transaction)
        .await;
    match written {
        Err(error) => return name_taken(error),
        Ok(done) if done.rows_affected() == 0 => return Ok(Written::Changed),
        Ok(_) => {}
    }
    insert_version(&mut transaction, row).await?;
    transaction.commit().await?;
    Ok(Written::Done)
}

async fn insert_version(connection: &mut SqliteConnection, row: &WorkflowRow) -> sqlx::Result<()> {
    let insert = "INSERT INTO workflow_versions (workflow_id, version, name, description, definition, step_count) \
                  VALUES (?, ?, ?, ?, ?, ?)";
    let query = sqlx::query(insert)
        .bind(row.id.to_string())
        .bind(row.version)
        .bind(row.name.clone())
        .bind(row.description.clone())
        .bind(row.definition.clone())
        .bind(row.step_count);
    query.execute(connection).await.map(drop)
}

fn name_taken(error: sqlx::Error) -> sqlx::Result<Written> {
    let is_taken = error
        .as_database_error()
        .is_some_and(|database| database.is_unique_violation() && database.message().contains(NAME_KEY));
    if is_taken { Ok(Written::NameTaken) } else { Err(error) }
}

pub(super) async fn archive(
    sqlite: &Sqlite,
    id: WorkflowId,
    expected: Option<u32>,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let update = "UPDATE workflows SET status = 'archived', updated_at = ?1 WHERE id = ?2 AND status = 'active' \
                  AND (?3 IS NULL OR version = ?3)";
    let query = sqlx::query(update).bind(now.as_micros()).bind(id.to_string()).bind(expected);
    let done = query.execute(&sqlite.writer).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn get(
    sqlite: &Sqlite,
    namespace: &Namespace,
    workflow: &WorkflowRef,
    version: Option<u32>,
) -> sqlx::Result<Option<WorkflowRow>> {
    let mut query = QueryBuilder::<sqlx::Sqlite>::new(SELECT);
    match version {
        Some(version) => query.push_bind(version),
        None => query.push("w.version"),
    };
    query.push(" WHERE w.namespace = ").push_bind(namespace.as_str().to_owned());
    match workflow {
        WorkflowRef::Id(id) => query.push(" AND w.id = ").push_bind(id.to_string()),
        WorkflowRef::Name(name) => query.push(" AND w.status = 'active' AND w.name = ").push_bind(name.clone()),
    };
    let row = query.build().fetch_optional(&sqlite.reader).await?;
    row.as_ref().map(decode).transpose()
}

pub(super) async fn list(sqlite: &Sqlite, filter: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>> {
    let mut query = QueryBuilder::<sqlx::Sqlite>::new(SELECT);
    query.push("w.version WHERE w.namespace = ").push_bind(filter.namespace.as_str().to_owned());
    if !filter.include_archived {
        query.push(" AND w.status = 'active'");
    }
    if let Some(name) = &filter.name {
        query.push(" AND w.name = ").push_bind(name.clone());
    }
    let (beyond, order) = if filter.newest_first { ("<", "DESC") } else { (">", "ASC") };
    if let Some(after) = filter.after {
        query.push(format_args!(" AND w.id {beyond} ")).push_bind(after.to_string());
    }
    query.push(format_args!(" ORDER BY w.id {order} LIMIT ")).push_bind(filter.limit as i64 + 1);
    let rows = query.build().fetch(&sqlite.reader);
    Page::read(rows, filter.limit, decode, |row| row.definition.len()).await
}

fn decode(row: &SqliteRow) -> sqlx::Result<WorkflowRow> {
    Ok(WorkflowRow {
        id: parsed(row.try_get("id")?)?,
        namespace: parsed(row.try_get("namespace")?)?,
        is_archived: row.try_get::<&str, _>("status")? == "archived",
        newest: row.try_get("newest")?,
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        updated_at: Timestamp::from_micros(row.try_get("updated_at")?),
        version: row.try_get("version")?,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        definition: row.try_get("definition")?,
        step_count: row.try_get("step_count")?,
    })
}
