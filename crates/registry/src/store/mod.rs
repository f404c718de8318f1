//! Where agents are kept.

mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use ::store::{Database, Migrations, OpenError};
use async_trait::async_trait;
use domain::{AgentId, Timestamp};
use sqlx::migrate::Migrator;

use self::{postgres::PostgresStore, sqlite::SqliteStore};
use crate::app::Agent;

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite/registry");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres/registry");
/// What `troupe migrate` applies.
pub static MIGRATIONS: Migrations = Migrations { service: "registry", sqlite: &SQLITE, postgres: &POSTGRES };

/// Opens the database that the settings name.
pub(crate) async fn open(settings: &settings::Database) -> Result<Box<dyn Store>, OpenError> {
    Ok(match Database::open(settings, &MIGRATIONS).await? {
        Database::Sqlite(sqlite) => Box::new(SqliteStore::new(sqlite)),
        Database::Postgres(postgres) => Box::new(PostgresStore::new(postgres)),
    })
}

/// A database of agents. Names are unique among the agents of a namespace, also for two writers at once.
#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Every agent, with the time it was last heard of.
    async fn load(&self) -> sqlx::Result<Vec<(Agent, Option<Timestamp>)>>;
    /// Writes a new agent; false where its name is taken.
    async fn insert(&self, agent: &Agent) -> sqlx::Result<bool>;
    /// Writes a changed agent; false where its name is taken.
    async fn update(&self, agent: &Agent) -> sqlx::Result<bool>;
    /// Removes an agent.
    async fn delete(&self, id: AgentId) -> sqlx::Result<()>;
    /// Notes when agents were last heard of; those that are gone are left out.
    async fn heard(&self, heard: &[(AgentId, Timestamp)]) -> sqlx::Result<()>;
    /// Does it answer?
    async fn ping(&self) -> sqlx::Result<()>;
    /// Closes after the last statement.
    async fn close(&self);
}
