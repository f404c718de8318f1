use std::time::Duration;

use deadpool_redis::redis;
use testkit::{Servers, eventually};
use tokio::time::{Instant, timeout};

use super::{Health, Heard, Key, Redis, RedisError};

/// Far more than anything here takes; only a failing test waits so long.
const DEADLINE: Duration = Duration::from_secs(30);
const LIFE: Duration = Duration::from_mins(1);

fn open(url: &str) -> Redis {
    // A busy machine is no dead Redis.
    let settings = settings::Redis { timeout: Duration::from_secs(2), ..settings::Redis::at(url) };
    Redis::open(&settings, "test").unwrap().unwrap()
}

/// A key that no other test has.
fn key(redis: &Redis, id: &str) -> Key {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    redis.key("things", &format!("{}-{since}-{id}", std::process::id()))
}

#[test]
fn without_a_url_there_is_none_and_a_faulty_one_is_told_without_its_password() {
    assert!(Redis::open(&settings::Redis::default(), "test").unwrap().is_none());
    let error = Redis::open(&settings::Redis::at("http://user:hush@nowhere"), "test").unwrap_err();
    assert!(!errors::chain(&error).contains("hush"), "{error}");
}

#[tokio::test]
async fn what_is_kept_is_found_until_its_life_ends() {
    let redis = open(&Servers::shared().redis);
    let key = key(&redis, "a");
    assert!(key.as_str().starts_with("test:things:"));
    assert_eq!(redis.get(&key).await.unwrap(), None);
    assert!(redis.put_new(&key, b"one", LIFE).await.unwrap());
    assert!(!redis.put_new(&key, b"two", LIFE).await.unwrap());
    assert_eq!(redis.get(&key).await.unwrap().unwrap(), "one");
    redis.put(&key, b"\0\xff", Duration::from_millis(1)).await.unwrap();
    eventually("its end", async || match redis.get(&key).await.unwrap() {
        None => Ok(()),
        found => Err(found),
    })
    .await;
}

#[tokio::test]
async fn a_refused_command_stops_no_other() {
    let redis = open(&Servers::shared().redis);
    let key = key(&redis, "list");
    let length: i64 = redis.ask(redis::cmd("RPUSH").arg(key.as_str()).arg(1)).await.unwrap();
    assert_eq!(length, 1);
    assert!(matches!(redis.get(&key).await, Err(RedisError::Failed(_))), "it is a list");
    assert_eq!(
        redis.run("return { redis.call('DEL', KEYS[1]), tonumber(ARGV[1]) }", &key, &[7]).await.unwrap(),
        [1, 7]
    );
}

#[tokio::test]
async fn a_dead_redis_costs_next_to_nothing_and_is_used_again_when_it_is_back() {
    let servers = Servers::private(&["redis"]);
    let redis = open(&servers.redis);
    let key = key(&redis, "a");
    redis.put(&key, b"here", LIFE).await.unwrap();
    assert!(matches!(redis.health().await, Health::Healthy(_)));

    servers.control("kill", "redis");
    assert!(redis.get(&key).await.is_err());
    assert!(matches!(redis.health().await, Health::Degraded(_)));
    let begun = Instant::now();
    let mut paused = 0;
    for _ in 0..10_000 {
        paused += u32::from(matches!(redis.get(&key).await, Err(RedisError::Paused)));
    }
    assert!(paused > 9_900, "only {paused} of 10,000 calls gave up at once");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    servers.control("start", "redis");
    eventually("Redis to be used again", async || redis.put(&key, b"here", LIFE).await).await;
    assert_eq!(redis.get(&key).await.unwrap().unwrap(), "here");
}

#[tokio::test]
async fn a_subscription_hears_what_is_published_and_says_when_it_may_have_missed_something() {
    let servers = Servers::private(&["redis"]);
    let redis = open(&servers.redis);
    let (one, other) = (redis.key("news", "one"), redis.key("news", "other"));
    let mut all = redis.subscribe(&redis.key("news", "*"));
    let mut only_other = redis.subscribe(&other);
    assert_eq!(timeout(DEADLINE, all.next()).await.unwrap(), Heard::Begun);
    assert_eq!(timeout(DEADLINE, only_other.next()).await.unwrap(), Heard::Begun);
    redis.publish(&one, b"1").await.unwrap();
    redis.publish(&other, b"2").await.unwrap();
    let message = |channel: &Key, payload: &'static [u8]| Heard::Message {
        channel: channel.as_str().to_owned(),
        payload: bytes::Bytes::from_static(payload),
    };
    assert_eq!(timeout(DEADLINE, all.next()).await.unwrap(), message(&one, b"1"));
    assert_eq!(timeout(DEADLINE, all.next()).await.unwrap(), message(&other, b"2"));
    assert_eq!(timeout(DEADLINE, only_other.next()).await.unwrap(), message(&other, b"2"));

    servers.control("kill", "redis");
    assert_eq!(timeout(DEADLINE, only_other.next()).await.unwrap(), Heard::Lost);
    servers.control("start", "redis");
    assert_eq!(timeout(DEADLINE, only_other.next()).await.unwrap(), Heard::Begun);
    eventually("Redis to be used again", async || redis.publish(&other, b"3").await).await;
    assert_eq!(timeout(DEADLINE, only_other.next()).await.unwrap(), message(&other, b"3"));
}
