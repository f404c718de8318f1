//! What is remembered of one task, and what news of it means.

use domain::ExecutionId;
use tokio::time::Instant;

use super::replicas::{Kind, ReplicaId};
use crate::exchange::{News, TaskUpdate};

/// Where a task is, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This replica got it; no agent has it, as far as it has said.
    Given(ReplicaId),
    /// A session of this replica has it.
    Held(ReplicaId),
    /// This replica has its result, and keeps it until the acknowledgement.
    Over(ReplicaId),
    /// The message broker has it, for whoever takes it from there.
    Enqueued { since: Instant },
    /// Replicas are being asked.
    Sought(Search),
    /// It is nowhere. Its worker knows, and dispatches it.
    Nowhere,
}

/// A look for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// Who has not answered yet, or could not be asked yet.
    pub(super) unanswered: Vec<ReplicaId>,
    pub(super) since: Instant,
    /// As far as its worker knows an agent has it.
    pub(super) was_held: bool,
}

/// A task that is out.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) execution: ExecutionId,
    pub(super) kind: Kind,
    /// Under which its execution is held.
    pub(super) epoch: i64,
    pub(super) place: Place,
    /// Other replicas that remember it, since they put it into the broker or had it before: they hear of its end.
    pub(super) elsewhere: Vec<ReplicaId>,
    /// It went through the broker, which gives it to another where its holder dies.
    pub(super) is_in_broker: bool,
    /// Says that it holds it as well. The holder is being asked whether it still does: what one replica says may overtake what
    /// another has said before.
    pub(super) rival: Option<ReplicaId>,
}

/// What follows from news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    /// Its worker hears it.
    Tell,
    /// Its worker hears that it waits for an agent, unless another replica than `by` has some; and before that that no agent
    /// has it any more, where one had.
    Waits {
        by: Option<ReplicaId>,
        was_held: bool,
    },
    /// This replica is asked whether it holds it.
    Ask(ReplicaId),
    /// This replica must let go of it; only one may hold it.
    Withdraw(ReplicaId),
    /// A replica has answered that it does not have it.
    Answered,
    /// Who had it, or had put it into the broker, does not have it.
    Seek,
    /// It is over, and nobody waits for an acknowledgement.
    Buried,
}

impl Known {
    pub(super) const fn new(execution: ExecutionId, kind: Kind, epoch: i64) -> Self {
        let place = Place::Nowhere;
        Self { execution, kind, epoch, place, elsewhere: Vec::new(), is_in_broker: false, rival: None }
    }

    /// The one replica where it is.
    pub(super) const fn is_at(&self) -> Option<ReplicaId> {
        match self.place {
            Place::Given(replica) | Place::Held(replica) | Place::Over(replica) => Some(replica),
            Place::Enqueued { .. } | Place::Sought(_) | Place::Nowhere => None,
        }
    }

    /// Does its worker think that an agent has it?
    pub(super) const fn is_held(&self) -> bool {
        match &self.place {
            Place::Held(_) => true,
            Place::Sought(search) => search.was_held,
            Place::Given(_) | Place::Over(_) | Place::Enqueued { .. } | Place::Nowhere => false,
        }
    }

    /// Who has it but for where it is.
    pub(super) fn others(self) -> Vec<ReplicaId> {
        let mut others = self.elsewhere;
        others.extend(self.rival);
        others
    }

    /// Whose load it counts for.
    pub(super) const fn counts_for(&self) -> Option<ReplicaId> {
        match self.place {
            Place::Given(replica) | Place::Held(replica) => Some(replica),
            Place::Over(_) | Place::Enqueued { .. } | Place::Sought(_) | Place::Nowhere => None,
        }
    }

    /// A replica has it that is not where it is.
    fn remember(&mut self, replica: ReplicaId) {
        if !self.elsewhere.contains(&replica) {
            self.elsewhere.push(replica);
        }
    }

    fn forget(&mut self, replica: ReplicaId) {
        self.elsewhere.retain(|known| *known != replica);
    }

    pub(super) fn hear(&mut self, from: ReplicaId, update: &TaskUpdate, now: Instant) -> Then {
        match &update.news {
            News::HandedOver(_) => self.handed_over(from),
            News::Begun | News::Alive | News::Shown(_) if self.place == Place::Held(from) => Then::Tell,
            News::Requeued => self.in_line(from, Then::Tell),
            News::Waiting => self.in_line(from, Then::Waits { by: Some(from), was_held: self.is_held() }),
            News::Enqueued => self.enqueued(from, now),
            News::Refused if self.place == Place::Given(from) => {
                self.place = Place::Nowhere;
                Then::Tell
            }
            News::Unknown => self.unknown(from),
            // Of what is thought to be in nobody's hands: who has it was told to somebody else.
            News::Begun | News::Alive | News::Shown(_)
                if matches!(self.place, Place::Enqueued { .. } | Place::Nowhere) =>
            {
                Then::Ask(from)
            }
            News::Ended(_) if update.needs_ack => self.ended(from),
            // A copy has died of which nobody knew; the task itself is in good hands.
            News::Ended(_) if matches!(self.place, Place::Held(holder) if holder != from) => {
                self.forget(from);
                Then::Nothing
            }
            News::Ended(_) => Then::Buried,
            // Of another than the holder; and the last two only the router says.
            News::Begun | News::Alive | News::Shown(_) | News::Refused | News::Unheard | News::Lost => Then::Nothing,
        }
    }

