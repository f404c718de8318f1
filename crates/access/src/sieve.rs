//! How much is noted of what anybody can cause: so many in a period, and few of one cause, so that whoever makes many hides neither their
//! own first ones nor those of others, and fills no disk.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use domain::Timestamp;

/// What is noted in a period, of all together.
pub const MOST_NOTED: usize = 50;
/// What is noted in a period of one cause.
pub const MOST_NOTED_OF_ONE: usize = 5;

/// Counts those of the present period, each for the one that has caused it.
#[derive(Debug)]
pub struct Sieve<K> {
    /// In microseconds.
    period: i64,
    counted: Mutex<Counted<K>>,
}

#[derive(Debug)]
struct Counted<K> {
    /// Its number.
    period: i64,
    all: usize,
    /// Whoever is in it has one of those at least: so there are never more of them.
    of: HashMap<K, usize>,
}

impl<K> Default for Sieve<K> {
    /// With periods of a second.
    fn default() -> Self {
        Self::of_periods(Duration::from_secs(1))
    }
}

impl<K> Sieve<K> {
    /// With periods of this length, and of a microsecond at least.
    pub fn of_periods(period: Duration) -> Self {
        let period = i64::try_from(period.as_micros()).unwrap_or(i64::MAX).max(1);
        Self { period, counted: Mutex::new(Counted { period: 0, all: 0, of: HashMap::new() }) }
    }
}

impl<K: Eq + Hash> Sieve<K> {
    /// Is there room for one more of theirs? Times must not go back and forth: each other period begins anew.
    pub fn takes(&self, at: Timestamp, one: K) -> bool {
        let period = at.as_micros().div_euclid(self.period);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.period != period {
            *counted = Counted { period, all: 0, of: HashMap::new() };
        }
        if counted.all >= MOST_NOTED {
            return false;
        }
        let own = counted.of.entry(one).or_default();
        if *own >= MOST_NOTED_OF_ONE {
            return false;
        }
        *own += 1;
        counted.all += 1;
        true
    }
}

/// Where whoever is at an address is counted: one machine has as many addresses of IPv6 as it likes, in a network of 64 bits, which
/// counts as one.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_there_are_few_and_of_all_not_many_and_the_next_second_begins_anew() {
        let sieve = Sieve::default();
        let taken = |at: Timestamp, number: u32| (0..100).filter(|_| sieve.takes(at, number)).count();
        for second in 0..3 {
            let at = Timestamp::from_millis(1_700_000_000_000) + Duration::from_secs(second);
            let of_each: Vec<_> = (0..1_000).map(|number| taken(at, number)).collect();
            assert_eq!(of_each[0], MOST_NOTED_OF_ONE, "another's are not in its way");
            assert_eq!(of_each.iter().sum::<usize>(), MOST_NOTED);
            assert!(sieve.counted.lock().unwrap().of.len() <= MOST_NOTED, "nor are they kept");
        }
    }
}
