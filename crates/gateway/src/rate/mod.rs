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
mod lockout;
mod settings;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use domain::Clock;
use http::{HeaderMap, HeaderName, HeaderValue};
use store::{Redis, RedisError};

pub use self::settings::{Rate, RateLimit};
use self::{bucket::Bucket, local::Local, lockout::Lockouts};

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
    /// Whoever is at an address, or in its network.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Address(::access::network(address))
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
    /// Microseconds for which whoever goes on guessing is locked out.
    locked: i64,
    pub(crate) is_admitted: bool,
}

/// Counts requests, and refuses those that are too many.
pub(crate) struct Limiter {
    /// In the order of [`CLASSES`]; none where there is no limit.
    buckets: [Option<Bucket>; CLASSES.len()],
    local: Local,
    lockouts: Lockouts,
    redis: Option<Redis>,
    clock: Arc<dyn Clock>,
}

impl Limiter {
    /// With the limits of the settings, as they are where an API key is demanded or is not.
    pub(crate) fn new(settings: &RateLimit, is_keyed: bool, redis: Option<Redis>, clock: Arc<dyn Clock>) -> Self {
        let buckets = CLASSES.map(|class| settings.bucket(class, is_keyed));
        let longest = buckets.iter().flatten().map(|bucket| bucket.room()).max().unwrap_or_default();
        let local = Local::new(Duration::from_micros(longest.unsigned_abs()));
        Self { buckets, local, lockouts: Lockouts::new(), redis, clock }
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
        count(class, outcome, level);
        Some(verdict)
    }

    /// Counts wrong credentials; nothing where there is no limit. An address that has used up its guesses is locked out, for
    /// longer each time.
    pub(crate) async fn guess(&self, caller: &Caller) -> Option<Verdict> {
        const CLASS: Class = Class::Unauthenticated;
        let bucket = self.buckets[CLASS as usize]?;
        if let Some(locked) = self.lockouts.remains(caller, self.now()) {
            count(CLASS, "refused", "replica");
            return Some(Verdict { class: CLASS, bucket, owed: bucket.room(), locked, is_admitted: false });
        }
        // What this replica knows needs no question to Redis.
        let verdict = match self.refusal(CLASS, caller) {
            Some(refused) => refused,
            None => self.take(CLASS, caller).await?,
        };
        if let Caller::Key(_) = caller {
            return Some(verdict);
        }
        let now = self.now();
        let locked = if verdict.is_admitted {
            self.lockouts.count(caller, now, bucket.burst())
        } else {
            self.lockouts.lock(caller, now, verdict.micros())
        };
        Some(match locked {
            Some(locked) => Verdict { owed: bucket.room(), locked, ..verdict },
            None => verdict,
        })
    }

    /// The refusal that a caller would get who has no token left, as far as this replica knows. Takes nothing.
    pub(crate) fn refusal(&self, class: Class, caller: &Caller) -> Option<Verdict> {
        let bucket = self.buckets[class as usize]?;
        let seen = self.local.seen(class, caller)?.look(bucket, self.now());
        if seen.is_admitted {
            return None;
        }
        count(class, "refused", "replica");
        Some(seen.judged(class, bucket))
    }

    fn now(&self) -> i64 {
        self.clock.now().as_micros()
    }
}

fn count(class: Class, outcome: &'static str, level: &'static str) {
    metrics::counter!(REQUESTS, "class" => class.as_str(), "outcome" => outcome, "level" => level).increment(1);
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
        Duration::from_micros(self.micros().unsigned_abs())
    }

    fn micros(&self) -> i64 {
        if self.locked > 0 { self.locked } else { self.bucket.wait(self.owed) }
    }

    /// Tells the client where it stands: draft-ietf-httpapi-ratelimit-headers, whose fields are structured (RFC 9651).
    ///
    /// The quota is what a full bucket holds, its window the time in which an empty one fills.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let (class, bucket) = (self.class.as_str(), self.bucket);
        let policy = format!("\"{class}\";q={};w={}", bucket.burst(), seconds(bucket.room()));
        let (remaining, reset) = (bucket.remaining(self.owed), seconds(self.micros()));
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
