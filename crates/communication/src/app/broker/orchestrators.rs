//! The orchestrators that are attached, and which of them hears of a task.

use std::{collections::HashMap, sync::Arc};

use super::{Broker, Phase};
use crate::{
    app::{
        model::{ToOrchestrator, Update, What},
        outbox::{Outbox, Weigh},
    },
    error::CommunicationError,
};

/// A replica of the orchestrator, as it calls itself.
pub(crate) type OrchestratorId = Arc<str>;

/// One stream of a replica; a newer stream of the same replica has a higher number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) replica: OrchestratorId,
    pub(crate) number: u64,
}

/// Whoever writes an execution, where that is not known: all hear of its tasks. No replica is called so.
pub(super) fn whoever() -> OrchestratorId {
    Arc::from("")
}

/// The attached replicas.
#[derive(Debug, Default)]
pub(crate) struct Orchestrators {
    attached: HashMap<OrchestratorId, (u64, Outbox<ToOrchestrator>)>,
    numbers: u64,
}

impl Orchestrators {
    /// Adds a stream; answers with the one that it replaces.
    pub(crate) fn attach(
        &mut self,
        replica: OrchestratorId,
        outbox: Outbox<ToOrchestrator>,
    ) -> (Attachment, Option<Outbox<ToOrchestrator>>) {
        self.numbers += 1;
        let replaced = self.attached.insert(Arc::clone(&replica), (self.numbers, outbox));
        (Attachment { replica, number: self.numbers }, replaced.map(|(_, outbox)| outbox))
    }

    /// Removes a stream; false where a newer one has taken its place.
    pub(crate) fn detach(&mut self, attachment: &Attachment) -> bool {
        let is_current = self.is_current(attachment);
        if is_current {
            self.attached.remove(&attachment.replica);
        }
        is_current
    }

    /// Is this the replica's newest stream?
    pub(crate) fn is_current(&self, attachment: &Attachment) -> bool {
        self.attached.get(&attachment.replica).is_some_and(|(number, _)| *number == attachment.number)
    }

    /// Has it gone? Whoever is not known has not.
    pub(crate) fn is_away(&self, replica: &OrchestratorId) -> bool {
        !replica.is_empty() && !self.is_attached(replica)
    }

    /// Is any stream of it there?
    pub(crate) fn is_attached(&self, replica: &OrchestratorId) -> bool {
        self.attached.contains_key(replica)
    }

    /// Ends all streams after what waits.
    pub(crate) fn end_all(&self) {
        self.attached.values().for_each(|(_, outbox)| outbox.end(Ok(())));
    }

    /// Tells the replica that a task belongs to; all of them where that one is away or not known: whoever has taken over the
    /// execution knows the task, the others say that it is not theirs.
    pub(crate) fn tell(&self, replica: Option<&OrchestratorId>, update: Update) {
        let said = ToOrchestrator::Update(update);
        match replica.and_then(|replica| self.attached.get(replica)) {
            Some((_, outbox)) => outbox.push(said),
            None => self.tell_all(&said),
        }
    }

    /// Tells everybody.
    pub(crate) fn tell_all(&self, said: &ToOrchestrator) {
        self.attached.values().for_each(|(_, outbox)| outbox.push(said.clone()));
    }
}

impl Broker {
    /// Attaches an orchestrator: it hears at once who is served, and gets every result that waits for it.
    pub(crate) fn attach(&mut self, replica: &str, outbox: Outbox<ToOrchestrator>) -> Attachment {
        if self.phase == Phase::Over {
            outbox.end(Err(CommunicationError::Stopping.into()));
        }
        outbox.push(ToOrchestrator::Serving(self.all_served()));
        let (attachment, replaced) = self.orchestrators.attach(replica.into(), outbox);
        if let Some(replaced) = replaced {
            replaced.end(Err(CommunicationError::Replaced.into()));
            self.forget_unheld(&attachment.replica);
        }
        self.offer_results(&attachment.replica);
        self.tell_held(&attachment.replica);
        attachment
    }

    /// An orchestrator's stream has ended: what of it no session holds is forgotten. Of what one holds whoever has taken the
    /// execution over may not have heard.
    pub(crate) fn detach(&mut self, attachment: &Attachment) {
        if self.orchestrators.detach(attachment) {
            self.forget_unheld(&attachment.replica);
            self.tell_held(&attachment.replica);
        }
    }

    /// May this stream still speak for its replica?
    pub(crate) fn is_current(&self, attachment: &Attachment) -> bool {
        self.orchestrators.is_current(attachment)
    }
}

impl Weigh for ToOrchestrator {
    fn weight(&self) -> usize {
        let update = match self {
            Self::Serving(served) => return 128 + 256 * served.len(),
            Self::Update(update) => update,
        };
        let payload = match &update.what {
            What::Shown(detail) => detail.len(),
            What::Ended(outcome) => outcome.size(),
            What::Waiting
            | What::Enqueued
            | What::HandedOver { .. }
            | What::Begun
            | What::Alive
            | What::DeadLettered { .. }
            | What::Unknown => 0,
            What::Refused(reason) | What::Requeued(reason) => reason.len(),
        };
        payload + 128
    }
}
