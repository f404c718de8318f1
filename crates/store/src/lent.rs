//! Connections to PostgreSQL that are lent, and a few that are kept for one purpose.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{Manager, Metrics, Object, Pool, PoolError, RecycleResult},
};
use sqlx::{Connection as _, PgConnection, Postgres as Driver, pool::PoolConnection, postgres::PgConnectOptions};

/// A connection that was in use so shortly before is not asked whether it lives: that takes as long as a small statement.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// A connection that is closed where it is not given back: what it was asked is not answered yet, and a pool that asks every
/// connection something before it takes it back could wait for that for ever.
#[derive(Debug)]
pub struct Lent {
    /// There until it is dropped.
    connection: Option<Source>,
    is_answered: bool,
}

#[derive(Debug)]
enum Source {
    Shared(PoolConnection<Driver>),
    Kept(Object<Connect>),
}

impl Lent {
    /// Everything that it was asked is answered.
    pub fn give_back(mut self) {
        self.is_answered = true;
    }
}

impl From<Source> for Lent {
    fn from(connection: Source) -> Self {
        Self { connection: Some(connection), is_answered: false }
    }
}

impl From<PoolConnection<Driver>> for Lent {
    fn from(connection: PoolConnection<Driver>) -> Self {
        Source::Shared(connection).into()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(Source::Shared(mut connection)) if !self.is_answered => connection.close_on_drop(),
            Some(Source::Kept(connection)) if !self.is_answered => drop(Object::take(connection)),
            Some(_) | None => {}
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.connection {
            Some(Source::Shared(connection)) => connection,
            Some(Source::Kept(connection)) => connection,
            None => unreachable!("it is being dropped"),
        }
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.connection {
            Some(Source::Shared(connection)) => connection,
            Some(Source::Kept(connection)) => connection,
            None => unreachable!("it is being dropped"),
        }
    }
}

/// A few connections of their own, for what is done again and again: those of a shared pool are asked whether they live before
/// each use and after it, so that a statement is three exchanges with the server instead of one.
#[derive(Clone, Debug)]
pub(crate) struct Kept(Pool<Connect>);

impl Kept {
    /// Connects when they are needed. `wait`: the longest for one that is free, or new.
    pub(crate) fn new(options: PgConnectOptions, connections: usize, wait: Duration) -> Self {
        let pool = Pool::builder(Connect(options))
            .max_size(connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(wait))
            .create_timeout(Some(wait))
            .recycle_timeout(Some(wait));
        Self(pool.build().expect("a runtime is named"))
    }

    pub(crate) async fn lend(&self) -> sqlx::Result<Lent> {
        let connection = self.0.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(_) => sqlx::Error::PoolTimedOut,
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => sqlx::Error::PoolClosed,
        })?;
        Ok(Source::Kept(connection).into())
    }

    pub(crate) fn close(&self) {
        self.0.close();
    }
}

/// Makes connections.
#[derive(Debug)]
struct Connect(PgConnectOptions);

impl Manager for Connect {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect_with(&self.0).await
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.last_used() > FRESH {
            connection.ping().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use testkit::Servers;

    use super::*;

    async fn process(connection: &mut PgConnection) -> i32 {
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_given_back_is_lent_again_and_what_is_not_is_closed() {
        let options = Servers::shared().postgres().parse().unwrap();
        let kept = Kept::new(options, 1, Duration::from_secs(30));
        let mut first = kept.lend().await.unwrap();
        let one = process(&mut first).await;
        first.give_back();
        let mut again = kept.lend().await.unwrap();
        assert_eq!(process(&mut again).await, one);
        drop(again);
        let mut other = kept.lend().await.unwrap();
        assert_ne!(process(&mut other).await, one);
        let lives = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        while sqlx::query_scalar::<_, i64>(lives).bind(one).fetch_one(&mut *other).await.unwrap() > 0 {}
        other.give_back();
        kept.close();
        assert!(matches!(kept.lend().await, Err(sqlx::Error::PoolClosed)));
    }
}
