//! SQLite: one connection that writes, several that read.

use std::{path::Path, time::Duration};

use settings::Database;
use sqlx::{
    Connection as _, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{OpenError, make_folder, migrations};

/// How long one statement waits for another process's lock before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A SQLite database: SQLite has one writer at a time, so writes queue for one connection instead of for a lock.
#[derive(Clone, Debug)]
pub struct Sqlite {
    /// For everything that writes.
    pub writer: SqlitePool,
    /// For everything that only reads; sees every commit made before.
    pub reader: SqlitePool,
}

impl Sqlite {
    /// Opens (or makes) the file and brings its tables up to date.
    ///
    /// `synchronous=FULL` with a write-ahead log flushes at every commit: what is committed survives a power cut.
    pub(crate) async fn open(settings: &Database, path: &Path, migrator: &Migrator) -> Result<Self, OpenError> {
        let place = path.display().to_string();
        let connect = |source| OpenError::Connect { place: place.clone(), source };
        if let Some(folder) = path.parent() {
            make_folder(folder).map_err(|error| connect(error.into()))?;
        }
        let options = options(path);
        let pool = |connections: u32| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(settings.acquire_timeout)
                // A connection holds its page cache and its prepared statements: never drop a warm one.
                .idle_timeout(None)
                .max_lifetime(None)
                // It is in this process: there is nothing to ask.
                .test_before_acquire(false)
                // On a full disk SQLite ends a transaction by itself, which sqlx does not notice: for it the connection
                // stays inside of one for ever. A connection that says so is replaced.
                .before_acquire(|connection, _| {
                    let is_sound = !connection.is_in_transaction();
                    Box::pin(async move { Ok(is_sound) })
                })
        };
        let writer = pool(1).connect_with(options.clone()).await.map_err(connect)?;
        let migrated = migrate(&writer, migrator, settings.migrate).await;
        migrated.map_err(|source| OpenError::Migrate { place: place.clone(), source })?;
        let reader =
            pool(settings.max_connections.max(1)).connect_with(options.read_only(true)).await.map_err(connect)?;
        Ok(Self { writer, reader })
    }

    /// Does it answer?
    pub async fn ping(&self) -> sqlx::Result<()> {
        sqlx::query("SELECT 1").execute(&self.reader).await.map(drop)
    }

    /// Closes both pools after their last statements.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

async fn migrate(pool: &SqlitePool, migrator: &Migrator, is_allowed: bool) -> Result<(), sqlx::migrate::MigrateError> {
    let mut connection = pool.acquire().await?;
    if is_allowed {
        migrations::apply(migrator.run(&mut *connection)).await
    } else {
        migrations::check(&mut *connection, migrator).await
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        // On macOS a file is else handed to the disk, which may keep it in its memory; elsewhere these change nothing.
        .pragma("fullfsync", "1")
        .pragma("checkpoint_fullfsync", "1")
        .pragma("temp_store", "memory")
        // 4 MiB of pages, as negative KiB; the rest is mapped. A commit that has moved pages looks at every page that is here
        // (`balance_nonroot` lends the number of the lock page, and so `pcache1TruncateUnsafe` takes the cache for too long): with
        // 64 MiB that was a fifteenth of all processor time under load.
        .pragma("cache_size", "-4096")
        .pragma("mmap_size", "268435456")
        // Checkpoint about every 16 MiB of log: fewer, larger writes to the main file.
        .pragma("wal_autocheckpoint", "4000")
}

#[cfg(test)]
mod tests {
    use sqlx::Row as _;

    use super::*;

    #[tokio::test]
    async fn after_a_full_disk_it_goes_on_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let database = Sqlite::open(&Database::default(), &path, &Migrator::DEFAULT).await.unwrap();
        sqlx::query("CREATE TABLE t (x BLOB)").execute(&database.writer).await.unwrap();
        let write = async |size: i64| {
            let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query("INSERT INTO t VALUES (zeroblob(?))").bind(size).execute(&mut *transaction).await?;
            transaction.commit().await
        };
        sqlx::query("PRAGMA max_page_count = 16").execute(&database.writer).await.unwrap();
        let full = crate::error(write(1_000_000).await.unwrap_err());
        assert_eq!((full.code, full.reason), (errors::Code::Unavailable, "database_unavailable"));
        write(1).await.expect("there is room for this one");
    }

    #[tokio::test]
    async fn commits_flush_and_readers_see_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/test.db");
        let database = Sqlite::open(&Database::default(), &path, &Migrator::DEFAULT).await.unwrap();
        sqlx::query("CREATE TABLE t (x INTEGER)").execute(&database.writer).await.unwrap();
        sqlx::query("INSERT INTO t VALUES (7)").execute(&database.writer).await.unwrap();
        let read: i64 = sqlx::query_scalar("SELECT x FROM t").fetch_one(&database.reader).await.unwrap();
        assert_eq!(read, 7);
        let pragmas = [
            ("PRAGMA synchronous", "2"),
            ("PRAGMA fullfsync", "1"),
            ("PRAGMA checkpoint_fullfsync", "1"),
            ("PRAGMA journal_mode", "wal"),
        ];
        for (pragma, expected) in pragmas {
            let row = sqlx::query(pragma).fetch_one(&database.writer).await.unwrap();
            let set = row.try_get_unchecked::<String, _>(0).unwrap();
            assert_eq!(set, expected, "{pragma}; 2 is FULL");
        }
        let wrong = sqlx::query("INSERT INTO t VALUES (8)").execute(&database.reader).await;
        assert!(wrong.is_err(), "the reader must not write");
    }
}
