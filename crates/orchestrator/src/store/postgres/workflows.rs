//! Workflows and their versions.

use domain::{Namespace, Timestamp, WorkflowId};
use sqlx::{PgConnection, QueryBuilder, Row as _, postgres::PgRow};
use store::{Page, Postgres};

use super::small;
use crate::store::{WorkflowFilter, WorkflowRef, WorkflowRow, Written, parsed};

/// The index that two active workflows of one name break.
const NAME_KEY: &str = "workflows_active_name";

const SELECT: &str = "SELECT w.id, w.namespace, w.status, w.version AS newest, w.created_at, w.updated_at, v.version, \
                      v.name, v.description, v.definition, v.step_count FROM workflows AS w \
                      JOIN workflow_versions AS v ON v.workflow_id = w.id AND v.version = ";

pub(super) async fn create(postgres: &Postgres, row: &WorkflowRow) -> sqlx::Result<Written> {
    let mut transaction = postgres.pool.begin().await?;
    let insert = "INSERT INTO workflows (id, namespace, name, version, status, created_at, updated_at) \
                  VALUES ($1, $2, $3, $4, 'active', $5, $6)";
    let written = sqlx::query(insert)
        .bind(row.id.to_string())
        .bind(row.namespace.as_str().to_owned())
        .bind(row.name.clone())
        .bind(row.version as i32)
        .bind(row.created_at.to_datetime())
        .bind(row.updated_at.to_datetime())
        .execute(&mut *transaction)
        .await;
    if let Err(error) = written {
        return name_taken(error);
    }
    insert_version(&mut transaction, row).await?;
    transaction.commit().await?;
    Ok(Written::Done)
}

pub(super) async fn update(postgres: &Postgres, row: &WorkflowRow) -> sqlx::Result<Written> {
    let mut transaction = postgres.pool.begin().await?;
    let update = "UPDATE workflows SET name = $1, version = $2, updated_at = $3 WHERE id = $4 AND version = $5 AND \
                  status = 'active'";
    let written = sqlx::query(update)
        .bind(row.name.clone())
        .bind(row.version as i32)
        .bind(row.updated_at.to_datetime())
        .bind(row.id.to_string())
        .bind(row.version as i32 - 1)
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

async fn insert_version(connection: &mut PgConnection, row: &WorkflowRow) -> sqlx::Result<()> {
    let insert = "INSERT INTO workflow_versions (workflow_id, version, name, description, definition, step_count) \
                  VALUES ($1, $2, $3, $4, $5, $6)";
    let query = sqlx::query(insert)
        .bind(row.id.to_string())
        .bind(row.version as i32)
        .bind(row.name.clone())
        .bind(row.description.clone())
        .bind(row.definition.clone())
        .bind(row.step_count as i32);
    query.execute(connection).await.map(drop)
}

fn name_taken(error: sqlx::Error) -> sqlx::Result<Written> {
    let is_taken = error.as_database_error().is_some_and(|database| database.constraint() == Some(NAME_KEY));
    if is_taken { Ok(Written::NameTaken) } else { Err(error) }
}

pub(super) async fn archive(
    postgres: &Postgres,
    id: WorkflowId,
    expected: Option<u32>,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let update = "UPDATE workflows SET status = 'archived', updated_at = $1 WHERE id = $2 AND status = 'active' \
                  AND ($3::integer IS NULL OR version = $3)";
    let expected = expected.map(|version| version as i32);
    let query = sqlx::query(update).bind(now.to_datetime()).bind(id.to_string()).bind(expected);
    let done = query.execute(&postgres.pool).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn get(
    postgres: &Postgres,
    namespace: &Namespace,
    workflow: &WorkflowRef,
    version: Option<u32>,
) -> sqlx::Result<Option<WorkflowRow>> {
    let mut query = QueryBuilder::<sqlx::Postgres>::new(SELECT);
    match version {
        Some(version) => query.push_bind(version as i32),
        None => query.push("w.version"),
    };
    query.push(" WHERE w.namespace = ").push_bind(namespace.as_str().to_owned());
    match workflow {
        WorkflowRef::Id(id) => query.push(" AND w.id = ").push_bind(id.to_string()),
        WorkflowRef::Name(name) => query.push(" AND w.status = 'active' AND w.name = ").push_bind(name.clone()),
    };
    let mut connection = postgres.lend().await?;
    let row = query.build().fetch_optional(&mut *connection).await;
    connection.give_back();
    row?.as_ref().map(decode).transpose()
}

pub(super) async fn list(postgres: &Postgres, filter: &WorkflowFilter) -> sqlx::Result<Page<WorkflowRow>> {
    let mut query = QueryBuilder::<sqlx::Postgres>::new(SELECT);
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
    let rows = query.build().fetch(&postgres.pool);
    Page::read(rows, filter.limit, decode, |row| row.definition.len()).await
}

fn decode(row: &PgRow) -> sqlx::Result<WorkflowRow> {
    Ok(WorkflowRow {
        id: parsed(row.try_get("id")?)?,
        namespace: parsed(row.try_get("namespace")?)?,
        is_archived: row.try_get::<&str, _>("status")? == "archived",
        newest: small(row.try_get("newest")?)?,
        created_at: Timestamp::from_datetime(row.try_get("created_at")?),
        updated_at: Timestamp::from_datetime(row.try_get("updated_at")?),
        version: small(row.try_get("version")?)?,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        definition: row.try_get("definition")?,
        step_count: small(row.try_get("step_count")?)?,
    })
}
