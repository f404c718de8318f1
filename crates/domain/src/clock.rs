//! Time as a parameter: whoever needs the time takes a [`Clock`], so that tests and replay are exact.

use std::{
    fmt,
    ops::{Add, Sub},
    str::FromStr,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A moment: microseconds since the Unix epoch, serialized as that number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// A moment too far away for a calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time outside the years that can be written")]
pub struct TimestampOutOfRange;

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// As a calendar time in UTC; the epoch for times outside its range.
    pub fn to_datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }

    /// From a calendar time.
    pub fn from_datetime(datetime: DateTime<Utc>) -> Self {
        Self(datetime.timestamp_micros())
    }

    /// Split for protobuf: seconds, and nanoseconds from 0 to 999,999,999.
    pub fn to_seconds_and_nanos(self) -> (i64, i32) {
        (self.0.div_euclid(1_000_000), (self.0.rem_euclid(1_000_000) * 1_000) as i32)
    }

    /// Joined from protobuf's parts.
    pub fn from_seconds_and_nanos(seconds: i64, nanos: i32) -> Result<Self, TimestampOutOfRange> {
        let micros = seconds.checked_mul(1_000_000).ok_or(TimestampOutOfRange)?;
        let micros = micros.checked_add(i64::from(nanos) / 1_000).ok_or(TimestampOutOfRange)?;
        DateTime::from_timestamp_micros(micros).filter(can_be_written).map(|_| Self(micros)).ok_or(TimestampOutOfRange)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_datetime().to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

/// A text that is no point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a time such as 2026-03-01T08:00:00Z (RFC 3339)")]
pub struct TimestampError;

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Reads RFC 3339, with any offset.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let datetime = DateTime::parse_from_rfc3339(text).map_err(|_| TimestampError)?.to_utc();
        if can_be_written(&datetime) { Ok(Self::from_datetime(datetime)) } else { Err(TimestampError) }
    }
}

/// RFC 3339 has four digits for the year; an offset may lead out of them.
fn can_be_written(datetime: &DateTime<Utc>) -> bool {
    (0..=9999).contains(&datetime.year())
}

/// Where the time comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time now. It may jump, also backwards: nothing may rely on it for order.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the time comes from")]
    fn now(&self) -> Timestamp {
        Timestamp::from_datetime(Utc::now())
    }
}

/// A clock that moves only when it is told to; for tests.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `now`.
    pub const fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now() + by);
    }

    /// Moves the clock to any time.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_parts_join_to_the_same_moment_also_before_the_epoch() {
        for micros in [-1, 0, 1, 1_700_000_000_123_456, -1_000_001] {
            let moment = Timestamp::from_micros(micros);
            let (seconds, nanos) = moment.to_seconds_and_nanos();
            assert_eq!(Timestamp::from_seconds_and_nanos(seconds, nanos), Ok(moment));
        }
        assert!(Timestamp::from_seconds_and_nanos(i64::MAX, 0).is_err());
    }

    #[test]
    fn a_time_that_is_taken_can_be_written() {
        for text in ["9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+23:59", " 2026-03-01T08:00:00Z", ""] {
            assert_eq!(text.parse::<Timestamp>(), Err(TimestampError), "{text}");
        }
        for (text, printed) in [
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000000Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z"),
        ] {
            let time = text.parse::<Timestamp>().unwrap();
            assert_eq!(time.to_string(), printed);
            assert_eq!(printed.parse(), Ok(time));
        }
        for seconds in [253_402_300_800, -62_167_219_201, i64::MAX / 1_000_000] {
            assert_eq!(Timestamp::from_seconds_and_nanos(seconds, 0), Err(TimestampOutOfRange));
        }
    }

    #[test]
    fn time_prints_as_rfc_3339() {
        assert_eq!(Timestamp::from_micros(1).to_string(), "1970-01-01T00:00:00.000001Z");
    }
}
