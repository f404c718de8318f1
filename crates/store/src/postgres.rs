//! PostgreSQL: one pool, kept to one schema.

use std::{
    future::Future,
    io,
    ops::{Deref, DerefMut},
    time::Duration,
};

use settings::{Database, Secret};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres as Driver,
    migrate::Migrator,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{OpenError, migrations};

/// A PostgreSQL database, seen through one schema: no statement reaches another service's tables by accident.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// For everything.
    pub pool: PgPool,
    /// See [`Self::limited`].
    limit: Duration,
}

/// What an answer may be later than the server's own limit on a statement.
const MARGIN: Duration = Duration::from_secs(2);

/// A connection that was given back so shortly before is not asked whether it lives before it is used: the pool has just asked it,
/// and asking takes as long as a small statement.
const FRESH: Duration = Duration::from_secs(1);

impl Postgres {
    /// Connects, makes the schema where it is missing, and brings its tables up to date.
    ///
    /// Every connection has `search_path` set to the schema, and the statement timeout of the settings. Every statement of ours
    /// finds what it wants by an index, so the planner is told to: a plan that it makes and keeps while a table is new, and small,
    /// would else read the whole of it, again and again as it grows, until the next `ANALYZE`. Where it has no other way it takes
    /// that for so dear that it would compile the statement first, which takes longer than reading the few rows: it does not.
    pub(crate) async fn open(
        settings: &Database,
        url: &Secret,
        schema: &'static str,
        migrator: &Migrator,
    ) -> Result<Self, OpenError> {
        let place = place(url.reveal()).to_owned();
        let connect = |source| OpenError::Connect { place: place.clone(), source };
        let timeout = settings.statement_timeout.as_millis().to_string();
        let options: PgConnectOptions = url.reveal().parse().map_err(connect)?;
        let options = options.application_name(&format!("troupe-{schema}")).options([
            ("search_path", schema),
            ("timezone", "UTC"),
            ("statement_timeout", &timeout),
            ("idle_in_transaction_session_timeout", &timeout),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("jit", "off"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections.max(1))
            .acquire_timeout(settings.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, since| {
                Box::pin(async move {
                    if since.idle_for > FRESH {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options)
            .await
            .map_err(connect)?;
        let mut migrator = Migrator::with_migrations(migrator.iter().cloned().collect());
        migrator.create_schema(schema);
        let migrated = migrate(&pool, &migrator, settings.migrate).await;
        migrated.map_err(|source| OpenError::Migrate { place, source })?;
        Ok(Self { pool, limit: settings.statement_timeout + MARGIN })
    }

    /// The same schema through a pool of its own, for what must not wait for what users read.
    #[must_use]
    pub fn apart(&self, connections: u32) -> Self {
        let options = self.pool.options().clone().max_connections(connections).acquire_timeout(self.limit);
        let pool = options.connect_lazy_with(self.pool.connect_options().as_ref().clone());
        Self { pool, limit: self.limit }
    }

    /// A connection of the pool. Unlike one of the pool itself it may be left in the middle of a statement.
    pub async fn lend(&self) -> sqlx::Result<Lent> {
        Ok(Lent { connection: self.pool.acquire().await?, is_answered: false })
    }

    /// Waits no longer than the server may work on one statement, and a little: a connection that has gone silent never says
    /// anything, not even that its statement took too long.
    pub async fn limited<T, E: From<sqlx::Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let silent = || sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database does not answer"));
        tokio::time::timeout(self.limit, work).await.unwrap_or_else(|_| Err(silent().into()))
    }

    /// Does it answer?
    pub async fn ping(&self) -> sqlx::Result<()> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map(drop)
    }

    /// Closes the pool after its last statements.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A connection that is closed where it is not given back: what it was asked is not answered yet, and the pool, which asks
/// every connection something before it takes it back, could wait for that for ever.
#[derive(Debug)]
pub struct Lent {
    connection: PoolConnection<Driver>,
    is_answered: bool,
}

impl Lent {
    /// Everything that it was asked is answered.
    pub fn give_back(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// What may be told of a URL: a password stands before the last `@`, or in the query.
fn place(url: &str) -> &str {
    let before_query = url.split_once('?').map_or(url, |(before, _)| before);
    before_query.rsplit_once('@').map_or("PostgreSQL", |(_, place)| place)
}

async fn migrate(pool: &PgPool, migrator: &Migrator, is_allowed: bool) -> Result<(), sqlx::migrate::MigrateError> {
    let mut connection = pool.acquire().await?;
    // Waiting for another replica's migration, or a long one of our own, is no runaway statement.
    sqlx::raw_sql("SET statement_timeout = 0").execute(&mut *connection).await?;
    if is_allowed {
        migrations::apply(migrator.run(&mut *connection)).await?;
    } else {
        migrations::check(&mut *connection, migrator).await?;
    }
    sqlx::raw_sql("RESET statement_timeout").execute(&mut *connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use testkit::Servers;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_has_died_while_nobody_used_it_is_replaced() {
        let url = Servers::shared().database().await;
        let settings = Database { max_connections: 1, ..Database::default() };
        let postgres = Postgres::open(&settings, &Secret::new(url.clone()), "test", &Migrator::DEFAULT).await.unwrap();
        let process: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&postgres.pool).await.unwrap();
        let mut other = PgConnection::connect(&url).await.unwrap();
        sqlx::query("SELECT pg_terminate_backend($1, 10000)").bind(process).execute(&mut other).await.unwrap();
        // What is tested is that time has passed.
        tokio::time::sleep(FRESH).await;
        postgres.ping().await.expect("another connection is made");
    }

    #[test]
    fn no_password_is_told_wherever_it_stands() {
        for url in [
            "postgres://u:secret@h:1/d",
            "postgres://u:se@cret@h:1/d",
            "postgres://u@h:1/d?password=secret",
            "postgres://u@h:1/d?password=a@secret",
        ] {
            assert_eq!(place(url), "h:1/d");
        }
    }
}
