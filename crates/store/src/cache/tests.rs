use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use domain::{Clock as _, ManualClock, Timestamp};
use errors::{Code, Error};
use futures::future::{join, join_all};
use testkit::{Servers, eventually};
use tokio::sync::Notify;

use super::{Believe, Cache, Codec, Found};
use crate::Redis;

const FRESH: Duration = Duration::from_secs(10);
const KEPT: Duration = Duration::from_hours(1);

/// What the cached values come from.
#[derive(Default)]
struct Source {
    value: std::sync::Mutex<Option<String>>,
    is_away: std::sync::atomic::AtomicBool,
    loads: AtomicUsize,
}

impl Source {
    fn of(value: &str) -> Arc<Self> {
        let source = Arc::<Self>::default();
        source.set(Some(value));
        source
    }

    fn set(&self, value: Option<&str>) {
        *self.value.lock().unwrap() = value.map(str::to_owned);
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    async fn get(&self, cache: &Cache<String>) -> Result<Option<Found<String>>, Error> {
        let load = async || {
            self.loads.fetch_add(1, Ordering::SeqCst);
            // Whoever else asks is to come in between.
            tokio::task::yield_now().await;
            if self.is_away.load(Ordering::SeqCst) {
                return Err(Error::unavailable("away", "away"));
            }
            Ok(self.value.lock().unwrap().clone())
        };
        cache.get("a:b", load).await
    }

    async fn expect(&self, cache: &Cache<String>, value: &str) {
        assert_eq!(self.get(cache).await.unwrap(), Some(Found { value: value.to_owned(), is_stale: false }));
    }
}

fn redis(url: &str) -> Redis {
    // A busy machine is no dead Redis. Pauses are short, so that tests are.
    let (timeout, max_pause) = (Duration::from_secs(2), Duration::from_millis(200));
    let settings = settings::Redis { timeout, max_pause, ..settings::Redis::at(url) };
    Redis::open(&settings, "cachetest").unwrap().unwrap()
}

/// A cache; those of one name share what they can.
fn cache(name: &'static str, redis: Option<Redis>, clock: &Arc<ManualClock>) -> Cache<String> {
    let believe = Believe { fresh: FRESH, unheard: FRESH, kept: KEPT, capacity: 100 };
    Cache::new(name, believe, redis, Some(Codec::json()), Arc::clone(clock) as _)
}

/// A name that no other test, and no earlier run, has.
fn name(test: &str) -> &'static str {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    Box::leak(format!("{test}-{}-{since}", std::process::id()).into_boxed_str())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)))
}

/// Runs `test` while the caches hear of each other's invalidations.
async fn following<T>(caches: &[&Cache<String>], test: impl Future<Output = T>) -> T {
    let begun = caches.iter().map(|cache| async {
        eventually("the cache to listen", async || {
            let at = cache.0.distrusted.load(Ordering::Relaxed);
            if at > i64::MIN { Ok(()) } else { Err(at) }
        })
        .await;
    });
    let test = async {
        join_all(begun).await;
        test.await
    };
    tokio::select! {
        _ = join_all(caches.iter().map(|cache| cache.follow())) => unreachable!("it follows for ever"),
        done = test => done,
    }
}

/// What holds with Redis and without.
async fn conforms(redis: Option<Redis>, test: &str) {
    let (clock, source) = (clock(), Source::of("one"));
    let cache = cache(name(test), redis, &clock);
    source.expect(&cache, "one").await;
    source.set(Some("two"));
    clock.advance(FRESH.checked_sub(Duration::from_micros(1)).unwrap());
    source.expect(&cache, "one").await;
    assert_eq!(source.loads(), 1, "it is believed for so long");
    clock.advance(Duration::from_micros(1));
    source.expect(&cache, "two").await;
    assert_eq!(source.loads(), 2, "and no longer");

    source.set(Some("three"));
    cache.invalidate("a:b").await;
    source.expect(&cache, "three").await;
    source.set(Some("four"));
    cache.invalidate("other").await;
    source.expect(&cache, "three").await;

    source.is_away.store(true, Ordering::SeqCst);
    clock.advance(FRESH);
    assert_eq!(source.get(&cache).await.unwrap(), Some(Found { value: "three".to_owned(), is_stale: true }));
    cache.invalidate("a:b").await;
    assert_eq!(source.get(&cache).await.unwrap_err().code, Code::Unavailable, "what has changed is not even stale");
    source.is_away.store(false, Ordering::SeqCst);
    source.set(None);
    assert_eq!(source.get(&cache).await.unwrap(), None);
    source.set(Some("five"));
    source.expect(&cache, "five").await;
}

