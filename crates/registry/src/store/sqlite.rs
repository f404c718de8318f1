//! Agents in SQLite.

use async_trait::async_trait;
use domain::{AgentId, Payload, Timestamp};
use sqlx::{Row as _, sqlite::SqliteRow};
use store::Sqlite;

use super::Store;
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

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self) -> sqlx::Result<Vec<(Agent, Option<Timestamp>)>> {
        let query = "SELECT id, namespace, agent_type, name, capabilities, config, revision, created_at, updated_at, \
                     last_heartbeat_at FROM agents LEFT JOIN agent_health ON agent_id = id ORDER BY id";
        let rows = sqlx::query(query).fetch_all(&self.0.reader).await?;
        rows.iter().map(decode).collect()
    }

    async fn insert(&self, agent: &Agent) -> sqlx::Result<bool> {
        let query = "INSERT INTO agents (agent_type, name, capabilities, config, revision, updated_at, id, namespace, \
                     created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let written = changeable(query, agent)
            .bind(agent.id.to_string())
            .bind(agent.namespace.as_str().to_owned())
            .bind(agent.created_at.as_micros())
            .execute(&self.0.writer)
            .await;
        name_is_free(written.map(drop))
    }

    async fn update(&self, agent: &Agent) -> sqlx::Result<bool> {
        let query = "UPDATE agents SET agent_type = ?, name = ?, capabilities = ?, config = ?, revision = ?, \
                     updated_at = ? WHERE id = ?";
        let written = changeable(query, agent).bind(agent.id.to_string()).execute(&self.0.writer).await;
        name_is_free(written.map(drop))
    }

    async fn delete(&self, id: AgentId) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM agents WHERE id = ?").bind(id.to_string()).execute(&self.0.writer).await?;
        Ok(())
    }

    async fn heard(&self, heard: &[(AgentId, Timestamp)]) -> sqlx::Result<()> {
        let rows: Vec<_> = heard.iter().map(|(id, at)| (id.to_string(), at.as_micros())).collect();
        let rows = serde_json::to_string(&rows).unwrap_or_else(|_| "[]".to_owned());
        // One statement however many there are. An agent that was deleted meanwhile has no row to belong to.
        let query = "INSERT INTO agent_health (agent_id, last_heartbeat_at) \
                     SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE (value ->> 0) IN (SELECT id FROM agents) \
                     ON CONFLICT (agent_id) DO UPDATE SET last_heartbeat_at = excluded.last_heartbeat_at";
        sqlx::query(query).bind(rows).execute(&self.0.writer).await?;
        Ok(())
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

/// SQLite names the columns of a broken unique index, and not the index.
fn name_is_free(written: sqlx::Result<()>) -> sqlx::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() && error.message().contains(NAME_KEY) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn decode(row: &SqliteRow) -> sqlx::Result<(Agent, Option<Timestamp>)> {
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
