//! The replicas of communication: which of them are reached, whom they serve, and how much of ours they have.

use crate::hash::HashMap;
use workflow::Target;

/// A replica of communication, as long as it is one; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ReplicaId(pub(crate) u32);

/// How much one kind of task finds on a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) namespace: String,
    pub(crate) target: Target,
    /// Deliveries that its sessions can hold together; zero: there is none any more.
    pub(crate) capacity: u32,
}

/// Tasks of one target in one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(u32);

/// How its stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// The first attempt to open one, at the start or after a loss, has not ended: it may know more than we do.
    Connecting,
    /// `has_said`: it has said whom it serves. Before, it may serve anybody.
    Open { has_said: bool },
    /// It cannot be reached.
    Down,
}

#[derive(Debug)]
struct Communication {
    id: ReplicaId,
    stream: Stream,
}

#[derive(Debug, Default)]
struct Known {
    loads: Vec<Load>,
    /// Tasks of this kind that are remembered.
    tasks: u32,
    /// Is there anybody for them, as far as it is known?
    is_served: bool,
    /// That has just ended.
    is_newly_unserved: bool,
}

#[derive(Clone, Copy, Debug)]
struct Load {
    replica: ReplicaId,
    capacity: u32,
    /// Tasks of ours that it has.
    tasks: u32,
}

/// Where a task goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) replica: ReplicaId,
    pub(super) is_served: bool,
}

#[derive(Debug, Default)]
pub(super) struct Replicas {
    replicas: Vec<Communication>,
    /// By namespace and target: a look-up copies neither.
    names: HashMap<String, HashMap<Target, Kind>>,
    kinds: Vec<Known>,
    free: Vec<Kind>,
    /// Equals take turns.
    turn: usize,
    /// Is there a kind that has just lost its last server?
    has_newly_unserved: bool,
}

impl Known {
    fn load(&self, replica: ReplicaId) -> Option<&Load> {
        self.loads.iter().find(|load| load.replica == replica)
    }

    fn load_mut(&mut self, replica: ReplicaId) -> &mut Load {
        let place = self.loads.iter().position(|load| load.replica == replica).unwrap_or_else(|| {
            self.loads.push(Load { replica, capacity: 0, tasks: 0 });
            self.loads.len() - 1
        });
        &mut self.loads[place]
    }

    fn is_served_by(&self, replica: &Communication) -> bool {
        match replica.stream {
            Stream::Open { has_said: false } => true,
            Stream::Open { has_said: true } => self.load(replica.id).is_some_and(|load| load.capacity > 0),
            Stream::Connecting | Stream::Down => false,
        }
    }
}

impl Replicas {
    pub(super) fn join(&mut self, id: ReplicaId) {
        self.replicas.push(Communication { id, stream: Stream::Connecting });
    }

    pub(super) fn leave(&mut self, id: ReplicaId) {
        self.replicas.retain(|replica| replica.id != id);
        self.forget_loads(id);
        self.refresh();
    }

    pub(super) fn open(&mut self, id: ReplicaId) {
        self.set(id, Stream::Open { has_said: false });
    }

    /// Its stream has ended, or could not be opened.
    pub(super) fn end(&mut self, id: ReplicaId) {
        let next = if self.is_open(id) { Stream::Connecting } else { Stream::Down };
        self.forget_loads(id);
        self.set(id, next);
    }

