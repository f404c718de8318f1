//! Where agents are kept.

mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use ::store::{Database, Migrations, OpenError};
use async_trait::async_trait;
use domain::{AgentId, Namespace, Timestamp};
use sqlx::migrate::Migrator;

pub(crate) use self::postgres::{Changes, Told};
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

/// An agent, and when it was last heard of.
pub(crate) type Row = (Agent, Option<Timestamp>);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is committed.
    Done,
    /// Another agent of the namespace has the name.
    NameTaken,
    /// There is an agent with the id already; of an update: there is none at the revision before.
    Outdated,
}

/// A database of agents. Names are unique among the agents of a namespace, also for two writers at once, in this process or
/// in others.
#[async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Every agent.
    async fn load(&self) -> sqlx::Result<Vec<Row>>;
    /// Those of these agents that there are.
    async fn find(&self, ids: &[AgentId]) -> sqlx::Result<Vec<Row>>;
    /// The agent of that name.
    async fn named(&self, namespace: &Namespace, name: &str) -> sqlx::Result<Option<Row>>;
    /// Writes a new agent.
    async fn insert(&self, agent: &Agent) -> sqlx::Result<Written>;
    /// Writes a changed agent over the revision before its own, and no other.
    async fn update(&self, agent: &Agent) -> sqlx::Result<Written>;
    /// Removes an agent; false where there is none.
    async fn delete(&self, namespace: &Namespace, id: AgentId, revision: Option<i64>) -> sqlx::Result<bool>;
    /// Notes when agents were last heard of, unless they were heard of later; those that are gone are left out.
    async fn heard(&self, heard: &[(AgentId, Timestamp)]) -> sqlx::Result<()>;
    /// Tells what is written; nothing where no other process can write.
    fn changes(&self) -> Option<Changes>;
    /// Does it answer?
    async fn ping(&self) -> sqlx::Result<()>;
    /// Closes after the last statement.
    async fn close(&self);
}
