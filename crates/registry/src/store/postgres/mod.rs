//! Agents in PostgreSQL.

mod changes;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{AgentId, Namespace, Payload, Timestamp};
use sqlx::{
    AssertSqlSafe, Row as _,
    postgres::{PgQueryResult, PgRow},
};
use store::Postgres;

pub(crate) use self::changes::{Changes, Told};
use super::{Row, Store, Written};
use crate::app::Agent;

/// The constraint that two agents of one name break.
const NAME_KEY: &str = "agents_name_key";
/// The constraint that two agents of one id break.
const ID_KEY: &str = "agents_key";

/// A schema in PostgreSQL.
pub(super) struct PostgresStore(Postgres);

impl PostgresStore {
    pub(super) const fn new(postgres: Postgres) -> Self {
        Self(postgres)
    }
}

const SELECT: &str = "SELECT id, namespace, agent_type, name, capabilities, config, revision, created_at, updated_at, \
                      last_heartbeat_at FROM agents LEFT JOIN agent_health ON agent_id = id";

#[async_trait]
impl Store for PostgresStore {
    async fn load(&self) -> sqlx::Result<Vec<Row>> {
        let rows = sqlx::query(AssertSqlSafe(format!("{SELECT} ORDER BY id"))).fetch_all(&self.0.pool).await?;
        rows.iter().map(decode).collect()
    }

    async fn find(&self, ids: &[AgentId]) -> sqlx::Result<Vec<Row>> {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let query = sqlx::query(AssertSqlSafe(format!("{SELECT} WHERE id = ANY($1) ORDER BY id")));
        let rows = query.bind(ids).fetch_all(&self.0.pool).await?;
        rows.iter().map(decode).collect()
    }

    async fn named(&self, namespace: &Namespace, name: &str) -> sqlx::Result<Option<Row>> {
        let query = sqlx::query(AssertSqlSafe(format!("{SELECT} WHERE namespace = $1 AND name = $2")));
        let row = query.bind(namespace.as_str()).bind(name).fetch_optional(&self.0.pool).await?;
        row.as_ref().map(decode).transpose()
    }

    async fn insert(&self, agent: &Agent) -> sqlx::Result<Written> {
        let query = "INSERT INTO agents (agent_type, name, capabilities, config, revision, updated_at, id, namespace, \
                     created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let written = changeable(query, agent)
            .bind(agent.id.to_string())
            .bind(agent.namespace.as_str())
            .bind(agent.created_at.to_datetime())
            .execute(&self.0.pool)
            .await;
        outcome(written)
    }

    async fn update(&self, agent: &Agent) -> sqlx::Result<Written> {
        let query = "UPDATE agents SET agent_type = $1, name = $2, capabilities = $3, config = $4, revision = $5, \
                     updated_at = $6 WHERE id = $7 AND revision = $5 - 1";
        outcome(changeable(query, agent).bind(agent.id.to_string()).execute(&self.0.pool).await)
    }

    async fn delete(&self, namespace: &Namespace, id: AgentId, revision: Option<i64>) -> sqlx::Result<bool> {
        let delete = "DELETE FROM agents WHERE namespace = $1 AND id = $2 AND ($3::bigint IS NULL OR revision = $3)";
        let query = sqlx::query(delete).bind(namespace.as_str()).bind(id.to_string()).bind(revision);
        let done = query.execute(&self.0.pool).await?;
        Ok(done.rows_affected() > 0)
    }

    async fn heard(&self, heard: &[(AgentId, Timestamp)]) -> sqlx::Result<()> {
        let (ids, times): (Vec<_>, Vec<_>) = heard.iter().map(|(id, at)| (id.to_string(), at.to_datetime())).unzip();
        // One statement however many there are, in one order, since every replica does the same. An agent that was deleted
        // meanwhile has no row to belong to.
        let query = "INSERT INTO agent_health (agent_id, last_heartbeat_at) \
                     SELECT agent_id, heard_at FROM unnest($1::text[], $2::timestamptz[]) AS heard (agent_id, heard_at) \
                     WHERE agent_id IN (SELECT id FROM agents) ORDER BY agent_id \
                     ON CONFLICT (agent_id) DO UPDATE \
                     SET last_heartbeat_at = greatest(agent_health.last_heartbeat_at, excluded.last_heartbeat_at)";
        sqlx::query(query).bind(ids).bind(times).execute(&self.0.pool).await?;
        Ok(())
    }

    fn changes(&self) -> Option<Changes> {
        Some(Changes::new(&self.0.pool))
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

fn outcome(written: sqlx::Result<PgQueryResult>) -> sqlx::Result<Written> {
    match written {
        Ok(done) if done.rows_affected() > 0 => Ok(Written::Done),
        Ok(_) => Ok(Written::Outdated),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some(NAME_KEY) => Ok(Written::NameTaken),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some(ID_KEY) => Ok(Written::Outdated),
        Err(error) => Err(error),
    }
}

fn decode(row: &PgRow) -> sqlx::Result<Row> {
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
