//! Being told what any replica writes.

use std::time::Duration;

use domain::AgentId;
use futures::FutureExt as _;
use sqlx::{
    Executor as _, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::timeout;

/// Where the database tells of agents; see the migration that makes the trigger. Channels belong to a database.
const CHANNEL: &str = "registry_agents";
/// How long a connection may be silent before it is asked whether it is still there: one that was cut says nothing.
const ASK_AFTER: Duration = Duration::from_secs(5);
/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Agents that are told of at once, at most: what one query looks for.
const BATCH: usize = 1_000;

/// Listens to the notifications that are part of every commit, on a connection of its own: a busy pool keeps nobody waiting.
///
/// Notifications come in the order of the commits. None is lost unseen: whatever may have been missed, a reconnect in the
/// middle included, is told as [`Told::Anything`].
pub(crate) struct Changes {
    options: PgConnectOptions,
    wait: Duration,
    listener: Option<PgListener>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Listening begins: all that was written before may be news.
    Anything,
    /// These agents, at least once.
    Agents(Vec<AgentId>),
}

impl Changes {
    pub(super) fn new(pool: &PgPool) -> Self {
        let options = (*pool.connect_options()).clone();
        Self { options, wait: pool.options().get_acquire_timeout(), listener: None }
    }

    /// Waits for the next changes. After an error it begins anew. To be dropped only for good.
    pub(crate) async fn next(&mut self) -> sqlx::Result<Told> {
        let Some(listener) = &mut self.listener else {
            self.listener = Some(self.listen().await?);
            return Ok(Told::Anything);
        };
        let told = receive(listener).await;
        if !matches!(told, Ok(Told::Agents(_))) {
            self.listener = None;
        }
        match told {
            // The listener would connect again by itself, but nobody would know when.
            Ok(Told::Anything) => Box::pin(self.next()).await,
            told => told,
        }
    }

    /// Begins anew with the next call: what was told could not be used.
    pub(crate) fn begin_anew(&mut self) {
        self.listener = None;
    }

    /// A pool for each try: a connection that hangs keeps its place until it has said goodbye.
    async fn listen(&self) -> sqlx::Result<PgListener> {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(self.wait).max_lifetime(None);
        let pool = pool.idle_timeout(None).connect_with(self.options.clone()).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }
}

/// The next notification and those that have come with it; [`Told::Anything`] where the connection is lost.
async fn receive(listener: &mut PgListener) -> sqlx::Result<Told> {
    loop {
        match timeout(ASK_AFTER, listener.try_recv()).await {
            Ok(Ok(Some(first))) => {
                let mut ids = vec![parse(first.payload())?];
                while ids.len() < BATCH
                    && let Some(next) = listener.try_recv().now_or_never()
                {
                    match next? {
                        Some(next) => ids.push(parse(next.payload())?),
                        None => return Ok(Told::Anything),
                    }
                }
                ids.sort_unstable();
                ids.dedup();
                return Ok(Told::Agents(ids));
            }
            Ok(Ok(None)) => return Ok(Told::Anything),
            Ok(Err(error)) => return Err(error),
            // What comes with the answer is kept for the next round.
            Err(_) => match timeout(ANSWER, listener.execute("SELECT 1")).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(Told::Anything),
            },
        }
    }
}

/// An agent's id, and its revision after a space.
fn parse(payload: &str) -> sqlx::Result<AgentId> {
    let id = payload.split(' ').next().unwrap_or_default();
    id.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
