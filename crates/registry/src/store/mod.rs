//! Where agents are kept.

mod sqlite;

use async_trait::async_trait;
use domain::{AgentId, Timestamp};

use crate::app::Agent;

pub(crate) use sqlite::SqliteStore;

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
    /// Closes after the last statement.
    async fn close(&self);
}
