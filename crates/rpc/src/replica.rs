//! One replica of a service: the way there, and whether it is worth going.
//!
//! Each replica has a circuit of its own. The circuit breaker of tower-resilience does not fit here: it refuses a call only
//! after it has taken it, when a stream cannot go to another replica any more; a call that its caller gave up counts for
//! nothing there, and that is just what a replica looks like that is stopped; and its pause is always the same. The bulkhead
//! of tower-resilience, which is about a whole service, is used in `client`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::transport::Channel;

use crate::metrics::REPLICAS;

/// How long a replica is passed over that could not be reached or did not answer, doubled each time in a row, up to the longest.
/// One that is stopped still takes connections, so only silence tells.
const PASSED_OVER: Duration = Duration::from_secs(1);
const PASSED_OVER_AT_MOST: Duration = Duration::from_secs(10);
/// Calls in a row without an answer after which no more are sent for the time, even where there is no other replica.
const OPENS_AFTER: u32 = 5;

/// Whether calls are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Circuit {
    /// All are.
    Closed,
    /// One is, to see.
    HalfOpen,
    /// None is.
    Open,
}

impl Circuit {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// How a call to a replica ended, as far as it tells of the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer, whatever it says.
    Heard,
    /// It was not sent: there is no connection. Trying costs nothing, so the circuit stays as it is.
    Unreachable,
    /// It was sent, and nothing came.
    Unanswered,
    /// Its deadline has passed. That tells of the replica, unless it has answered others meanwhile: then it lives, and what was asked
    /// takes long.
    Late,
    /// Its caller gave it up before anybody could tell.
    Unknown,
}

/// A replica.
pub(crate) struct Replica {
    pub(crate) address: Arc<str>,
    pub(crate) channel: Channel,
    service: &'static str,
    condition: Mutex<Condition>,
}

struct Condition {
    /// In a row.
    failed: u32,
    /// Those of them that were sent, in a row.
    unanswered: u32,
    passed_over_until: Option<Instant>,
    /// Since when a call is under way that shows whether it is back.
    probed_at: Option<Instant>,
    /// When a failure was counted last.
    failed_at: Option<Instant>,
    /// When it last answered anything.
    heard_at: Option<Instant>,
    /// What the gauge says.
    shown: Circuit,
}

impl Condition {
    fn circuit(&self) -> Circuit {
        if self.unanswered < OPENS_AFTER {
            Circuit::Closed
        } else if self.probed_at.is_some() || self.passed_over_until.is_none_or(|until| Instant::now() >= until) {
            Circuit::HalfOpen
        } else {
            Circuit::Open
        }
    }
}

impl Replica {
    pub(crate) fn new(service: &'static str, address: Arc<str>, channel: Channel) -> Self {
        gauge(service, Circuit::Closed).increment(1.0);
        let condition = Condition {
            failed: 0,
            unanswered: 0,
            passed_over_until: None,
            probed_at: None,
            failed_at: None,
            heard_at: None,
            shown: Circuit::Closed,
        };
        Self { address, channel, service, condition: Mutex::new(condition) }
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Are others to be tried first?
    pub(crate) fn is_passed_over(&self) -> bool {
        let condition = self.condition();
        condition.probed_at.is_some() || condition.passed_over_until.is_some_and(|until| Instant::now() < until)
    }

    /// Lets a call through, unless its circuit is open.
    pub(crate) fn admit(&self) -> Option<UnderWay<'_>> {
        let mut condition = self.condition();
        match condition.circuit() {
            Circuit::Open => return None,
            // A probe may be a call that waits long by itself: then another one goes, to tell sooner.
            Circuit::HalfOpen if condition.probed_at.is_some_and(|at| at.elapsed() < PASSED_OVER) => return None,
            // Whoever comes first after the pause is the probe; the others go elsewhere meanwhile.
            Circuit::HalfOpen | Circuit::Closed => condition.probed_at = (condition.failed > 0).then(Instant::now),
        }
        self.show(&mut condition);
        Some(UnderWay { replica: Some(self), begun: Instant::now() })
    }

    fn ended(&self, ended: Ended, begun: Instant) {
        let mut condition = self.condition();
        condition.probed_at = None;
        let was_heard = condition.heard_at.is_some_and(|at| at >= begun);
        match ended {
            Ended::Unknown => {}
            Ended::Late if was_heard => {}
            Ended::Heard => {
                condition.failed = 0;
                condition.unanswered = 0;
                condition.passed_over_until = None;
                condition.heard_at = Some(Instant::now());
            }
            // Calls that were under way together fail together, of one cause.
            Ended::Unanswered | Ended::Late if condition.failed_at.is_some_and(|at| begun < at) => {}
            Ended::Unreachable | Ended::Unanswered | Ended::Late => {
                let was_sent = ended != Ended::Unreachable;
                let in_a_row = if was_sent { condition.failed } else { 0 };
                let pause = PASSED_OVER.saturating_mul(2_u32.saturating_pow(in_a_row)).min(PASSED_OVER_AT_MOST);
                condition.failed += 1;
                condition.unanswered += u32::from(was_sent);
                let now = Instant::now();
                condition.failed_at = Some(now);
                condition.passed_over_until = Some(now + pause);
            }
        }
        self.show(&mut condition);
    }

