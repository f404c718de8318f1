//! What an operator can set about how often callers may ask.

use serde::{Deserialize, Serialize};

use super::{Class, bucket::Bucket};

/// The limit where an API key is demanded and nothing else is said.
const DEFAULT_PER_MINUTE: u32 = 100;
/// More than that is no limit for anybody, and intervals are whole microseconds.
const MOST: u32 = 1_000_000;

/// How often one caller may ask: an API key, or an address where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Requests a minute of each class, in the long run; more are answered with 429. 0 is no limit. Default 100 where an API key is
    /// demanded; no limit where none is, as for whoever tries it on their own machine.
    pub per_minute: Option<u32>,
    /// Requests at once, after a rest. Default as many as in a minute.
    pub burst: Option<u32>,
    /// For GET and HEAD. Default as above.
    pub read: Rate,
    /// For what changes something. Default as above.
    pub write: Rate,
    /// For what makes work: execute, and messages to agents. Default as above.
    pub start: Rate,
    /// For each address from which requests come with a wrong API key, where one is demanded. An address that has used it up gets 429
    /// for each further one. The right key always opens, and no key is no guess. Default as above.
    pub unauthenticated: Rate,
}

/// The limit of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// Requests a minute; 0 is no limit. Default that of all classes.
    pub per_minute: Option<u32>,
    /// Requests at once, after a rest. Default as many as in a minute where that is set here, otherwise that of all classes.
    pub burst: Option<u32>,
}

impl RateLimit {
    /// The same for every class: so many a minute, and at once.
    pub fn of(per_minute: u32) -> Self {
        Self { per_minute: Some(per_minute), ..Self::default() }
    }

    /// Checks the section: what is wrong with it, for a service's own `validate`.
    pub(crate) fn validate(&self) -> Result<(), (&'static str, String)> {
        let Self { per_minute, burst, read, write, start, unauthenticated } = self;
        let classes = [read, write, start, unauthenticated].map(|rate| (rate.per_minute, rate.burst));
        for (per_minute, burst) in [(*per_minute, *burst)].into_iter().chain(classes) {
            if burst == Some(0) {
                return Err((
                    "rate_limit",
                    "`burst` must be at least 1; for no limit set `per_minute` to 0".to_owned(),
                ));
            }
            if per_minute.max(burst) > Some(MOST) {
                return Err(("rate_limit", format!("must be at most {MOST}; 0 is no limit")));
            }
        }
        Ok(())
    }

    /// The bucket of a class; none where there is no limit.
    pub(super) fn bucket(&self, class: Class, is_keyed: bool) -> Option<Bucket> {
        let rate = match class {
            Class::Read => &self.read,
            Class::Write => &self.write,
            Class::Start => &self.start,
            Class::Unauthenticated => &self.unauthenticated,
        };
        let otherwise = if is_keyed { DEFAULT_PER_MINUTE } else { 0 };
        let per_minute = rate.per_minute.or(self.per_minute).unwrap_or(otherwise);
        if per_minute == 0 {
            return None;
        }
        let burst = rate.burst.or(rate.per_minute).or(self.burst).unwrap_or(per_minute);
        Some(Bucket::new(per_minute, burst))
    }
}
