//! How often a caller may ask.
//!
//! Each caller has a bucket of tokens for each class of requests. A request takes a token, and is refused where there is none;
//! time puts tokens back. A caller is the API key that it presents; where it presents none that is right, its address.
//!
//! Buckets are in two places. Each replica has its own in memory, a bounded number of them, and asks those first: what they
//! refuse, nobody else has to be asked. What they admit is then taken from the bucket that all replicas share in Redis, and what
//! that says is noted in memory. So Redis can only refuse more; while it is away each replica goes on with what it knows, and
//! callers get at most so many times their limit as there are replicas. No request fails or waits for a dead Redis: the handle
//! has a short timeout, and does not ask one that failed a moment ago.

mod bucket;
mod local;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use domain::Clock;
use http::{HeaderMap, HeaderName, HeaderValue};
use store::{Redis, RedisError};

pub use self::settings::{Rate, RateLimit};
use self::{bucket::Bucket, local::Local};

/// Requests by `class`, `outcome` (`allowed`, `refused`) and `level`: what decided, `redis` or the `replica` by itself.
const REQUESTS: &str = "gateway_rate_limited_requests_total";

/// Kinds of requests that are counted apart, so that who reads a lot can still stop what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// GET and HEAD.
    Read,
    /// What changes something, unless it is `Start`.
    Write,
    /// What makes work: executions and messages.
    Start,
    /// Requests with a wrong API key where one is demanded, whatever they ask for.
    Unauthenticated,
}

/// Every class.
const CLASSES: [Class; 4] = [Class::Read, Class::Write, Class::Start, Class::Unauthenticated];

impl Class {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Start => "start",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// Whoever has the key with this fingerprint.
    Key(Arc<str>),
    /// Whoever is at this address.
    Address(IpAddr),
}

impl Caller {
    /// Whoever is at an address. One machine has as many addresses of IPv6 as it likes, in a network of 64 bits: that counts as one.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(fingerprint) => write!(formatter, "key:{fingerprint}"),
            Self::Address(address) => write!(formatter, "address:{address}"),
        }
    }
}

/// What a bucket has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    class: Class,
    bucket: Bucket,
    /// Microseconds until the bucket is full again.
    owed: i64,
    pub(crate) is_admitted: bool,
}

/// Counts requests, and refuses those that are too many.
pub(crate) struct Limiter {
    /// In the order of [`CLASSES`]; none where there is no limit.
    buckets: [Option<Bucket>; CLASSES.len()],
    local: Local,
    redis: Option<Redis>,
    clock: Arc<dyn Clock>,
}

impl Limiter {
    /// With the limits of the settings, as they are where an API key is demanded or is not.
    pub(crate) fn new(settings: &RateLimit, is_keyed: bool, redis: Option<Redis>, clock: Arc<dyn Clock>) -> Self {
        let buckets = CLASSES.map(|class| settings.bucket(class, is_keyed));
        let longest = buckets.iter().flatten().map(|bucket| bucket.room()).max().unwrap_or_default();
        Self { buckets, local: Local::new(Duration::from_micros(longest.unsigned_abs())), redis, clock }
    }

    /// Takes a token of the caller's; nothing where there is no limit.
    pub(crate) async fn take(&self, class: Class, caller: &Caller) -> Option<Verdict> {
        let bucket = self.buckets[class as usize]?;
        let kept = self.local.kept(class, caller);
        let now = self.now();
        let mut verdict = kept.take(bucket, now).judged(class, bucket);
        let mut level = "replica";
        if let Some(redis) = self.redis.as_ref().filter(|_| verdict.is_admitted) {
            match ask(redis, class, caller, bucket, None).await {
                Ok(taken) => {
                    kept.note(taken, now);
                    (verdict, level) = (taken.judged(class, bucket), "redis");
                }
                // The handle has told of an outage, once.
                Err(error) => tracing::debug!(error = errors::chain(&error), "counting requests in this replica alone"),
            }
        }
        let outcome = if verdict.is_admitted { "allowed" } else { "refused" };
        metrics::counter!(REQUESTS, "class" => class.as_str(), "outcome" => outcome, "level" => level).increment(1);
        Some(verdict)
    }

    /// The refusal that a caller would get who has no token left, as far as this replica knows. Takes nothing.
    pub(crate) fn refusal(&self, class: Class, caller: &Caller) -> Option<Verdict> {
        let bucket = self.buckets[class as usize]?;
        let seen = self.local.seen(class, caller)?.look(bucket, self.now());
        if seen.is_admitted {
            return None;
        }
        metrics::counter!(REQUESTS, "class" => class.as_str(), "outcome" => "refused", "level" => "replica")
            .increment(1);
        Some(seen.judged(class, bucket))
    }

    fn now(&self) -> i64 {
        self.clock.now().as_micros()
    }
}

/// Takes a token from the bucket that replicas share. The time is that of Redis, since all have to agree about it; tests say one.
async fn ask(
    redis: &Redis,
    class: Class,
    caller: &Caller,
    bucket: Bucket,
    now: Option<i64>,
) -> Result<bucket::Taken, RedisError> {
    let key = redis.key("rate", &format!("{}:{caller}", class.as_str()));
    let arguments = bucket.arguments(now);
    let answer = redis.run(bucket::SCRIPT, &key, &arguments).await?;
    // The script answers with these two.
    let (is_admitted, owed) = (answer.first() == Some(&1), answer.get(1).copied().unwrap_or_default());
    Ok(bucket::Taken { is_admitted, owed })
}

impl Verdict {
    /// How long until there is one token more.
    pub(crate) fn wait(&self) -> Duration {
        Duration::from_micros(self.bucket.wait(self.owed).unsigned_abs())
    }

    /// Tells the client where it stands: draft-ietf-httpapi-ratelimit-headers, whose fields are structured (RFC 9651).
    ///
    /// The quota is what a full bucket holds, its window the time in which an empty one fills.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let (class, bucket) = (self.class.as_str(), self.bucket);
        let policy = format!("\"{class}\";q={};w={}", bucket.burst(), seconds(bucket.room()));
        let (remaining, reset) = (bucket.remaining(self.owed), seconds(bucket.wait(self.owed)));
        let state = format!("\"{class}\";r={remaining};t={reset}");
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// Whole seconds, rounded up: who comes back too early is refused again.
fn seconds(micros: i64) -> i64 {
    micros.div_euclid(1_000_000) + i64::from(micros.rem_euclid(1_000_000) > 0)
}
