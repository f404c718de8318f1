//! Is an execution's log whole, and does it say what everybody else says (I5, I6)?

use domain::{ExecutionId, Namespace, Timestamp};
use tokio::sync::oneshot;
use workflow::{Event, Execution, Recorded, chain};

use super::{App, summary_of};
use crate::{
    error::OrchestratorError,
    store::Summary,
    workers::{Comparison, Input},
};

/// Events that one read of the log gets.
const PAGE: usize = 1_000;
/// How often a moving execution is read, to meet its state in memory.
const ATTEMPTS: u32 = 5;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verification {
    pub(crate) events: u64,
    /// One sentence per fault.
    pub(crate) faults: Vec<String>,
}

/// A log as it was read.
struct Replayed {
    execution: Execution,
    hash: [u8; 32],
}

impl App {
    pub(crate) async fn verify(
        &self,
        namespace: &Namespace,
        id: ExecutionId,
    ) -> Result<Verification, OrchestratorError> {
        let mut found = Verification::default();
        for attempt in 1..=ATTEMPTS {
            let summary = self.summary(namespace, id).await?;
            found = Verification::default();
            let replayed = self.replay(&summary, &mut found).await?;
            let Some(replayed) = replayed else { return Ok(found) };
            found.faults.extend(replayed.execution.breaches());
            self.compare_summary(&replayed, &summary, &mut found).await?;
            let (reply, answer) = oneshot::channel();
            self.workers.call(id, Input::Compare { replayed: Box::new(replayed.execution), reply })?;
            let compared = tokio::time::timeout(self.command_timeout, answer).await;
            match compared.map_err(|_| OrchestratorError::TimedOut)?.map_err(|_| OrchestratorError::Stopping)? {
                Comparison::Different => {
                    found.faults.push("the state in memory is not what the log replays to".to_owned());
                }
                // One that goes on all the time is never met where the log is; its log holds all the same.
                Comparison::Ahead if attempt < ATTEMPTS && found.faults.is_empty() => continue,
                Comparison::Same | Comparison::NotInMemory | Comparison::Ahead => {}
            }
            break;
        }
        Ok(found)
    }

    /// Reads the log as far as the summary goes, and checks its chain. `None` where it cannot be replayed, with the fault.
    async fn replay(&self, summary: &Summary, found: &mut Verification) -> Result<Option<Replayed>, OrchestratorError> {
        let namespace = &summary.namespace;
        let compiled = self.plans.compiled(namespace, summary.workflow_id, summary.workflow_version).await?;
        let mut replayed = Replayed { execution: Execution::new(compiled.plan.clone()), hash: [0; 32] };
        loop {
            let page = self.store.events(summary.id, found.events, PAGE).await?;
            for row in page.rows {
                if found.events == summary.last_sequence {
                    // Written since, with a summary of their own.
                    let now = self.store.summary(summary.id).await?.map_or(0, |now| now.last_sequence);
                    if row.sequence > now {
                        found.faults.push(format!("the summary ends at event {now}, and the log does not"));
                    }
                    return Ok(Some(replayed));
                }
                let expected = found.events + 1;
                if row.sequence != expected {
                    found.faults.push(format!("event {expected} is missing"));
                    return Ok(None);
                }
                found.events = row.sequence;
                replayed.hash = chain(&replayed.hash, row.sequence, row.at, &row.data);
                if row.hash != replayed.hash {
                    found.faults.push(format!("event {} is not what was written: its hash does not fit", row.sequence));
                    return Ok(None);
                }
                let Ok(event) = Event::decode(&row.data) else {
                    found.faults.push(format!("event {} is not an event", row.sequence));
                    return Ok(None);
                };
                replayed.execution.apply(&Recorded { sequence: row.sequence, at: row.at, event });
            }
            if page.is_last {
                break;
            }
        }
        if found.events < summary.last_sequence {
            found.faults.push(format!("events after {} are missing", found.events));
            return Ok(None);
        }
        Ok(Some(replayed))
    }

    async fn compare_summary(
        &self,
        replayed: &Replayed,
        summary: &Summary,
        found: &mut Verification,
    ) -> Result<(), OrchestratorError> {
        let namespace = &summary.namespace;
        let compiled = self.plans.compiled(namespace, summary.workflow_id, summary.workflow_version).await?;
        let expected = summary_of(&replayed.execution, replayed.hash, summary.shard, &compiled);
        let ended = |summary: &Summary| summary.ended_at.map(Timestamp::as_micros);
        let same = [
            ("id", expected.id == summary.id),
            ("namespace", expected.namespace == summary.namespace),
            ("shard", self.workers.shared().holdings.shard(summary.id) == summary.shard),
            ("created_at", expected.created_at == summary.created_at),
            ("status", expected.status == summary.status),
            ("counts", expected.counts == summary.counts),
            ("failure", expected.failure == summary.failure),
            ("ended_at", ended(&expected) == ended(summary)),
            ("last_hash", expected.last_hash == summary.last_hash),
        ];
        let wrong = same.into_iter().filter(|(_, is_same)| !is_same);
        found.faults.extend(wrong.map(|(field, _)| format!("the summary's {field} is not what the log replays to")));
        Ok(())
    }
}
