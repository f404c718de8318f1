//! Is an execution's log whole, and does it say what everybody else says (I5, I6)?

use domain::{ExecutionId, Namespace};
use tokio::sync::oneshot;
use workflow::{Breach, Event, Invariant, invariant::Once};

use super::{
    App,
    history::{PAGE, Replay},
    summary_of,
};
use crate::{
    error::OrchestratorError,
    store::Summary,
    workers::{Comparison, Input},
};

/// How often a moving execution is read, to meet its state in memory.
const ATTEMPTS: u32 = 5;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verification {
    /// Events that were read.
    pub(crate) events: u64,
    pub(crate) faults: Vec<Breach>,
}

impl App {
    /// Looks whether everything holds that can be seen of an execution; what does not is counted, too.
    pub(crate) async fn verify(
        &self,
        namespace: &Namespace,
        id: ExecutionId,
    ) -> Result<Verification, OrchestratorError> {
        let found = self.look_for_faults(namespace, id).await?;
        for breach in &found.faults {
            self.workers.shared().violations.note(id, breach);
        }
        Ok(found)
    }

    async fn look_for_faults(&self, namespace: &Namespace, id: ExecutionId) -> Result<Verification, OrchestratorError> {
        let mut found = Verification::default();
        for attempt in 1..=ATTEMPTS {
            let summary = self.summary(namespace, id).await?;
            found = Verification::default();
            let replayed = self.replay(&summary, &mut found).await?;
            let Some(replayed) = replayed else {
                if found.faults.is_empty() && attempt < ATTEMPTS {
                    continue;
                }
                return Ok(found);
            };
            found.faults.extend(replayed.execution.breaches());
            self.compare_summary(&replayed, &summary, &mut found).await?;
            let (reply, answer) = oneshot::channel();
            self.workers.call(id, Input::Compare { replayed: Box::new(replayed.execution), reply })?;
            let compared = tokio::time::timeout(self.command_timeout, answer).await;
            match compared.map_err(|_| OrchestratorError::TimedOut)?.map_err(|_| OrchestratorError::Stopping)? {
                Comparison::Different(breach) => found.faults.push(breach),
                // One that goes on all the time is never met where the log is; its log holds all the same.
                Comparison::Ahead if attempt < ATTEMPTS && found.faults.is_empty() => continue,
                Comparison::Same | Comparison::NotInMemory | Comparison::Ahead => {}
            }
            break;
        }
        Ok(found)
    }

    /// Reads the log as far as the summary goes, and checks its chain. `None` where it cannot be replayed, with the fault; without
    /// one where that far nothing is left of it.
    async fn replay(&self, summary: &Summary, found: &mut Verification) -> Result<Option<Replay>, OrchestratorError> {
        let namespace = &summary.namespace;
        let compiled = self.plans.compiled(namespace, summary.workflow_id, summary.workflow_version).await?;
        let mut replay = Replay::new(&compiled.plan);
        let mut once = Once::default();
        loop {
            let page = match self.store.events(summary.id, replay.read, PAGE).await {
                Ok(page) => page,
                Err(error) if ::store::is_transient(&error) => return Err(error.into()),
                Err(error) => {
                    let what = format!("events after {} cannot be read: {}", replay.read, errors::chain(&error));
                    found.faults.push(Invariant::I6.breach(what));
                    return Ok(None);
                }
            };
            for row in page.rows {
                if replay.read == summary.last_sequence {
                    // Written since, with a summary of their own.
                    let now = self.store.summary(summary.id).await?.map_or(0, |now| now.last_sequence);
                    if row.sequence > now {
                        let what = format!("the summary ends at event {now}, and the log does not");
                        found.faults.push(Invariant::I5.breach(what));
                    }
                    return Ok(finish(replay, found));
                }
                if !replay.reach(self.store.as_ref(), summary.id, &row).await? {
                    continue;
                }
                if replay.read > summary.last_sequence {
                    return Ok(None);
                }
                if let Err(breach) = replay.follow(&row).and_then(|fits| fits) {
                    found.faults.push(breach);
                    return Ok(None);
                }
                found.events += 1;
                let Ok(event) = Event::decode(&row.data) else {
                    found.faults.push(Invariant::I6.breach(format!("event {} is not an event", row.sequence)));
                    return Ok(None);
                };
                found.faults.extend(once.see(&event).err());
                replay.apply(&row, event);
            }
            if page.is_last {
                break;
            }
        }
        if replay.read < summary.last_sequence {
            found.faults.push(Invariant::I6.breach(format!("events after {} are missing", replay.read)));
            return Ok(None);
        }
        Ok(finish(replay, found))
    }

    async fn compare_summary(
        &self,
        replayed: &Replay,
        summary: &Summary,
        found: &mut Verification,
    ) -> Result<(), OrchestratorError> {
        let namespace = &summary.namespace;
        let compiled = self.plans.compiled(namespace, summary.workflow_id, summary.workflow_version).await?;
        let expected = summary_of(&replayed.execution, replayed.hash, summary.shard, &compiled);
        found.faults.extend(differences(&expected, summary));
        if self.workers.shared().holdings.shard(summary.id) != summary.shard {
            found.faults.push(difference("shard"));
        }
        Ok(())
    }
}

fn finish(replay: Replay, found: &mut Verification) -> Option<Replay> {
    replay.finish().map_err(|breach| found.faults.push(breach)).ok()
}

/// I5: where a summary is not what the log replays to.
pub(crate) fn differences(expected: &Summary, summary: &Summary) -> impl Iterator<Item = Breach> {
    let same = [
        ("id", expected.id == summary.id),
        ("namespace", expected.namespace == summary.namespace),
        ("created_at", expected.created_at == summary.created_at),
        ("status", expected.status == summary.status),
        ("counts", expected.counts == summary.counts),
        ("failure", expected.failure == summary.failure),
        ("ended_at", expected.ended_at == summary.ended_at),
        ("last_sequence", expected.last_sequence == summary.last_sequence),
        ("last_hash", expected.last_hash == summary.last_hash),
    ];
    same.into_iter().filter(|(_, is_same)| !is_same).map(|(field, _)| difference(field))
}

fn difference(field: &str) -> Breach {
    Invariant::I5.breach(format!("the summary's {field} is not what the log replays to"))
}
