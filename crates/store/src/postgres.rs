//! PostgreSQL: one pool, kept to one schema.

use settings::{Database, Secret};
use sqlx::{
    PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{OpenError, migrations};

/// A PostgreSQL database, seen through one schema: no statement reaches another service's tables by accident.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// For everything.
    pub pool: PgPool,
}

impl Postgres {
    /// Connects, makes the schema where it is missing, and brings its tables up to date.
    ///
    /// Every connection has `search_path` set to the schema, and the statement timeout of the settings.
    pub(crate) async fn open(
        settings: &Database,
        url: &Secret,
        schema: &'static str,
        migrator: &Migrator,
    ) -> Result<Self, OpenError> {
        // The URL has a password: only what follows the last `@` is told.
        let place = url.reveal().rsplit_once('@').map_or("PostgreSQL", |(_, place)| place).to_owned();
        let connect = |source| OpenError::Connect { place: place.clone(), source };
        let timeout = settings.statement_timeout.as_millis().to_string();
        let options: PgConnectOptions = url.reveal().parse().map_err(connect)?;
        let options = options.application_name(&format!("troupe-{schema}")).options([
            ("search_path", schema),
            ("timezone", "UTC"),
            ("statement_timeout", &timeout),
            ("idle_in_transaction_session_timeout", &timeout),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections.max(1))
            .acquire_timeout(settings.acquire_timeout)
            .connect_with(options)
            .await
            .map_err(connect)?;
        let mut migrator = Migrator::with_migrations(migrator.iter().cloned().collect());
        migrator.create_schema(schema);
        let migrated = migrate(&pool, &migrator, settings.migrate).await;
        migrated.map_err(|source| OpenError::Migrate { place, source })?;
        Ok(Self { pool })
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

async fn migrate(pool: &PgPool, migrator: &Migrator, is_allowed: bool) -> Result<(), sqlx::migrate::MigrateError> {
    let mut connection = pool.acquire().await?;
    // Waiting for another replica's migration, or a long one of our own, is no runaway statement.
    sqlx::raw_sql("SET statement_timeout = 0").execute(&mut *connection).await?;
    if is_allowed {
        migrator.run(&mut *connection).await?;
    } else {
        migrations::check(&mut *connection, migrator).await?;
    }
    sqlx::raw_sql("RESET statement_timeout").execute(&mut *connection).await?;
    Ok(())
}
