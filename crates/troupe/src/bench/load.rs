//! The load: a closed loop of a fixed number of calls out at once, or so many a second, each timed.

use std::{cell::Cell, time::Duration};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::{
    cost::{Before, Cost},
    meter::Meter,
};

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Calls to measure.
    pub(super) runs: u64,
    /// Calls out at once.
    pub(super) concurrency: u32,
    /// Calls before measuring begins.
    pub(super) warmup: u64,
    /// So many begin a second, as far as `concurrency` lets them, whether or not those before have ended. Latency is then from
    /// when each was due, so that none is left out where the server stands still.
    pub(super) rate: Option<u32>,
}

impl Plan {
    /// When a call is due, from the start.
    fn due(&self, number: u64) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(number as f64 / f64::from(rate)))
    }
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// Latencies of calls without error, in microseconds.
    pub(super) latencies: Histogram<u64>,
    /// Calls that failed or gave the wrong answer.
    pub(super) errors: u64,
    /// The first of them, for people.
    pub(super) first_error: Option<String>,
    /// From the start of the first call to the end of the last.
    pub(super) elapsed: Duration,
}

/// Warms up, then measures `plan`; where there is a meter also what it has cost, `steps` being those of one run.
pub(super) async fn measure<F, Fut>(
    plan: Plan,
    meter: Option<&Meter>,
    steps: u64,
    call: F,
) -> anyhow::Result<(Measured, Option<Cost>)>
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    drive(plan.warmup, plan, &call).await;
    let Some(meter) = meter else { return Ok((drive(plan.runs, plan, &call).await, None)) };
    let before = Before::read(meter).await?;
    let measured = drive(plan.runs, plan, &call).await;
    let cost = before.cost(plan.runs, steps).await?;
    Ok((measured, Some(cost)))
}

/// Calls `call` with numbers from 0 on until `count` calls have ended, as many at once and a second as the plan says.
pub(super) async fn drive<F, Fut>(count: u64, plan: Plan, call: F) -> Measured
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let next = Cell::new(0_u64);
    let begun = Instant::now();
    let client = || async {
        let mut own = Measured::nothing();
        loop {
            let number = next.get();
            if number >= count {
                return own;
            }
            next.set(number + 1);
            let due = begun + plan.due(number);
            let called = if plan.rate.is_some() {
                tokio::time::sleep_until(due).await;
                due
            } else {
                Instant::now()
            };
            own.record(call(number).await, called.elapsed());
        }
    };
    let clients = u64::from(plan.concurrency).min(count);
    let all = futures::future::join_all((0..clients).map(|_| client())).await;
    let mut sum = all.into_iter().fold(Measured::nothing(), Measured::plus);
    sum.elapsed = begun.elapsed();
    sum
}

impl Measured {
    fn nothing() -> Self {
        // Three digits, and it grows with the longest latency: no call is too slow to be counted.
        let latencies = Histogram::new(3).expect("3 digits are within the 5 that a histogram can keep");
        Self { latencies, errors: 0, first_error: None, elapsed: Duration::ZERO }
    }

    fn record(&mut self, result: Result<(), String>, latency: Duration) {
        match result {
            // The histogram grows as far as it must, and half a million years of microseconds fit.
            Ok(()) => {
                let _ = self.latencies.record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn plus(mut self, other: Self) -> Self {
        // Histograms that grow always have room for each other.
        if self.latencies.add(&other.latencies).is_err() {
            self.errors += other.latencies.len();
        }
        self.errors += other.errors;
        self.first_error = self.first_error.or(other.first_error);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_number_is_called_once_and_never_more_at_once_than_allowed() {
        let (out, most, sum) = (Cell::new(0_u32), Cell::new(0_u32), Cell::new(0_u64));
        let plan = Plan { runs: 100, concurrency: 7, warmup: 0, rate: None };
        let measured = drive(100, plan, |number| {
            let (out, most, sum) = (&out, &most, &sum);
            async move {
                out.set(out.get() + 1);
                most.set(most.get().max(out.get()));
                tokio::task::yield_now().await;
                out.set(out.get() - 1);
                sum.set(sum.get() + number);
                if number == 5 { Err("five".to_owned()) } else { Ok(()) }
            }
        })
        .await;
        assert_eq!((sum.get(), most.get()), (4950, 7));
        assert_eq!((measured.latencies.len(), measured.errors), (99, 1));
        assert_eq!(measured.first_error.as_deref(), Some("five"));
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_rate_a_call_counts_from_when_it_was_due() {
        let plan = Plan { runs: 4, concurrency: 1, warmup: 0, rate: Some(10) };
        let measured = drive(4, plan, |_| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(())
        })
        .await;
        // Due every 100 ms, and one at a time: each begins 200 ms later than the one before.
        let latencies: Vec<_> = measured.latencies.iter_recorded().map(|value| value.value_iterated_to()).collect();
        let expected = [300_000, 500_000, 700_000, 900_000];
        assert_eq!(latencies.len(), expected.len(), "{latencies:?}");
        for (latency, expected) in latencies.iter().zip(expected) {
            // The clock has whole milliseconds, and the histogram three digits.
            assert!(latency.abs_diff(expected) <= 4_000, "{latencies:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_rate_calls_begin_no_faster_than_that() {
        let plan = Plan { runs: 4, concurrency: 4, warmup: 0, rate: Some(10) };
        let measured = drive(4, plan, |_| async { Ok(()) }).await;
        assert!(measured.elapsed >= Duration::from_millis(300), "{:?}", measured.elapsed);
    }
}