    fn show(&self, condition: &mut Condition) {
        let now = condition.circuit();
        let before = std::mem::replace(&mut condition.shown, now);
        if before != now {
            gauge(self.service, before).decrement(1.0);
            gauge(self.service, now).increment(1.0);
            tracing::info!(
                service = self.service,
                replica = &*self.address,
                circuit = now.as_str(),
                "the circuit has changed"
            );
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let shown = self.condition().shown;
        gauge(self.service, shown).decrement(1.0);
    }
}

fn gauge(service: &'static str, circuit: Circuit) -> metrics::Gauge {
    metrics::gauge!(REPLICAS, "service" => service, "circuit" => circuit.as_str())
}

/// A call that is under way.
pub(crate) struct UnderWay<'a> {
    replica: Option<&'a Replica>,
    begun: Instant,
}

impl UnderWay<'_> {
    pub(crate) fn ended(mut self, ended: Ended) {
        if let Some(replica) = self.replica.take() {
            replica.ended(ended, self.begun);
        }
    }
}

impl Drop for UnderWay<'_> {
    /// Given up: earlier than at its deadline that tells only of the caller.
    fn drop(&mut self) {
        if let Some(replica) = self.replica {
            let is_late = contracts::deadline::current().is_some_and(|deadline| Instant::now() >= deadline);
            replica.ended(if is_late { Ended::Late } else { Ended::Unknown }, self.begun);
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    fn replica() -> Replica {
        Replica::new("test", Arc::from("nowhere:1"), Endpoint::from_static("http://nowhere:1").connect_lazy())
    }

    fn call(replica: &Replica, ended: Ended) {
        replica.admit().expect("its circuit lets calls through").ended(ended);
    }

    #[tokio::test]
    async fn silence_opens_the_circuit_and_one_answer_closes_it() {
        let replica = replica();
        call(&replica, Ended::Unanswered);
        assert!(replica.is_passed_over());
        for _ in 1..OPENS_AFTER {
            call(&replica, Ended::Unanswered);
        }
        assert!(replica.admit().is_none());
        assert_eq!(replica.condition().circuit(), Circuit::Open);
        // The pause is over: one call goes through, to see.
        replica.condition().passed_over_until = Some(Instant::now());
        let probe = replica.admit().unwrap();
        assert!(replica.admit().is_none() && replica.is_passed_over());
        probe.ended(Ended::Unanswered);
        assert!(replica.admit().is_none());
        replica.condition().passed_over_until = Some(Instant::now());
        call(&replica, Ended::Heard);
        assert_eq!(replica.condition().circuit(), Circuit::Closed);
        assert!(!replica.is_passed_over());
    }

    #[tokio::test]
    async fn what_cannot_be_reached_is_passed_over_but_never_refused() {
        let replica = replica();
        for _ in 0..2 * OPENS_AFTER {
            call(&replica, Ended::Unreachable);
        }
        assert!(replica.is_passed_over());
        assert!(replica.admit().is_some());
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_says_nothing_about_the_replica_unless_it_is_late() {
        let replica = replica();
        drop(replica.admit());
        assert!(!replica.is_passed_over());
        let late = async {
            let _under_way = replica.admit();
            std::future::pending::<()>().await;
        };
        contracts::deadline::within(Duration::from_millis(1), late).await.unwrap_err();
        assert!(replica.is_passed_over());
    }

    #[tokio::test]
    async fn a_call_that_takes_too_long_says_nothing_about_a_replica_that_answers_others() {
        let replica = replica();
        let late = async {
            let _under_way: Vec<_> = (0..2 * OPENS_AFTER).map(|_| replica.admit()).collect();
            call(&replica, Ended::Heard);
            std::future::pending::<()>().await;
        };
        contracts::deadline::within(Duration::from_millis(1), late).await.unwrap_err();
        // The same where the channel notices first.
        let late = replica.admit().unwrap();
        call(&replica, Ended::Heard);
        late.ended(Ended::Late);
        assert!(!replica.is_passed_over());
        assert_eq!(replica.condition().circuit(), Circuit::Closed);
    }

    #[tokio::test]
    async fn calls_that_are_lost_together_count_once() {
        let replica = replica();
        let under_way: Vec<_> = (0..2 * OPENS_AFTER).filter_map(|_| replica.admit()).collect();
        for call in under_way {
            call.ended(Ended::Unanswered);
        }
        assert_eq!(replica.condition().unanswered, 1);
        assert_eq!(replica.condition().circuit(), Circuit::Closed);
    }

    #[tokio::test]
    async fn a_probe_that_waits_long_does_not_keep_others_away_and_an_unreachable_one_pauses_shortly() {
        let replica = replica();
        for _ in 0..OPENS_AFTER {
            call(&replica, Ended::Unanswered);
        }
        replica.condition().passed_over_until = Some(Instant::now());
        let _waits = replica.admit().unwrap();
        assert!(replica.admit().is_none());
        replica.condition().probed_at = Instant::now().checked_sub(PASSED_OVER);
        call(&replica, Ended::Unreachable);
        assert!(replica.admit().is_none());
        let until = replica.condition().passed_over_until;
        assert!(until.is_some_and(|until| until <= Instant::now() + PASSED_OVER));
        replica.condition().passed_over_until = Some(Instant::now());
        call(&replica, Ended::Heard);
        assert_eq!(replica.condition().circuit(), Circuit::Closed);
    }
}