    fn handed_over(&mut self, from: ReplicaId) -> Then {
        match self.place {
            Place::Held(holder) if holder == from => self.rival.take().map_or(Then::Tell, Then::Withdraw),
            Place::Held(holder) => match self.rival {
                None => {
                    self.rival = Some(from);
                    Then::Ask(holder)
                }
                Some(rival) if rival == from => Then::Nothing,
                Some(_) => Then::Withdraw(from),
            },
            Place::Over(_) => Then::Withdraw(from),
            Place::Given(replica) if replica != from => {
                self.remember(replica);
                self.held_by(from)
            }
            Place::Given(_) | Place::Enqueued { .. } | Place::Sought(_) | Place::Nowhere => self.held_by(from),
        }
    }

    fn held_by(&mut self, replica: ReplicaId) -> Then {
        self.forget(replica);
        self.place = Place::Held(replica);
        Then::Tell
    }

    /// The holder does not hold it any more. Where another does, that one is asked again, for its worker to hear of it.
    pub(super) fn give_way(&mut self, holder: ReplicaId) -> Option<Then> {
        let rival = self.rival.take()?;
        self.remember(holder);
        self.held_by(rival);
        Some(Then::Ask(rival))
    }

    /// It waits in the replica's own queue.
    fn in_line(&mut self, from: ReplicaId, then: Then) -> Then {
        match self.place {
            Place::Held(holder) if holder == from => self.give_way(from).unwrap_or_else(|| {
                self.place = Place::Given(from);
                then
            }),
            Place::Given(replica) if replica == from => then,
            Place::Sought(_) | Place::Nowhere | Place::Enqueued { .. } => {
                self.forget(from);
                self.place = Place::Given(from);
                then
            }
            Place::Held(_) | Place::Given(_) | Place::Over(_) => self.has_too(from),
        }
    }

    fn enqueued(&mut self, from: ReplicaId, now: Instant) -> Then {
        self.is_in_broker = true;
        match self.place {
            Place::Held(holder) if holder == from => self.give_way(from).unwrap_or_else(|| self.with_broker(from, now)),
            Place::Given(replica) if replica == from => self.with_broker(from, now),
            Place::Sought(_) | Place::Nowhere | Place::Enqueued { .. } => self.with_broker(from, now),
            Place::Held(_) | Place::Given(_) | Place::Over(_) => self.has_too(from),
        }
    }

    fn with_broker(&mut self, by: ReplicaId, now: Instant) -> Then {
        let was_held = self.is_held();
        self.remember(by);
        self.place = Place::Enqueued { since: now };
        Then::Waits { by: None, was_held }
    }

    /// A replica other than the one where it is has it too, though no session of it.
    fn has_too(&mut self, replica: ReplicaId) -> Then {
        self.rival = self.rival.filter(|rival| *rival != replica);
        self.remember(replica);
        Then::Nothing
    }

    fn unknown(&mut self, from: ReplicaId) -> Then {
        self.rival = self.rival.filter(|rival| *rival != from);
        let was_there = self.elsewhere.contains(&from);
        let then = match &mut self.place {
            Place::Sought(search) => {
                search.unanswered.retain(|replica| *replica != from);
                Then::Answered
            }
            Place::Held(holder) if *holder == from => self.give_way(from).unwrap_or(Then::Seek),
            // It is not in its queue any more: somebody has taken it from there, or it is lost.
            Place::Enqueued { .. } if was_there => Then::Seek,
            // An answer to what was asked before it got the task.
            Place::Held(_) | Place::Given(_) | Place::Over(_) | Place::Enqueued { .. } | Place::Nowhere => {
                Then::Nothing
            }
        };
        self.forget(from);
        then
    }

    /// Its result has come. Of two results the first one's replica is where it is; each is acknowledged.
    fn ended(&mut self, from: ReplicaId) -> Then {
        if let Some(rival) = self.rival.take() {
            self.remember(rival);
        }
        match self.place {
            Place::Over(_) => return Then::Tell,
            Place::Held(replica) | Place::Given(replica) => self.remember(replica),
            Place::Enqueued { .. } | Place::Sought(_) | Place::Nowhere => {}
        }
        self.forget(from);
        self.place = Place::Over(from);
        Then::Tell
    }
}
