//! Agents in PostgreSQL.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{AgentId, Payload, Timestamp};
use sqlx::{Row as _, postgres::PgRow};
use store::Postgres;

use super::Store;
use crate::app::Agent;

/// The constraint that two agents of one name break.
const NAME_KEY: &str = "agents_name_key";

/// A schema in PostgreSQL.
pub(super) struct PostgresStore(Postgres);

impl PostgresStore {
    pub(super) const fn new(postgres: Postgres) -> Self {
        Self(postgres)
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn load(&self) -> sqlx::Result<Vec<(Agent, Option<Timestamp>)>> {
        let query = "SELECT id, namespace, agent_type, name, capabilities, config, revision, created_at, updated_at, \
                     last_heartbeat_at FROM agents LEFT JOIN agent_health ON agent_id = id ORDER BY id";
        let rows = sqlx::query(query).fetch_all(&self.0.pool).await?;
        rows.iter().map(decode).collect()
    }

    async fn insert(&self, agent: &Agent) -> sqlx::Result<bool> {
        let query = "INSERT INTO agents (agent_type, name, capabilities, config, revision, updated_at, id, namespace, \
                     created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let written = changeable(query, agent)
            .bind(agent.id.to_string())
            .bind(agent.namespace.as_str())
            .bind(agent.created_at.to_datetime())
            .execute(&self.0.pool)
            .await;
        name_is_free(written.map(drop))
    }

    async fn update(&self, agent: &Agent) -> sqlx::Result<bool> {
        let query = "UPDATE agents SET agent_type = $1, name = $2, capabilities = $3, config = $4, revision = $5, \
                     updated_at = $6 WHERE id = $7";
        let written = changeable(query, agent).bind(agent.id.to_string()).execute(&self.0.pool).await;
        name_is_free(written.map(drop))
    }

    async fn delete(&self, id: AgentId) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM agents WHERE id = $1").bind(id.to_string()).execute(&self.0.pool).await?;
        Ok(())
    }

    async fn heard(&self, heard: &[(AgentId, Timestamp)]) -> sqlx::Result<()> {
        let (ids, times): (Vec<_>, Vec<_>) = heard.iter().map(|(id, at)| (id.to_string(), at.to_datetime())).unzip();
        // One statement however many there are. An agent that was deleted meanwhile has no row to belong to.
        let query = "INSERT INTO agent_health (agent_id, last_heartbeat_at) \
                     SELECT agent_id, heard_at FROM unnest($1::text[], $2::timestamptz[]) AS heard (agent_id, heard_at) \
                     WHERE agent_id IN (SELECT id FROM agents) ORDER BY agent_id \
                     ON CONFLICT (agent_id) DO UPDATE SET last_heartbeat_at = excluded.last_heartbeat_at";
        sqlx::query(query).bind(ids).bind(times).execute(&self.0.pool).await?;
        Ok(())
    }

    async fn ping(&self) -> sqlx::Result<()> {
        self.0.ping().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

type Query<'a> = sqlx::query::Query<'a, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Binds what a change changes, in the order of the columns in both statements.
fn changeable<'a>(query: &'static str, agent: &'a Agent) -> Query<'a> {
    sqlx::query(query)
        .bind(&agent.agent_type)
        .bind(&agent.name)
        .bind(&agent.capabilities)
        .bind(agent.config.as_str())
        .bind(agent.revision)
        .bind(agent.updated_at.to_datetime())
}

fn name_is_free(written: sqlx::Result<()>) -> sqlx::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some(NAME_KEY) => Ok(false),
        Err(error) => Err(error),
    }
}

fn decode(row: &PgRow) -> sqlx::Result<(Agent, Option<Timestamp>)> {
    let faulty = |source: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(source);
    let time = |column| row.try_get::<DateTime<Utc>, _>(column).map(Timestamp::from_datetime);
    let agent = Agent {
        id: row.try_get::<&str, _>("id")?.parse().map_err(|error| faulty(Box::new(error)))?,
        namespace: row.try_get::<&str, _>("namespace")?.parse().map_err(|error| faulty(Box::new(error)))?,
        agent_type: row.try_get("agent_type")?,
        name: row.try_get("name")?,
        capabilities: row.try_get("capabilities")?,
        config: Payload::from_slice(row.try_get::<&str, _>("config")?.as_bytes())
            .map_err(|error| faulty(Box::new(error)))?,
        revision: row.try_get("revision")?,
        created_at: time("created_at")?,
        updated_at: time("updated_at")?,
    };
    let heard = row.try_get::<Option<DateTime<Utc>>, _>("last_heartbeat_at")?.map(Timestamp::from_datetime);
    Ok((agent, heard))
}