    fn set(&mut self, id: ReplicaId, stream: Stream) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.id == id) {
            replica.stream = stream;
        }
        self.refresh();
    }

    fn forget_loads(&mut self, id: ReplicaId) {
        for kind in &mut self.kinds {
            kind.loads.retain(|load| load.replica != id);
        }
    }

    /// A replica says whom it serves; the first time that is everybody whom it does.
    pub(super) fn hear(&mut self, id: ReplicaId, serving: Vec<Serving>) {
        let mut changed = Vec::with_capacity(serving.len());
        for Serving { namespace, target, capacity } in serving {
            let kind = self.kind(&namespace, &target);
            self.kinds[kind.0 as usize].load_mut(id).capacity = capacity;
            changed.push(kind);
        }
        let replica = self.replicas.iter_mut().find(|replica| replica.id == id);
        let Some(Communication { stream: Stream::Open { has_said }, .. }) = replica else { return };
        if *has_said {
            for kind in changed {
                self.refresh_kind(kind);
            }
        } else {
            *has_said = true;
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        (0..self.kinds.len()).for_each(|kind| self.refresh_kind(Kind(kind as u32)));
    }

    fn refresh_kind(&mut self, Kind(kind): Kind) {
        let known = &self.kinds[kind as usize];
        let is_served = self.replicas.iter().any(|replica| known.is_served_by(replica));
        let known = &mut self.kinds[kind as usize];
        known.is_newly_unserved = !is_served && (known.is_newly_unserved || (known.is_served && known.tasks > 0));
        known.is_served = is_served;
        self.has_newly_unserved |= known.is_newly_unserved;
    }

    /// May there be tasks whose kind has lost its last server since this was told last?
    pub(super) const fn has_newly_unserved(&self) -> bool {
        self.has_newly_unserved
    }

    pub(super) fn is_newly_unserved(&self, Kind(kind): Kind) -> bool {
        self.kinds[kind as usize].is_newly_unserved
    }

    pub(super) fn told_unserved(&mut self) {
        self.has_newly_unserved = false;
        self.kinds.iter_mut().for_each(|kind| kind.is_newly_unserved = false);
    }

    pub(super) fn is_served(&self, Kind(kind): Kind) -> bool {
        self.kinds[kind as usize].is_served
    }

    /// Does another than this one serve them?
    pub(super) fn is_served_beside(&self, Kind(kind): Kind, one: ReplicaId) -> bool {
        let known = &self.kinds[kind as usize];
        self.replicas.iter().any(|replica| replica.id != one && known.is_served_by(replica))
    }

    pub(super) fn is_open(&self, id: ReplicaId) -> bool {
        self.all_open().any(|open| open == id)
    }

    pub(super) fn all_open(&self) -> impl Iterator<Item = ReplicaId> {
        let open = self.replicas.iter().filter(|replica| matches!(replica.stream, Stream::Open { .. }));
        open.map(|replica| replica.id)
    }

    pub(super) fn all_connecting(&self) -> impl Iterator<Item = ReplicaId> {
        let connecting = self.replicas.iter().filter(|replica| replica.stream == Stream::Connecting);
        connecting.map(|replica| replica.id)
    }

    /// The kind of such tasks.
    pub(super) fn kind(&mut self, namespace: &str, target: &Target) -> Kind {
        if let Some(kind) = self.names.get(namespace).and_then(|targets| targets.get(target)) {
            return *kind;
        }
        let kind = self.free.pop().unwrap_or_else(|| {
            self.kinds.push(Known::default());
            Kind(self.kinds.len() as u32 - 1)
        });
        self.names.entry(namespace.to_owned()).or_default().insert(target.clone(), kind);
        self.kinds[kind.0 as usize] = Known::default();
        self.refresh_kind(kind);
        kind
    }

    /// A task of this kind is remembered.
    pub(super) fn remembered(&mut self, Kind(kind): Kind) {
        self.kinds[kind as usize].tasks += 1;
    }

    /// It is not any more.
    pub(super) fn forgotten(&mut self, Kind(kind): Kind) {
        self.kinds[kind as usize].tasks -= 1;
    }

    /// A task has changed its place.
    pub(super) fn moved(&mut self, Kind(kind): Kind, from: Option<ReplicaId>, to: Option<ReplicaId>) {
        if from == to {
            return;
        }
        let known = &mut self.kinds[kind as usize];
        if let Some(from) = from {
            let load = known.load_mut(from);
            // What was at a stream that has ended is not counted there any more.
            load.tasks = load.tasks.saturating_sub(1);
        }
        if let Some(to) = to {
            known.load_mut(to).tasks += 1;
        }
    }

    /// Among those that serve such tasks the one that has the least for its capacity; else one of which it is not known, else
    /// any that is reached, with the fewest.
    pub(super) fn choose(&mut self, Kind(kind): Kind) -> Option<Choice> {
        self.turn = self.turn.wrapping_add(1);
        let known = &self.kinds[kind as usize];
        let count = self.replicas.len();
        let in_turn = (0..count).map(|place| &self.replicas[(self.turn % count + place) % count]);
        let ranked = in_turn.filter_map(|replica| {
            let load = known.load(replica.id).copied();
            let (capacity, tasks) = load.map_or((0, 0), |load| (load.capacity, load.tasks));
            let rank = match replica.stream {
                Stream::Open { .. } if capacity > 0 => (0_u8, f64::from(tasks + 1) / f64::from(capacity)),
                Stream::Open { has_said: false } => (1, f64::from(tasks)),
                Stream::Open { has_said: true } => (2, f64::from(tasks)),
                Stream::Connecting | Stream::Down => return None,
            };
            Some((rank, replica.id))
        });
        let best = ranked.min_by(|(left, _), (right, _)| left.0.cmp(&right.0).then(left.1.total_cmp(&right.1)));
        best.map(|((class, _), replica)| Choice { replica, is_served: class < 2 })
    }

    /// Forgets the kinds of which there is nothing any more.
    pub(super) fn tidy(&mut self) {
        let Self { names, kinds, free, .. } = self;
        for targets in names.values_mut() {
            targets.retain(|_, kind| {
                let known = &kinds[kind.0 as usize];
                let is_kept = known.tasks > 0 || known.loads.iter().any(|load| load.capacity > 0);
                if !is_kept {
                    free.push(*kind);
                }
                is_kept
            });
        }
        names.retain(|_, targets| !targets.is_empty());
    }
}
