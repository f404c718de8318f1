use domain::{ManualClock, Timestamp};
use proptest::{collection::vec, prelude::*, strategy::ValueTree as _};
use testkit::Servers;

use super::*;
use crate::rate::{bucket::Taken, local::Kept};

/// So that no key of Redis ends within a test, which drives the time itself: keys live by the time of Redis.
const SLOW: u32 = 1;
const START: i64 = 1_800_000_000_000_000;

fn caller(name: &str) -> Caller {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    Caller::Key(format!("{name}-{}-{since}", std::process::id()).into())
}

fn redis() -> Redis {
    // A busy machine is no dead Redis.
    let settings =
        ::settings::Redis { timeout: Duration::from_secs(10), ..::settings::Redis::at(&Servers::shared().redis) };
    Redis::open(&settings, "test").unwrap().unwrap()
}

fn limiter(settings: &RateLimit, redis: Option<Redis>) -> (Limiter, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(START)));
    (Limiter::new(settings, true, redis, Arc::clone(&clock) as _), clock)
}

/// Buckets of all kinds.
fn buckets() -> impl Strategy<Value = Bucket> {
    (prop_oneof![1..200_u32, 1..1_000_000_u32], prop_oneof![1..5_u32, 1..1_000_000_u32])
        .prop_map(|(per_minute, burst)| Bucket::new(per_minute, burst))
}

/// Pauses between requests, in thirds of an interval.
fn pauses() -> impl Strategy<Value = Vec<i64>> {
    vec(prop_oneof![4 => Just(0_i64), 4 => 0..8_i64, 1 => 0..100_i64], 1..120)
}

proptest! {
    #[test]
    fn over_no_interval_are_more_admitted_than_the_burst_and_what_the_time_gives(bucket in buckets(), pauses in pauses()) {
        let kept = Kept::full();
        let interval = bucket.room() / bucket.burst();
        let (mut now, mut admitted) = (START, Vec::new());
        for pause in pauses {
            now += pause * interval / 3;
            if kept.take(bucket, now).is_admitted {
                admitted.push(now);
            }
        }
        for (first, begun) in admitted.iter().enumerate() {
            for (last, ended) in admitted.iter().enumerate().skip(first) {
                let count = i64::try_from(last - first + 1).unwrap();
                prop_assert!(count <= bucket.burst() + (ended - begun) / interval, "{count} from {begun} to {ended}");
            }
        }
    }

    #[test]
    fn a_client_that_waits_as_it_is_told_is_served_and_one_that_comes_earlier_is_not(bucket in buckets(), pauses in pauses()) {
        let kept = Kept::full();
        let interval = bucket.room() / bucket.burst();
        let mut now = START;
        for pause in pauses {
            now += pause * interval / 3;
            let Taken { is_admitted, owed } = kept.take(bucket, now);
            prop_assert!((0..=bucket.room()).contains(&owed));
            prop_assert!((0..=bucket.burst()).contains(&bucket.remaining(owed)));
            let wait = bucket.wait(owed);
            prop_assert!(wait > 0 && wait <= interval, "{wait}");
            if !is_admitted {
                prop_assert_eq!(bucket.remaining(owed), 0);
                prop_assert!(!kept.look(bucket, now + wait - 1).is_admitted);
                prop_assert!(kept.look(bucket, now + wait).is_admitted);
            }
        }
    }
}

#[test]
fn a_clock_that_is_put_back_keeps_nobody_out() {
    let (bucket, kept) = (Bucket::new(60, 2), Kept::full());
    assert!(kept.take(bucket, START).is_admitted);
    let earlier = START - 3_600_000_000;
    let refused = kept.take(bucket, earlier);
    assert_eq!((refused.is_admitted, bucket.wait(refused.owed)), (false, 1_000_000));
}

#[tokio::test]
async fn the_script_and_the_replica_agree() {
    let redis = redis();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for run in 0..20 {
        let burst = prop_oneof![1..5_u32, 1..50_u32].new_tree(&mut runner).unwrap().current();
        let pauses = pauses().new_tree(&mut runner).unwrap().current();
        let (bucket, caller, kept) = (Bucket::new(SLOW, burst), caller(&format!("agree-{run}")), Kept::full());
        let mut now = START;
        for pause in pauses {
            now += pause * 20_000_000 + pause % 2;
            let here = kept.take(bucket, now);
            let there = ask(&redis, Class::Read, &caller, bucket, Some(now)).await.unwrap();
            assert_eq!(here, there, "run {run}, {bucket:?} at {now}");
        }
        // Also where the clock is put back.
        let earlier = START - 1_000_000;
        let there = ask(&redis, Class::Read, &caller, bucket, Some(earlier)).await.unwrap();
        assert_eq!(kept.take(bucket, earlier), there, "run {run}");
    }
}

#[tokio::test]
async fn the_script_takes_the_time_of_redis_and_its_key_ends_by_itself() {
    let (redis, caller) = (redis(), caller("ends"));
    let bucket = Bucket::new(60_000, 2);
    let taken = ask(&redis, Class::Start, &caller, bucket, None).await.unwrap();
    assert_eq!(taken, Taken { is_admitted: true, owed: 1_000 });
    let key = redis.key("rate", &format!("start:{caller}"));
    testkit::eventually("the key to end", async || match redis.get(&key).await.unwrap() {
        None => Ok(()),
        found => Err(found),
    })
    .await;
}