#[tokio::test]
async fn without_redis_it_is_a_cache_of_one_process() {
    conforms(None, "alone").await;
}

#[tokio::test]
async fn how_old_a_stale_answer_may_be_is_measured_by_the_same_clock() {
    let (clock, source) = (clock(), Source::of("one"));
    let cache = cache(name("kept"), None, &clock);
    source.expect(&cache, "one").await;
    source.is_away.store(true, Ordering::SeqCst);
    clock.advance(KEPT.checked_sub(Duration::from_micros(1)).unwrap());
    assert_eq!(source.get(&cache).await.unwrap(), Some(Found { value: "one".to_owned(), is_stale: true }));
    assert_eq!(cache.peek("a:b").as_deref(), Some("one"));
    clock.advance(Duration::from_micros(1));
    assert_eq!(source.get(&cache).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(cache.peek("a:b"), None);
}

#[tokio::test]
async fn with_redis_it_is_the_same() {
    conforms(Some(redis(&Servers::shared().redis)), "shared").await;
}

#[tokio::test]
async fn with_a_dead_redis_it_is_the_same() {
    let servers = Servers::private(&["redis"]);
    servers.control("kill", "redis");
    conforms(Some(redis(&servers.redis)), "dead").await;
}

#[tokio::test]
async fn replicas_share_what_one_of_them_loaded_and_its_age() {
    let (clock, source, name) = (clock(), Source::of("one"), name("replicas"));
    let redis = redis(&Servers::shared().redis);
    let replica = || cache(name, Some(redis.clone()), &clock);
    let (a, b) = (replica(), replica());
    source.expect(&a, "one").await;
    clock.advance(FRESH / 2);
    source.expect(&b, "one").await;
    assert_eq!(source.loads(), 1, "the second replica found it in Redis");
    source.set(Some("two"));
    clock.advance(FRESH / 2);
    source.expect(&b, "two").await;
    // A replica that has never seen it, while nobody who knows can be reached.
    source.is_away.store(true, Ordering::SeqCst);
    clock.advance(FRESH);
    assert_eq!(source.get(&replica()).await.unwrap(), Some(Found { value: "two".to_owned(), is_stale: true }));
}

#[tokio::test]
async fn an_invalidation_reaches_every_replica_and_brings_nothing_old_back() {
    let (clock, source, name) = (clock(), Source::of("v0"), name("told"));
    let redis = redis(&Servers::shared().redis);
    let replica = || cache(name, Some(redis.clone()), &clock);
    let (a, b, key) = (replica(), replica(), redis.key(name, "a:b"));
    let test = async {
        for round in 1..20 {
            clock.advance(Duration::from_micros(1));
            let old = source.get(&b).await.unwrap().unwrap().value;
            let new = format!("v{round}");
            // A load that began before the change, and ends after it.
            let (held, go_on) = (Notify::new(), Notify::new());
            b.drop_local("a:b");
            redis.put(&key, b"unreadable", FRESH).await.unwrap();
            let late = b.get("a:b", async || {
                held.notify_one();
                go_on.notified().await;
                Ok(Some(old.clone()))
            });
            let change = async {
                held.notified().await;
                source.set(Some(&new));
                a.invalidate("a:b").await;
                source.expect(&a, &new).await;
                go_on.notify_one();
            };
            let (late, ()) = join(late, change).await;
            assert_eq!(late.unwrap().unwrap().value, old, "who asked before the change may get what was there");
            eventually("the other replica to see the change", async || {
                match source.get(&b).await.unwrap().unwrap().value {
                    value if value == new => Ok(()),
                    value => Err(value),
                }
            })
            .await;
            source.expect(&a, &new).await;
            source.expect(&replica(), &new).await;
        }
    };
    following(&[&a, &b], Box::pin(test)).await;
}

#[tokio::test]
async fn a_redis_that_dies_and_comes_back_empty_makes_it_slower_and_never_wrong() {
    let servers = Servers::private(&["redis"]);
    let (clock, source, name) = (clock(), Source::of("one"), name("dies"));
    let redis = redis(&servers.redis);
    let (a, b) = (cache(name, Some(redis.clone()), &clock), cache(name, Some(redis), &clock));
    let test = async {
        clock.advance(Duration::from_micros(1));
        source.expect(&a, "one").await;
        source.expect(&b, "one").await;
        servers.control("kill", "redis");
        source.set(Some("two"));
        a.invalidate("a:b").await;
        source.expect(&a, "two").await;
        // The other cannot hear of it: the bound is what holds.
        source.expect(&b, "one").await;
        clock.advance(FRESH);
        source.expect(&b, "two").await;

        source.set(Some("three"));
        a.invalidate("a:b").await;
        source.expect(&b, "two").await;
        let distrusted = || b.0.distrusted.load(Ordering::Relaxed);
        let before = distrusted();
        servers.control("start", "redis");
        eventually("the cache to listen again", async || if distrusted() > before { Ok(()) } else { Err(()) }).await;
        assert_eq!(distrusted(), clock.now().as_micros());
        source.expect(&b, "three").await;
    };
    following(&[&a, &b], Box::pin(test)).await;
}

#[tokio::test]
async fn many_at_once_load_it_once_and_a_caller_that_leaves_takes_nobody_along() {
    let (clock, source) = (clock(), Source::of("one"));
    let cache = cache(name("flight"), None, &clock);
    let (started, go_on) = (Notify::new(), Notify::new());
    let leaving = cache.get("a:b", async || {
        started.notify_one();
        std::future::pending().await
    });
    let mut leaving = Box::pin(leaving);
    tokio::select! {
        _ = &mut leaving => unreachable!("it waits for ever"),
        () = started.notified() => {}
    }
    let slow = async || {
        source.loads.fetch_add(1, Ordering::SeqCst);
        go_on.notified().await;
        Ok(Some("one".to_owned()))
    };
    let waiting = join_all((0..50).map(|_| cache.get("a:b", slow)));
    let release = async {
        drop(leaving);
        eventually("a load", async || if source.loads() > 0 { Ok(()) } else { Err(()) }).await;
        go_on.notify_one();
    };
    let (found, ()) = join(waiting, release).await;
    assert!(found.into_iter().all(|found| found.unwrap().unwrap().value == "one"));
    assert_eq!(source.loads(), 1);
    assert!(cache.flights().is_empty());
    source.expect(&cache, "one").await;
    assert_eq!(source.loads(), 1);
}

#[tokio::test]
async fn one_failure_is_the_answer_to_all_who_waited_and_is_not_remembered() {
    let (clock, source) = (clock(), Source::of("one"));
    let cache = cache(name("failure"), None, &clock);
    source.is_away.store(true, Ordering::SeqCst);
    let answers = join_all((0..10).map(|_| source.get(&cache))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap_err().code == Code::Unavailable));
    assert_eq!(source.loads(), 1);
    source.is_away.store(false, Ordering::SeqCst);
    source.expect(&cache, "one").await;
}

