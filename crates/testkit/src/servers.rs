//! The servers of a cluster, for tests: PostgreSQL, RabbitMQ and Redis, started once by whoever asks first.
//!
//! They outlive the process that started them, since starting RabbitMQ takes ten seconds; `make test` stops them at its end,
//! and so does `deploy/native/servers.sh down` with the folder that [`Servers::folder`] names.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::workspace;

/// Running servers.
#[derive(Debug)]
pub struct Servers {
    /// Where they keep their data.
    pub folder: PathBuf,
    postgres: String,
    amqp: String,
    /// Redis, as `redis://host:port`; shared by all tests.
    pub redis: String,
    /// Do they end with this value?
    is_private: bool,
}

impl Drop for Servers {
    fn drop(&mut self) {
        if self.is_private {
            script(&["down", &self.folder.to_string_lossy()]);
        }
    }
}

impl Servers {
    /// Starts what does not run yet.
    ///
    /// # Panics
    /// Where a server does not start, with its script's own words.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Servers> = OnceLock::new();
        SHARED.get_or_init(|| {
            let folder = std::env::var_os("TROUPE_TEST_SERVERS")
                .map_or_else(|| std::env::temp_dir().join("troupe-test-servers"), PathBuf::from);
            script(&["up", &folder.to_string_lossy()]);
            Self::read(folder, false)
        })
    }

    /// Starts some of the servers (`postgres`, `rabbitmq`, `redis`) for one test, which may do to them what it likes. They end
    /// with this value.
    ///
    /// # Panics
    /// Where a server does not start, with its script's own words.
    pub fn private(names: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(unique());
        let place = folder.to_string_lossy().into_owned();
        script(&[&["up", &place], names].concat());
        Self::read(folder, true)
    }

    /// Does `verb` (`start`, `stop` or `kill`) to a server; its data stays.
    ///
    /// # Panics
    /// Where that cannot be done.
    pub fn control(&self, verb: &str, server: &str) {
        script(&[verb, &self.folder.to_string_lossy(), server]);
    }

    /// Tells RabbitMQ something with its own tool.
    ///
    /// # Panics
    /// Where the tool fails.
    pub fn rabbitmqctl(&self, arguments: &[&str]) {
        script(&[&["rabbitmqctl", &self.folder.to_string_lossy()], arguments].concat());
    }

    /// The URL of PostgreSQL's first database.
    pub fn postgres(&self) -> &str {
        &self.postgres
    }

    fn read(folder: PathBuf, is_private: bool) -> Self {
        let text = fs::read_to_string(folder.join("env")).expect("the script has written the addresses");
        let mut found: HashMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let mut take = |name| found.remove(name).unwrap_or_else(|| panic!("no {name} in {text:?}")).to_owned();
        Self {
            postgres: take("TROUPE_TEST_POSTGRES"),
            amqp: take("TROUPE_TEST_AMQP"),
            redis: take("TROUPE_TEST_REDIS"),
            folder,
            is_private,
        }
    }

    /// The URL of a new, empty PostgreSQL database.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub async fn database(&self) -> String {
        use sqlx::{AssertSqlSafe, Connection as _};
        let name = unique();
        let mut connection = sqlx::PgConnection::connect(&self.postgres).await.expect("PostgreSQL answers");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .expect("a database can be made");
        connection.close().await.expect("a connection can be closed");
        let (server, _) = self.postgres.rsplit_once('/').expect("the URL names a database");
        format!("{server}/{name}")
    }

    /// The URL of a new, empty virtual host in RabbitMQ.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub fn virtual_host(&self) -> String {
        let name = unique();
        script(&["vhost", &self.folder.to_string_lossy(), &name]);
        let (server, _) = self.amqp.rsplit_once('/').expect("the URL names a virtual host");
        format!("{server}/{name}")
    }
}

/// A name that no other test has.
fn unique() -> String {
    let since = std::time::UNIX_EPOCH.elapsed().expect("the clock is past 1970");
    format!("test_{}_{}", std::process::id(), since.as_nanos())
}

fn script(arguments: &[&str]) {
    let path: &Path = &workspace().join("deploy/native/servers.sh");
    let output = Command::new(path).args(arguments).stdin(Stdio::null()).output().expect("the script can be run");
    assert!(
        output.status.success(),
        "{} {}: {}\n{}",
        path.display(),
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