#[tokio::test]
async fn what_redis_refuses_is_refused_from_memory_until_its_wait_is_over() {
    let settings = RateLimit { burst: Some(2), ..RateLimit::of(SLOW) };
    let (redis, caller) = (redis(), caller("memory"));
    let (limiter, clock) = limiter(&settings, Some(redis.clone()));
    // Another replica uses the bucket up.
    let bucket = Bucket::new(SLOW, 2);
    for _ in 0..2 {
        assert!(ask(&redis, Class::Read, &caller, bucket, None).await.unwrap().is_admitted);
    }
    assert_eq!(limiter.refusal(Class::Read, &caller), None, "nothing is known here yet");
    let verdict = limiter.take(Class::Read, &caller).await.unwrap();
    assert!(!verdict.is_admitted);
    assert_eq!(limiter.refusal(Class::Read, &caller), Some(verdict));
    assert!(limiter.take(Class::Write, &caller).await.unwrap().is_admitted, "each class has a bucket of its own");
    clock.advance(verdict.wait());
    assert_eq!(limiter.refusal(Class::Read, &caller), None);
}

#[tokio::test]
async fn the_fields_say_what_is_left_and_when_there_is_more() {
    let (limiter, _) = limiter(&RateLimit::of(100), None);
    let caller = Caller::at([192, 0, 2, 1].into());
    let mut headers = HeaderMap::new();
    limiter.take(Class::Read, &caller).await.unwrap().write(&mut headers);
    assert_eq!(headers["ratelimit-policy"], "\"read\";q=100;w=60");
    assert_eq!(headers["ratelimit"], "\"read\";r=99;t=1");
    for _ in 0..99 {
        assert!(limiter.take(Class::Read, &caller).await.unwrap().is_admitted);
    }
    let refused = limiter.take(Class::Read, &caller).await.unwrap();
    assert!(!refused.is_admitted);
    assert_eq!(refused.wait(), Duration::from_millis(600));
    refused.write(&mut headers);
    assert_eq!(headers["ratelimit"], "\"read\";r=0;t=1");
}

#[test]
fn classes_have_their_own_limits_or_the_general_ones_and_loopback_without_keys_has_none() {
    let unset = RateLimit::default();
    assert_eq!(unset.bucket(Class::Read, false), None);
    assert_eq!(unset.bucket(Class::Unauthenticated, true), Some(Bucket::new(100, 100)));
    let start = Rate { per_minute: Some(10), burst: None };
    let write = Rate { per_minute: None, burst: Some(5) };
    let read = Rate { per_minute: Some(0), burst: None };
    let set = RateLimit { per_minute: Some(60), burst: Some(20), start, write, read, ..RateLimit::default() };
    assert_eq!(set.validate(), Ok(()));
    for is_keyed in [true, false] {
        assert_eq!(set.bucket(Class::Start, is_keyed), Some(Bucket::new(10, 10)));
        assert_eq!(set.bucket(Class::Write, is_keyed), Some(Bucket::new(60, 5)));
        assert_eq!(set.bucket(Class::Read, is_keyed), None);
        assert_eq!(set.bucket(Class::Unauthenticated, is_keyed), Some(Bucket::new(60, 20)));
    }
    assert!(RateLimit { burst: Some(0), ..RateLimit::default() }.validate().is_err());
    assert!(
        RateLimit { read: Rate { per_minute: Some(u32::MAX), burst: None }, ..RateLimit::default() }
            .validate()
            .is_err()
    );
}

#[tokio::test]
async fn who_goes_on_guessing_is_locked_out_twice_as_long_each_time_and_up_to_a_quarter_of_an_hour() {
    let (limiter, clock) = limiter(&RateLimit { burst: Some(3), ..RateLimit::of(100) }, None);
    let [caller, other] = [1, 2].map(|last| Caller::at([192, 0, 2, last].into()));
    let guess = async || limiter.guess(&caller).await.unwrap();
    for _ in 0..3 {
        assert!(guess().await.is_admitted, "it may have been a mistake");
    }
    for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900] {
        let refused = guess().await;
        assert_eq!((refused.is_admitted, refused.wait()), (false, Duration::from_secs(expected)));
        let mut headers = HeaderMap::new();
        refused.write(&mut headers);
        assert_eq!(headers["ratelimit"], format!("\"unauthenticated\";r=0;t={expected}"));
        // What comes meanwhile makes it no longer.
        clock.advance(Duration::from_millis(expected * 1_000 - 1));
        let still = guess().await;
        assert_eq!((still.is_admitted, still.wait()), (false, Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert!(guess().await.is_admitted, "one, as it was told");
    }
    assert!(limiter.guess(&other).await.unwrap().is_admitted, "each address for itself");
    assert!(!guess().await.is_admitted);
    // A clock that is put back keeps nobody out for longer.
    clock.set(Timestamp::from_micros(START));
    assert_eq!(guess().await.wait(), Duration::from_mins(15));
    clock.advance(Duration::from_hours(3));
    for _ in 0..3 {
        assert!(guess().await.is_admitted, "it is forgotten");
    }
    assert_eq!(guess().await.wait(), Duration::from_secs(1));
    // Nor does it help to guess as slowly as the bucket fills.
    let slow = Caller::at([192, 0, 2, 3].into());
    for _ in 0..4 {
        assert!(limiter.guess(&slow).await.unwrap().is_admitted);
        clock.advance(Duration::from_millis(600));
    }
    assert_eq!(limiter.guess(&slow).await.unwrap().wait(), Duration::from_millis(400));
    // Who renews too often guesses nothing.
    let renewing = Caller::Key("renewing".into());
    for _ in 0..3 {
        assert!(limiter.guess(&renewing).await.unwrap().is_admitted);
    }
    assert_eq!(limiter.guess(&renewing).await.unwrap().wait(), Duration::from_millis(600));
}

#[test]
fn a_network_of_ipv6_is_one_caller_and_an_address_of_ipv4_is_one() {
    let at = |address: &str| Caller::at(address.parse().unwrap());
    assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
    assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
    assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
    assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
}