/// What others change without a word is asked for each time, as long as no word can come.
#[tokio::test]
async fn what_nobody_could_tell_of_is_not_believed() {
    let (clock, server) = (clock(), Servers::shared());
    let proxy = testkit::Proxy::to(server.address("redis")).await;
    let url = server.redis.replace(&server.address("redis").to_string(), &proxy.address().to_string());
    let believe = Believe { fresh: FRESH, unheard: Duration::ZERO, kept: FRESH, capacity: 100 };
    let cache = Cache::new(name("unheard"), believe, Some(redis(&url)), None, Arc::clone(&clock) as _);
    let source = Source::of("one");
    source.expect(&cache, "one").await;
    source.set(Some("two"));
    source.expect(&cache, "two").await;
    following(&[&cache], async {
        // What was loaded before it listened is not believed.
        clock.advance(Duration::from_micros(1));
        source.expect(&cache, "two").await;
        source.set(Some("three"));
        source.expect(&cache, "two").await;
        proxy.set(testkit::Network::Cut);
        eventually("it knows that it hears nothing", async || match source.get(&cache).await.unwrap().unwrap().value {
            value if value == "three" => Ok(()),
            value => Err(value),
        })
        .await;
        source.set(Some("four"));
        source.expect(&cache, "four").await;
    })
    .await;
}
