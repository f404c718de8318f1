//! A cache of two levels: this process's memory, then Redis, then whoever knows.
//!
//! What was loaded is believed for [`Believe::fresh`] after its loading ([`Believe::unheard`] while Redis is away), on whichever level and replica it is read: that, and
//! the difference between the clocks, bounds how old an answer can be, whatever happens to Redis. It is kept for
//! [`Believe::kept`], to be answered as stale where nobody who knows can be reached. What is not there is not remembered.
//!
//! An invalidation reaches the other replicas through Redis, in milliseconds. It puts a mark in the place of the value for
//! [`MARKED`], over which nothing is written: a load that began before the change must not bring the old value back. Where
//! Redis is away nobody hears of it, and the bound above holds. A replica that listens again after a gap believes nothing
//! that was loaded before.
//!
//! Many at once that miss the same load it once. Whoever asks after an invalidation does not get what was loaded before it.

mod codec;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use domain::{Clock, Timestamp};
use errors::{Code, Error};
use futures::future::BoxFuture;
use tokio::{sync::OnceCell, time::Instant};

pub use self::codec::Codec;
use crate::{Heard, Redis};

/// Counter: values that were found fresh, by `cache` and `level` (`local`, `shared`).
const HITS: &str = "troupe_cache_hits_total";
/// Counter: values that were not, by `cache` and `level`.
const MISSES: &str = "troupe_cache_misses_total";
/// Counter: answers that were stale, since nobody who knows could be reached, by `cache`.
const STALE: &str = "troupe_cache_stale_total";

/// How long an invalidation keeps old values out of Redis; a load that takes longer writes nothing there.
const MARKED: Duration = Duration::from_secs(10);
/// What an invalidation leaves in Redis.
const MARK: &[u8] = b"";

/// How long what was loaded is good for something, and how much of it is kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct Believe {
    /// It is answered without asking.
    pub fresh: Duration,
    /// The same while nobody could tell of a change: without Redis, and while Redis is away. Not longer than `fresh`.
    pub unheard: Duration,
    /// It is answered where nobody who knows can be reached; not shorter than `fresh`.
    pub kept: Duration,
    /// Values in memory.
    pub capacity: u64,
}

/// A value, and whether it may be old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<V> {
    /// The value.
    pub value: V,
    /// Nobody who knows could be asked whether it is still so.
    pub is_stale: bool,
}

/// A cache of one kind of thing. Cloning is cheap.
#[derive(Clone)]
pub struct Cache<V>(Arc<Inner<V>>);

struct Inner<V> {
    name: &'static str,
    believe: Believe,
    clock: Arc<dyn Clock>,
    local: moka::sync::Cache<Arc<str>, Kept<V>>,
    redis: Option<Redis>,
    /// Not there: Redis only carries invalidations.
    codec: Option<Codec<V>>,
    flights: Mutex<HashMap<Arc<str>, Arc<Flight<V>>>>,
    /// What was loaded before, in microseconds since the epoch, is not fresh.
    distrusted: AtomicI64,
    /// Whether changes that other replicas make are heard of.
    hears: AtomicBool,
}

#[derive(Clone, Debug)]
struct Kept<V> {
    value: V,
    loaded_at: Timestamp,
}

type Outcome<V> = Result<Option<Found<V>>, Error>;
type Flight<V> = OnceCell<Outcome<V>>;

