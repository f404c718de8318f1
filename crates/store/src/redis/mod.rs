//! Redis, for what may be lost: caches, hints, rate limits.
//!
//! Nobody waits for it: every call has a short timeout, and one that failed makes the next ones give up at once for a growing
//! while, in which one call at a time tries again. So a dead Redis costs microseconds, and whoever asks goes on without it.
//! Keys are `<service>:<purpose>:<id>` and always have a time to live, so that nothing has to be cleaned up.

mod breaker;
mod subscription;
#[cfg(test)]
mod tests;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use deadpool_redis::{
    Manager, Pool, PoolError,
    redis::{self, AsyncConnectionConfig, Client},
};
use tokio::time::{Instant, timeout};

use self::breaker::{Breaker, Permit};
pub use self::subscription::{Heard, Subscription};

/// A way to a Redis. Cloning is cheap.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    service: &'static str,
    pool: Pool,
    /// For subscriptions: each has a connection of its own.
    client: Client,
    timeout: Duration,
    max_pause: Duration,
    breaker: Breaker,
}

/// Why Redis did not do something. Whoever asked goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The file with the URL cannot be read.
    #[error("Redis has no place")]
    Place(#[from] std::io::Error),
    /// The URL is none.
    #[error("the URL of Redis cannot be used")]
    Url(#[source] redis::RedisError),
    /// No connection can be had from the pool.
    #[error("no connection to Redis can be had")]
    Pool(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It failed a moment ago and is not asked now.
    #[error("Redis failed a moment ago")]
    Paused,
    /// It does not answer in time.
    #[error("Redis does not answer in time")]
    Timeout,
    /// It cannot be reached, or refuses.
    #[error("Redis failed")]
    Failed(#[source] redis::RedisError),
}

/// Where something is kept: `<service>:<purpose>:<id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

/// How a dependency is that can be done without.
#[derive(Debug)]
pub enum Health {
    /// It answers, after so long.
    Healthy(Duration),
    /// It does not: everything is slower, and nothing is wrong.
    Degraded(RedisError),
}

impl Redis {
    /// The Redis that the settings name; none where they name none. Connects when it is first used, so that a service starts
    /// without it too.
    pub fn open(settings: &settings::Redis, service: &'static str) -> Result<Option<Self>, RedisError> {
        let Some(url) = settings.place()? else { return Ok(None) };
        let client = Client::open(url.reveal()).map_err(RedisError::Url)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.timeout))
            .set_response_timeout(Some(settings.timeout));
        let manager = Manager::new_with_config(url.reveal(), config).map_err(RedisError::Url)?;
        // The pool has no timeouts of its own that could fail: ours is around every call.
        let pool = Pool::builder(manager).max_size(settings.max_connections.max(1)).build();
        let pool = pool.map_err(|error| RedisError::Pool(error.into()))?;
        let breaker = Breaker::new(settings.max_pause);
        let (timeout, max_pause) = (settings.timeout, settings.max_pause);
        Ok(Some(Self(Arc::new(Inner { service, pool, client, timeout, max_pause, breaker }))))
    }

    /// The key of something of this service.
    pub fn key(&self, purpose: &str, id: &str) -> Key {
        Key(format!("{}:{purpose}:{id}", self.0.service))
    }

    /// What is kept under a key.
    pub async fn get(&self, key: &Key) -> Result<Option<Bytes>, RedisError> {
        let mut get = redis::cmd("GET");
        get.arg(&key.0);
        let found: Option<Vec<u8>> = self.ask(&get).await?;
        Ok(found.map(Bytes::from))
    }

    /// Keeps a value for so long.
    pub async fn put(&self, key: &Key, value: &[u8], lives: Duration) -> Result<(), RedisError> {
        self.ask(redis::cmd("SET").arg(&key.0).arg(value).arg("PX").arg(millis(lives))).await
    }

    /// Keeps a value for so long, unless there is one; false where there is.
    pub async fn put_new(&self, key: &Key, value: &[u8], lives: Duration) -> Result<bool, RedisError> {
        let mut set = redis::cmd("SET");
        set.arg(&key.0).arg(value).arg("PX").arg(millis(lives)).arg("NX");
        let done: Option<String> = self.ask(&set).await?;
        Ok(done.is_some())
    }

    /// Keeps a value for so long, unless there is `mark` in its place; false where there is.
    pub async fn put_unless(&self, key: &Key, mark: &[u8], value: &[u8], lives: Duration) -> Result<bool, RedisError> {
        const SCRIPT: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end \
                              redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1";
        let mut eval = redis::cmd("EVAL");
        eval.arg(SCRIPT).arg(1).arg(&key.0).arg(mark).arg(value).arg(millis(lives));
        let done: i64 = self.ask(&eval).await?;
        Ok(done == 1)
    }

    /// Runs a script on one key, all of it at once; it answers with numbers. The script gives its key a time to live.
    pub async fn run(&self, script: &str, key: &Key, arguments: &[i64]) -> Result<Vec<i64>, RedisError> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(script).arg(1).arg(&key.0).arg(arguments);
        self.ask(&eval).await
    }

    /// Tells everybody who listens now.
    pub async fn publish(&self, channel: &Key, payload: &[u8]) -> Result<(), RedisError> {
        let _: i64 = self.ask(redis::cmd("PUBLISH").arg(&channel.0).arg(payload)).await?;
        Ok(())
    }

    /// Tells everybody who listens now, in this order, with one wait for all of it.
    pub async fn publish_all(&self, messages: &[(Key, Bytes)]) -> Result<(), RedisError> {
        let permit = self.enter()?;
        let mut pipeline = redis::pipe();
        for (channel, payload) in messages {
            pipeline.cmd("PUBLISH").arg(&channel.0).arg(payload.as_ref()).ignore();
        }
        let perform = async {
            let mut connection = self.0.pool.get().await.map_err(of_pool)?;
            pipeline.query_async(&mut connection).await.map_err(RedisError::Failed)
        };
        let done = timely(self.0.timeout, perform).await;
        self.note(permit, &done);
        done
    }

    /// The number of the database. Channels know none: whoever wants them apart puts it into their names.
    pub fn database(&self) -> i64 {
        self.0.client.get_connection_info().redis_settings().db()
    }

    /// Listens to a channel; with `*` in its id, to all that fit. Begins with the first [`Subscription::next`].
    pub fn subscribe(&self, channel: &Key) -> Subscription {
        Subscription::new(self.0.client.clone(), channel.0.clone(), self.0.timeout, self.0.max_pause)
    }

    /// How it is now. It is asked even where calls give up at once.
    pub async fn health(&self) -> Health {
        let asked = Instant::now();
        match self.perform::<String>(&redis::cmd("PING")).await {
            Ok(_) => Health::Healthy(asked.elapsed()),
            Err(error) => Health::Degraded(error),
        }
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisError> {
        let permit = self.enter()?;
        let done = self.perform(command).await;
        self.note(permit, &done);
        done
    }

    /// May it be asked now?
    fn enter(&self) -> Result<Permit, RedisError> {
        match self.0.breaker.enter(Instant::now()) {
            Permit::Refused => Err(RedisError::Paused),
            permit @ (Permit::Free | Permit::Probe) => Ok(permit),
        }
    }

    /// Remembers whether a call worked, for those that come next.
    fn note<T>(&self, permit: Permit, done: &Result<T, RedisError>) {
        match done {
            Err(error) if error.is_outage() => {
                if self.0.breaker.failed(permit, Instant::now()) {
                    tracing::warn!(error = errors::chain(error), "cannot use Redis now, going on without it");
                }
            }
            _ => self.0.breaker.worked(),
        }
    }

    async fn perform<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisError> {
        let perform = async {
            let mut connection = self.0.pool.get().await.map_err(of_pool)?;
            command.query_async(&mut connection).await.map_err(RedisError::Failed)
        };
        timely(self.0.timeout, perform).await
    }
}

impl Health {
    /// How fast it answers, or why it does not.
    pub fn into_result(self) -> Result<Duration, RedisError> {
        match self {
            Self::Healthy(latency) => Ok(latency),
            Self::Degraded(error) => Err(error),
        }
    }
}

impl RedisError {
    /// Would every other call fail as well? An answer that refuses one command tells nothing about the next.
    fn is_outage(&self) -> bool {
        match self {
            Self::Failed(error) => error.is_io_error() || error.is_unrecoverable_error(),
            Self::Place(_) | Self::Url(_) | Self::Pool(_) | Self::Paused | Self::Timeout => true,
        }
    }
}

impl Key {
    /// As Redis knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Redis").field(&self.0.service).finish()
    }
}

async fn timely<T>(limit: Duration, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    timeout(limit, call).await.unwrap_or(Err(RedisError::Timeout))
}

fn of_pool(error: PoolError) -> RedisError {
    match error {
        PoolError::Backend(error) => RedisError::Failed(error),
        PoolError::Timeout(_) => RedisError::Timeout,
        other => RedisError::Pool(other.into()),
    }
}

/// As Redis counts; at least one, since it knows no shorter life.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX >> 1).clamp(1, u64::MAX >> 1)
}
