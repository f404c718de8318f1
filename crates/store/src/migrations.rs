//! What brings tables up to date, and whether they are.

use std::future::Future;

use lifecycle::crash_point;
use sqlx::migrate::{Migrate, MigrateError, Migrator};

/// The migrations of one service, for each database.
#[derive(Clone, Copy, Debug)]
pub struct Migrations {
    /// The service: its schema in PostgreSQL.
    pub service: &'static str,
    /// For SQLite.
    pub sqlite: &'static Migrator,
    /// For PostgreSQL.
    pub postgres: &'static Migrator,
}

/// Brings tables up to date by `run`, which does it in whichever database they are.
pub(crate) async fn apply(run: impl Future<Output = Result<(), MigrateError>>) -> Result<(), MigrateError> {
    crash_point("store.migration.before");
    run.await?;
    crash_point("store.migration.after");
    Ok(())
}

/// Fails where the tables are older than the program, or newer: what it would write there others could not read.
pub(crate) async fn check<C: Migrate>(connection: &mut C, migrator: &Migrator) -> Result<(), MigrateError> {
    let applied = connection.list_applied_migrations("_sqlx_migrations").await?;
    if let Some(newer) = applied.iter().find(|migration| !migrator.version_exists(migration.version)) {
        return Err(MigrateError::VersionMissing(newer.version));
    }
    let is_applied = |version| applied.iter().any(|migration| migration.version == version);
    match migrator.iter().map(|migration| migration.version).find(|version| !is_applied(*version)) {
        None => Ok(()),
        Some(version) => Err(MigrateError::VersionNotPresent(version)),
    }
}
