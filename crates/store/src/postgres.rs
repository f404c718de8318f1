//! PostgreSQL: one pool, kept to one schema.

use std::{future::Future, io, time::Duration};

use settings::{Database, Secret};
use sqlx::{
    Connection as _, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    OpenError,
    lent::{FRESH, Kept, Lent},
    migrations,
};

/// A PostgreSQL database, seen through one schema: no statement reaches another service's tables by accident.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// For everything.
    pub pool: PgPool,
    /// For what is lent, where this value has connections of its own.
    kept: Option<Kept>,
    /// See [`Self::limited`].
    limit: Duration,
}

/// What an answer may be later than the server's own limit on a statement.
const MARGIN: Duration = Duration::from_secs(2);

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
        Ok(Self { pool, kept: None, limit: settings.statement_timeout + MARGIN })
    }

    /// The same schema, where what is lent comes from a few connections of its own and so waits for nobody else.
    #[must_use]
    pub fn apart(&self, connections: usize) -> Self {
        let options = self.pool.connect_options().as_ref().clone();
        Self { kept: Some(Kept::new(options, connections, self.limit)), ..self.clone() }
    }

    /// A connection. Unlike one of the pool itself it may be left in the middle of a statement.
    pub async fn lend(&self) -> sqlx::Result<Lent> {
        match &self.kept {
            // Connecting is large, and rare: callers need not carry room for it.
            Some(kept) => Box::pin(kept.lend()).await,
            None => Ok(self.pool.acquire().await?.into()),
        }
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

    /// Closes the pool after its last statements; where there are connections of its own, those alone.
    pub async fn close(&self) {
        match &self.kept {
            Some(kept) => kept.close(),
            None => self.pool.close().await,
        }
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
        migrations::bring(migrator.run(&mut *connection)).await?;
    } else {
        migrations::check(&mut *connection, migrator).await?;
    }
    sqlx::raw_sql("RESET statement_timeout").execute(&mut *connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