impl<V: Clone + Send + Sync + 'static> Cache<V> {
    /// An empty cache; `name` is a label of metrics and a part of its keys. With a Redis but without a codec, values stay in
    /// memory and only invalidations are shared.
    pub fn new(
        name: &'static str,
        believe: Believe,
        redis: Option<Redis>,
        codec: Option<Codec<V>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let local = moka::sync::Cache::new(believe.capacity);
        let (flights, distrusted) = (Mutex::default(), AtomicI64::new(i64::MIN));
        Self(Arc::new(Inner {
            name,
            believe,
            clock,
            local,
            redis,
            codec,
            flights,
            distrusted,
            hears: AtomicBool::new(false),
        }))
    }

    /// The value, loaded where it is not known or not fresh; none where there is none.
    ///
    /// Where `load` gets no answer ([`Code::Unavailable`], [`Code::Timeout`], [`Code::Exhausted`], [`Code::Internal`]), an old
    /// value is answered and marked; other failures are passed on. Cancel-safe: another caller that waits for the same loads instead.
    pub async fn get<F>(&self, id: &str, load: impl FnOnce() -> F + Send) -> Outcome<V>
    where
        F: Future<Output = Result<Option<V>, Error>> + Send,
    {
        if let Some(kept) = self.local(id)
            && self.is_fresh(&kept)
        {
            self.count(HITS, "local");
            return Ok(Some(Found { value: kept.value, is_stale: false }));
        }
        self.count(MISSES, "local");
        let seat = self.seat(id);
        // Boxed, so that what happens on a miss is not a part of every caller.
        let fetch = || -> BoxFuture<'_, Outcome<V>> { Box::pin(self.fetch(&seat, load)) };
        seat.flight.get_or_init(fetch).await.clone()
    }

    /// What `load` says; what is kept only where it gets no answer.
    pub async fn ask_first(&self, id: &str, load: impl Future<Output = Result<Option<V>, Error>> + Send) -> Outcome<V> {
        match load.await {
            Ok(Some(value)) => {
                self.put(id, value.clone()).await;
                Ok(Some(Found { value, is_stale: false }))
            }
            Ok(None) => {
                self.0.local.invalidate(id);
                Ok(None)
            }
            Err(error) => {
                let local = self.local(id);
                let shared = if local.is_none() && is_away(&error) { self.shared(id).await } else { None };
                self.stale(local.or(shared), error)
            }
        }
    }

    /// What is kept in memory, fresh or not.
    pub fn peek(&self, id: &str) -> Option<V> {
        self.local(id).map(|kept| kept.value)
    }

    /// Somebody who knows says that this is the value now.
    pub async fn put(&self, id: &str, value: V) {
        let kept = Kept { value, loaded_at: self.0.clock.now() };
        self.land(id, None);
        self.0.local.insert(id.into(), kept.clone());
        self.share(id, &kept).await;
    }

    /// The same, of a value that has not changed: nobody else has to know.
    pub fn renew(&self, id: &str, value: V) {
        self.0.local.insert(id.into(), Kept { value, loaded_at: self.0.clock.now() });
    }

    /// The value has changed: nobody is to believe the old one. Comes back when Redis knows, or cannot know.
    pub async fn invalidate(&self, id: &str) {
        self.drop_local(id);
        let Some(redis) = &self.0.redis else { return };
        // Whoever hears of it and looks must find the mark.
        let mark = async {
            if self.0.codec.is_some() {
                redis.put(&redis.key(self.0.name, id), MARK, MARKED).await?;
            }
            redis.publish(&redis.key(self.0.name, CHANGED), id.as_bytes()).await
        };
        if let Err(error) = mark.await {
            tracing::debug!(error = errors::chain(&error), cache = self.0.name, "cannot tell of a change");
        }
    }

    /// Hears what other replicas invalidate, for ever. A service runs it beside everything else.
    pub async fn follow(&self) {
        let Some(redis) = &self.0.redis else { return std::future::pending().await };
        let mut changes = redis.subscribe(&redis.key(self.0.name, CHANGED));
        loop {
            match changes.next().await {
                Heard::Begun => {
                    self.0.distrusted.store(self.0.clock.now().as_micros(), Ordering::Relaxed);
                    self.flights().clear();
                    self.0.hears.store(true, Ordering::Relaxed);
                }
                Heard::Lost => self.0.hears.store(false, Ordering::Relaxed),
                Heard::Message { payload, .. } => {
                    if let Ok(id) = str::from_utf8(&payload) {
                        self.drop_local(id);
                    }
                }
            }
        }
    }

    async fn fetch<F>(&self, seat: &Seat<'_, V>, load: impl FnOnce() -> F + Send) -> Outcome<V>
    where
        F: Future<Output = Result<Option<V>, Error>> + Send,
    {
        let begun = Instant::now();
        let shared = self.shared(seat.id).await;
        if let Some(kept) = &shared
            && self.is_fresh(kept)
        {
            self.count(HITS, "shared");
            self.land(seat.id, Some((&seat.flight, kept)));
            return Ok(Some(Found { value: kept.value.clone(), is_stale: false }));
        }
        if self.0.codec.is_some() && self.0.redis.is_some() {
            self.count(MISSES, "shared");
        }
        match load().await {
            Ok(Some(value)) => {
                let kept = Kept { value, loaded_at: self.0.clock.now() };
                let is_current = self.land(seat.id, Some((&seat.flight, &kept)));
                if is_current && begun.elapsed() < MARKED {
                    self.share(seat.id, &kept).await;
                }
                Ok(Some(Found { value: kept.value, is_stale: false }))
            }
            Ok(None) => {
                self.drop_local(seat.id);
                if let (Some(redis), Some(_)) = (&self.0.redis, shared) {
                    // Nobody is to go by it later. Without Redis nobody can.
                    let _ = redis.put(&redis.key(self.0.name, seat.id), MARK, MARKED).await;
                }
                Ok(None)
            }
            Err(error) => {
                self.land(seat.id, None);
                self.stale(self.local(seat.id).or(shared), error)
            }
        }
    }

    /// An old value in the place of an error that is no answer.
    fn stale(&self, old: Option<Kept<V>>, error: Error) -> Outcome<V> {
        let Some(kept) = old.filter(|_| is_away(&error)) else { return Err(error) };
        ::metrics::counter!(STALE, "cache" => self.0.name).increment(1);
        tracing::debug!(error = errors::chain(&error), cache = self.0.name, "going by memory");
        Ok(Some(Found { value: kept.value, is_stale: true }))
    }

    fn is_fresh(&self, kept: &Kept<V>) -> bool {
        let is_trusted = kept.loaded_at.as_micros() > self.0.distrusted.load(Ordering::Relaxed);
        let Believe { fresh, unheard, .. } = self.0.believe;
        let believed = if self.0.hears.load(Ordering::Relaxed) { fresh } else { unheard };
        is_trusted && self.0.clock.now().since(kept.loaded_at) < believed
    }

    /// What is kept in memory, by the clock that everything else here goes by. What is too old goes where room is wanted.
    fn local(&self, id: &str) -> Option<Kept<V>> {
        let is_kept = |kept: &Kept<V>| self.0.clock.now().since(kept.loaded_at) < self.0.believe.kept;
        self.0.local.get(id).filter(is_kept)
    }

    fn drop_local(&self, id: &str) {
        // First the flight, so that what it brings is not kept.
        self.flights().remove(id);
        self.0.local.invalidate(id);
    }

    async fn shared(&self, id: &str) -> Option<Kept<V>> {
        let (Some(redis), Some(codec)) = (&self.0.redis, &self.0.codec) else { return None };
        let bytes: Bytes = redis.get(&redis.key(self.0.name, id)).await.ok()??;
        let (time, value) = bytes.split_first_chunk::<8>()?;
        let loaded_at = Timestamp::from_micros(i64::from_be_bytes(*time));
        Some(Kept { value: (codec.decode)(value)?, loaded_at })
    }

    async fn share(&self, id: &str, kept: &Kept<V>) {
        let (Some(redis), Some(codec)) = (&self.0.redis, &self.0.codec) else { return };
        let Some(value) = (codec.encode)(&kept.value) else { return };
        let bytes = [&kept.loaded_at.as_micros().to_be_bytes()[..], &value].concat();
        // Without Redis the others load it themselves.
        let _ = redis.put_unless(&redis.key(self.0.name, id), MARK, &bytes, self.0.believe.kept).await;
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Flight<V>>>> {
        self.0.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat in the flight that loads `id`.
    fn seat<'a>(&'a self, id: &'a str) -> Seat<'a, V> {
        let flight = Arc::clone(self.flights().entry(id.into()).or_default());
        Seat { cache: self, id, flight }
    }

    /// A flight is over: nobody joins it any more. What it brings is kept, unless it was invalidated on its way: false.
    fn land(&self, id: &str, brings: Option<(&Arc<Flight<V>>, &Kept<V>)>) -> bool {
        let mut flights = self.flights();
        let Some((flight, kept)) = brings else {
            flights.remove(id);
            return false;
        };
        let is_current = flights.get(id).is_some_and(|current| Arc::ptr_eq(current, flight));
        if is_current {
            flights.remove(id);
            self.0.local.insert(id.into(), kept.clone());
        }
        is_current
    }

    fn count(&self, name: &'static str, level: &'static str) {
        ::metrics::counter!(name, "cache" => self.0.name, "level" => level).increment(1);
    }
}

/// The id in the key of the channel that carries invalidations.
const CHANGED: &str = "changed";

struct Seat<'a, V> {
    cache: &'a Cache<V>,
    id: &'a str,
    flight: Arc<Flight<V>>,
}

impl<V> Drop for Seat<'_, V> {
    /// The last one leaves nothing behind, also where it did not wait for the end.
    fn drop(&mut self) {
        let mut flights = self.cache.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // One is ours and one is the map's.
        let is_last = Arc::strong_count(&self.flight) <= 2;
        if is_last && flights.get(self.id).is_some_and(|current| Arc::ptr_eq(current, &self.flight)) {
            flights.remove(self.id);
        }
    }
}

/// Is it no answer? Whoever knows has not said that there is nothing, or that the question is wrong.
fn is_away(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::Timeout | Code::Exhausted | Code::Internal)
}
