//! The arithmetic of a bucket, once in Rust and once as a script that Redis runs: the same, to the microsecond.
//!
//! What is kept of a bucket is one number: the time at which it is full again. A token that is taken moves that time on by one
//! interval; there is a token as long as it stays within a whole bucket from now. Nothing has to be filled, a bucket that is not
//! kept is a full one, and whole numbers make no rounding errors.

/// One minute, in which an operator counts.
const MINUTE: i64 = 60_000_000;

/// Takes a token from the bucket at `KEYS[1]`: interval, tokens of a full one, and the time (otherwise that of Redis), in
/// microseconds. Answers whether there was one, and how long until the bucket is full.
///
/// Numbers of scripts are exact up to 2^53: microseconds until the year 2255. The key goes when the bucket is full: then it is what a
/// key that is not there means.
pub(super) const SCRIPT: &str = "\
local interval = tonumber(ARGV[1])
local room = interval * tonumber(ARGV[2])
local now = tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local full = tonumber(redis.call('GET', KEYS[1]) or now)
full = math.min(math.max(full, now), now + room)
if full + interval > now + room then return { 0, full - now } end
full = full + interval
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return { 1, full - now }";

/// How fast tokens come, and how many there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Microseconds from one token to the next.
    interval: i64,
    burst: i64,
}

/// What became of the wish for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) is_admitted: bool,
    /// Microseconds until the bucket is full again.
    pub(super) owed: i64,
}

impl Taken {
    pub(super) const fn judged(self, class: super::Class, bucket: Bucket) -> super::Verdict {
        super::Verdict { class, bucket, owed: self.owed, locked: 0, is_admitted: self.is_admitted }
    }
}

impl Bucket {
    /// So many tokens a minute, and at most so many at once; both at least 1. The interval is rounded up, so that there are never
    /// more.
    pub(super) fn new(per_minute: u32, burst: u32) -> Self {
        let per_minute = i64::from(per_minute.max(1));
        Self { interval: (MINUTE + per_minute - 1) / per_minute, burst: i64::from(burst.max(1)) }
    }

    /// Microseconds in which an empty one fills.
    pub(super) const fn room(self) -> i64 {
        self.interval * self.burst
    }

    pub(super) const fn burst(self) -> i64 {
        self.burst
    }

    /// As the script takes them.
    pub(super) fn arguments(self, now: Option<i64>) -> Vec<i64> {
        [self.interval, self.burst].into_iter().chain(now).collect()
    }

    /// How long until it is full, where that was to be at `full`. Never longer than an empty one takes: a clock that was put back, or
    /// other settings, do not keep anybody out.
    pub(super) fn owed(self, full: i64, now: i64) -> i64 {
        full.saturating_sub(now).clamp(0, self.room())
    }

    /// Takes a token from one that is full after so long.
    pub(super) const fn take(self, owed: i64) -> Taken {
        if owed + self.interval > self.room() {
            return Taken { is_admitted: false, owed };
        }
        Taken { is_admitted: true, owed: owed + self.interval }
    }

    /// Tokens in one that is full after so long.
    pub(super) const fn remaining(self, owed: i64) -> i64 {
        (self.room() - owed) / self.interval
    }

    /// How long until there is one more; nothing where it is full.
    pub(super) const fn wait(self, owed: i64) -> i64 {
        let next = self.room() - (self.remaining(owed) + 1) * self.interval;
        if next < 0 { 0 } else { owed - next }
    }
}
