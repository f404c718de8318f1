//! Invariants that did not hold in production: each is counted by its name, and logged with the execution. All counts must stay
//! zero; the predicates are those of [`workflow::invariant`], which tests and simulators ask as well.
//!
//! | | asked |
//! | --- | --- |
//! | I1 | when a caller is answered with what is said to be committed |
//! | I2 | at each commit |
//! | I4 | when an execution is taken over, or read again |
//! | I6 | when a log is read |
//! | I7 | with each sweep |
//! | I8 | when an execution ends |
//! | I3, I5, I7, I8 | of some executions in memory, with each sweep |
//! | I3, I5, I6 | when somebody has an execution verified |

use std::sync::atomic::{AtomicU64, Ordering};

use domain::ExecutionId;
use workflow::{Breach, Invariant};

use crate::metrics;

/// How often each did not hold.
#[derive(Debug)]
pub(crate) struct Violations {
    counts: [AtomicU64; Invariant::ALL.len()],
}

impl Violations {
    /// None so far; shows as zero.
    pub(crate) fn new() -> Self {
        for invariant in Invariant::ALL {
            metrics::violated(invariant, 0);
        }
        Self { counts: Default::default() }
    }

    /// This did not hold for an execution.
    pub(crate) fn note(&self, id: ExecutionId, breach: &Breach) {
        self.counts[breach.invariant as usize].fetch_add(1, Ordering::Relaxed);
        metrics::violated(breach.invariant, 1);
        let (invariant, what) = (breach.invariant.as_str(), breach.what.as_str());
        tracing::error!(execution.id = %id, invariant, what, "an invariant does not hold: this is a bug, or somebody else writes to the database");
    }

    /// This should hold.
    pub(crate) fn check(&self, id: ExecutionId, holds: Result<(), Breach>) {
        if let Err(breach) = holds {
            self.note(id, &breach);
        }
    }

    /// How often this one did not hold.
    #[cfg(test)]
    pub(crate) fn count(&self, invariant: Invariant) -> u64 {
        self.counts[invariant as usize].load(Ordering::Relaxed)
    }
}
