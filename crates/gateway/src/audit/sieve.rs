//! How many entries are written of what anybody can cause: so many a second, and few of one cause, so that whoever makes many hides
//! neither their own first ones nor those of others, and fills no disk.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use domain::Timestamp;

use crate::rate::Caller;

/// Of all together.
pub(super) const MOST: usize = 50;
/// Of one caller.
pub(super) const MOST_OF_ONE: usize = 5;

/// Counts those of the present second.
#[derive(Debug, Default)]
pub(super) struct Sieve(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    second: i64,
    all: usize,
    /// Whoever is in it has one of those at least: so there are never more of them.
    of: HashMap<Caller, usize>,
}

impl Sieve {
    /// Is there room for one more of this caller's?
    pub(super) fn takes(&self, at: Timestamp, caller: Caller) -> bool {
        let second = at.as_micros().div_euclid(1_000_000);
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.second != second {
            *counted = Counted { second, ..Counted::default() };
        }
        if counted.all >= MOST {
            return false;
        }
        let own = counted.of.entry(caller).or_default();
        if *own >= MOST_OF_ONE {
            return false;
        }
        *own += 1;
        counted.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    #[test]
    fn of_one_there_are_few_and_of_all_not_many_and_the_next_second_begins_anew() {
        let sieve = Sieve::default();
        let taken = |at: Timestamp, number: u32| {
            let caller = Caller::at(Ipv4Addr::from(number).into());
            (0..100).filter(|_| sieve.takes(at, caller.clone())).count()
        };
        for second in 0..3 {
            let at = Timestamp::from_millis(1_700_000_000_000) + Duration::from_secs(second);
            let of_each: Vec<_> = (0..1_000).map(|number| taken(at, number)).collect();
            assert_eq!(of_each[0], MOST_OF_ONE, "another's are not in its way");
            assert_eq!(of_each.iter().sum::<usize>(), MOST);
            assert!(sieve.0.lock().unwrap().of.len() <= MOST, "nor are they kept");
        }
    }
}
