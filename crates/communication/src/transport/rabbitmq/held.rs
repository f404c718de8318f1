//! Which of the broker's deliveries stand behind the messages that are here, so that each is acknowledged when its end is
//! recorded, and not before.
//!
//! A message has one instance here however often the broker delivers it: after a lost connection it comes again while a
//! session still holds it, and a publisher that did not hear of its success publishes it twice. An instance that has ended
//! stays until that is recorded; what the broker delivers of it meanwhile is the same message, unless it has been revived
//! since: every copy says of which life it is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use domain::Timestamp;

use crate::{
    app::{Envelope, Mailbox},
    transport::Delivery,
};

/// What the broker is told about a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Forget it.
    Ack,
    /// Give it to somebody else.
    Requeue,
    /// Put it into the dead-letter queue.
    DeadLetter,
}

/// Messages that were given back of which it is known how often they were handed over here: far more than the record can be
/// behind.
const MOST_HANDED: usize = 10_000;

/// The instances, and what the broker is to be told.
#[derive(Debug, Default)]
pub(super) struct Held {
    instances: HashMap<Key, Instance>,
    /// The newest instance of a message.
    by_sequence: HashMap<i64, Key>,
    /// How often what was given back had been handed over: where it comes again at once, the record may not say so yet, and
    /// an end with fewer hand-overs than the record has by then would not be recorded.
    handed: BTreeMap<i64, (Life, u32)>,
    /// Of the present connection only.
    verdicts: Vec<(u64, Verdict)>,
}

/// Which of its lives a message is in: that after the revival of this time, or its first.
pub(super) type Life = Option<Timestamp>;

/// An instance's place in memory; it is kept alive, so no other has it.
type Key = usize;

#[derive(Debug)]
struct Instance {
    envelope: Arc<Envelope>,
    /// The broker's numbers of its deliveries over the present connection.
    tags: Vec<u64>,
    life: Life,
    has_ended: bool,
}

fn key(envelope: &Arc<Envelope>) -> Key {
    Arc::as_ptr(envelope).addr()
}

impl Held {
    /// A connection is lost: the broker delivers everything again, here or elsewhere. Answers with the mailboxes of which
    /// something is here.
    pub(super) fn disconnect(&mut self) -> HashSet<Mailbox> {
        self.verdicts.clear();
        self.instances.values_mut().for_each(|instance| instance.tags.clear());
        self.instances.values().map(|instance| instance.envelope.message.mailbox()).collect()
    }

    /// The broker has delivered a message: true where it is here already.
    pub(super) fn attach(&mut self, sequence: i64, tag: u64, life: Life) -> bool {
        let found = self.by_sequence.get(&sequence).and_then(|key| self.instances.get_mut(key));
        match found {
            Some(instance) if !(instance.has_ended && life > instance.life) => {
                instance.tags.push(tag);
                true
            }
            Some(_) | None => false,
        }
    }

    /// A message is here from now on.
    pub(super) fn admit(&mut self, envelope: &Arc<Envelope>, tag: u64, life: Life) {
        let key = key(envelope);
        self.by_sequence.insert(envelope.sequence, key);
        let instance = Instance { envelope: Arc::clone(envelope), tags: vec![tag], life, has_ended: false };
        self.instances.insert(key, instance);
    }

    /// Nobody will take it any more.
    pub(super) fn end(&mut self, envelope: &Arc<Envelope>) {
        if let Some(instance) = self.instances.get_mut(&key(envelope)) {
            instance.has_ended = true;
        }
    }

    /// It is not here any more: the broker is told so of each of its deliveries. False where it never was.
    pub(super) fn release(&mut self, envelope: &Arc<Envelope>, verdict: Verdict) -> bool {
        let key = key(envelope);
        let Some(instance) = self.instances.remove(&key) else { return false };
        if self.by_sequence.get(&envelope.sequence) == Some(&key) {
            self.by_sequence.remove(&envelope.sequence);
        }
        let mut tags = instance.tags.into_iter();
        // Of several deliveries of one message one is enough to be given back.
        self.verdicts.extend(tags.next().map(|tag| (tag, verdict)));
        self.verdicts.extend(tags.map(|tag| (tag, Verdict::Ack)));
        true
    }

    /// The broker is to be told this of a delivery.
    pub(super) fn say(&mut self, tag: u64, verdict: Verdict) {
        self.verdicts.push((tag, verdict));
    }

    /// They go back to the broker, in order.
    pub(super) fn give_back(&mut self, mut deliveries: Vec<Delivery>) {
        deliveries.sort_by_key(|delivery| delivery.envelope.sequence);
        for delivery in &deliveries {
            let life = self.instances.get(&key(&delivery.envelope)).and_then(|instance| instance.life);
            self.release(&delivery.envelope, Verdict::Requeue);
            if delivery.count > 0 {
                self.handed.insert(delivery.envelope.sequence, (life, delivery.count));
            }
        }
        while self.handed.len() > MOST_HANDED {
            self.handed.pop_first();
        }
    }

    /// How often a message was handed over when it was last given back here, where that is known. With a new life the count
    /// begins again.
    pub(super) fn take_handed(&mut self, sequence: i64, life: Life) -> u32 {
        self.handed.remove(&sequence).filter(|(of, _)| *of == life).map_or(0, |(_, count)| count)
    }

    /// What the broker is to be told, in order.
    pub(super) fn take_verdicts(&mut self) -> Vec<(u64, Verdict)> {
        std::mem::take(&mut self.verdicts)
    }

    /// Does a delivery of the present connection stand behind it? Then the broker has it for nobody else.
    pub(super) fn is_delivered(&self, envelope: &Arc<Envelope>) -> bool {
        self.instances.get(&key(envelope)).is_some_and(|instance| !instance.tags.is_empty())
    }

    /// How many of these the broker has delivered after a delivery, over the present connection.
    pub(super) fn delivered_after(&self, sequences: &[i64], tag: u64) -> usize {
        let instances = sequences.iter().filter_map(|sequence| self.instances.get(self.by_sequence.get(sequence)?));
        instances.filter(|instance| instance.tags.iter().any(|of| *of > tag)).count()
    }

    /// Is a message here?
    pub(super) fn knows(&self, sequence: i64) -> bool {
        self.by_sequence.contains_key(&sequence)
    }

    /// Is anything of a mailbox here?
    pub(super) fn has(&self, mailbox: &Mailbox) -> bool {
        self.instances.values().any(|instance| instance.envelope.message.mailbox() == *mailbox)
    }
}
