//! Agents in SQLite.

use async_trait::async_trait;
use domain::{AgentId, Namespace, Payload, Timestamp};
use sqlx::{
    AssertSqlSafe, Row as _,
    sqlite::{SqliteQueryResult, SqliteRow},
};
use store::Sqlite;

use super::{Changes, Row, Store, Written};
use crate::app::Agent;

/// The constraint that two agents of one name break.
const NAME_KEY: &str = "agents.namespace, agents.name";

/// A SQLite file.
pub(super) struct SqliteStore(Sqlite);

impl SqliteStore {
    pub(super) const fn new(sqlite: Sqlite) -> Self {
        Self(sqlite)
    }
}

const SELECT: &str = "SELECT id, namespace, agent_type, name, capabilities, config, revision, created_at, updated_at, \
                      last_heartbeat_at FROM agents LEFT JOIN agent_health ON agent_id = id";

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self) -> sqlx::Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!("{SELECT} ORDER BY id"))).fetch_all(&self.0.reader).await?;
        rows.iter().map(decode).collect()
    }

    async fn find(&self, ids: &[AgentId]) -> sqlx::Result<Vec<Row>> {
        let ids = ids.iter().map(ToString::to_string).collect::<serde_json::Value>().to_string();
        let query =
            sqlx::query(AssertSqlSafe(format!("{SELECT} WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id")));
        let rows = query.bind(ids).fetch_all(&self.0.reader).await?;
        rows.iter().map(decode).collect()
    }

    async fn named(&self, namespace: &Namespace, name: &str) -> sqlx::Result<Option<Row>> {
        let query = sqlx::query(AssertSqlSafe(format!("{SELECT} WHERE namespace = ? AND name = ?")));
        let row = query.bind(namespace.to_string()).bind(name.to_owned()).fetch_optional(&self.0.reader).await?;
        row.as_ref().map(decode).transpose()
    }

    async fn insert(&self, agent: &Agent) -> sqlx::Result<Written> {
        let query = "INSERT INTO agents (agent_type, name, capabilities, config, revision, updated_at, id, namespace, \
                     created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let written = changeable(query, agent)
            .bind(agent.id.to_string())
            .bind(agent.namespace.as_str().to_owned())
            .bind(agent.created_at.as_micros())
            .execute(&self.0.writer)
            .await;
        outcome(written)
    }

    async fn update(&self, agent: &Agent) -> sqlx::Result<Written> {
        let query = "UPDATE agents SET agent_type = ?, name = ?, capabilities = ?, config = ?, revision = ?, \
                     updated_at = ? WHERE id = ? AND revision = ? - 1";
        let query = changeable(query, agent).bind(agent.id.to_string()).bind(agent.revision);
        outcome(query.execute(&self.0.writer).await)
    }

    async fn delete(&self, namespace: &Namespace, id: AgentId, revision: Option<i64>) -> sqlx::Result<bool> {
        let query =
            sqlx::query("DELETE FROM agents WHERE namespace = ?1 AND id = ?2 AND (?3 IS NULL OR revision = ?3)");
        let query = query.bind(namespace.to_string()).bind(id.to_string()).bind(revision);
        let done = query.execute(&self.0.writer).await?;
        Ok(done.rows_affected() > 0)
    }

    async fn heard(&self, heard: &[(AgentId, Timestamp)]) -> sqlx::Result<()> {
        let rows: Vec<_> = heard.iter().map(|(id, at)| (id.to_string(), at.as_micros())).collect();
        let rows = serde_json::to_string(&rows).unwrap_or_else(|_| "[]".to_owned());
        // One statement however many there are. An agent that was deleted meanwhile has no row to belong to.
        let query = "INSERT INTO agent_health (agent_id, last_heartbeat_at) \
                     SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE (value ->> 0) IN (SELECT id FROM agents) \
                     ON CONFLICT (agent_id) DO UPDATE \
                     SET last_heartbeat_at = max(last_heartbeat_at, excluded.last_heartbeat_at)";
        sqlx::query(query).bind(rows).execute(&self.0.writer).await?;
        Ok(())
    }

    /// A file has one process.
    fn changes(&self) -> Option<Changes> {
        None
    }

    async fn ping(&self) -> sqlx::Result<()> {
        self.0.ping().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

type Query<'a> = sqlx::query::Query<'a, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Binds what a change changes, in the order of the columns in both statements.
fn changeable<'a>(query: &'static str, agent: &Agent) -> Query<'a> {
    let capabilities = serde_json::Value::from(agent.capabilities.clone()).to_string();
    sqlx::query(query)
        .bind(agent.agent_type.clone())
        .bind(agent.name.clone())
        .bind(capabilities)
        .bind(agent.config.as_str().to_owned())
        .bind(agent.revision)
        .bind(agent.updated_at.as_micros())
}

/// SQLite names the columns of a broken constraint, and not the constraint.
fn outcome(written: sqlx::Result<SqliteQueryResult>) -> sqlx::Result<Written> {
    match written {
        Ok(done) if done.rows_affected() > 0 => Ok(Written::Done),
        Ok(_) => Ok(Written::Outdated),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() && error.message().contains(NAME_KEY) => {
            Ok(Written::NameTaken)
        }
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(Written::Outdated),
        Err(error) => Err(error),
    }
}

fn decode(row: &SqliteRow) -> sqlx::Result<Row> {
    let faulty = |source: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(source);
    let agent = Agent {
        id: row.try_get::<&str, _>("id")?.parse().map_err(|error| faulty(Box::new(error)))?,
        namespace: row.try_get::<&str, _>("namespace")?.parse().map_err(|error| faulty(Box::new(error)))?,
        agent_type: row.try_get("agent_type")?,
        name: row.try_get("name")?,
        capabilities: serde_json::from_str(row.try_get("capabilities")?).map_err(|error| faulty(Box::new(error)))?,
        config: Payload::from_slice(row.try_get::<&str, _>("config")?.as_bytes())
            .map_err(|error| faulty(Box::new(error)))?,
        revision: row.try_get("revision")?,
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        updated_at: Timestamp::from_micros(row.try_get("updated_at")?),
    };
    let heard = row.try_get::<Option<i64>, _>("last_heartbeat_at")?.map(Timestamp::from_micros);
    Ok((agent, heard))
}
