//! What is over with something else, and what it gives back.

use std::collections::BTreeSet;

use workflow::{FrameId, Purpose, TaskKey, Unit};

use super::Observer;

impl Observer {
    pub(super) fn leave_vote(&mut self, unit: Unit, voter: u32) {
        let vote = self.parents.iter().rfind(|(_, parent)| **parent == unit).map(|(frame, _)| *frame);
        if let Some(frame) = vote {
            self.out.retain(|task| task.unit != Unit { frame, step: unit.step, index: Some(voter) });
        }
    }

    pub(super) fn leave(&mut self, unit: Unit) {
        let is_other = |task: &TaskKey| task.purpose == Purpose::Undo || task.unit != unit;
        self.out.retain(is_other);
        self.errands.retain(is_other);
    }

    /// The unit is over, and everything that is part of it.
    pub(super) fn cut(&mut self, unit: Unit) {
        let parts: Vec<_> = self
            .out
            .iter()
            .chain(&self.errands)
            .filter(|task| task.purpose == Purpose::Work && self.is_part(task.unit, unit))
            .copied()
            .collect();
        for task in parts {
            self.out.remove(&task);
            self.errands.remove(&task);
        }
        let mut mutexes = std::mem::take(&mut self.mutexes);
        mutexes.retain(|holder, _| !self.is_part(*holder, unit));
        self.mutexes = mutexes;
    }

    /// What has a mutex in a scope that is lost, and has not begun with it, gives it back.
    pub(super) fn let_go(&mut self, frame: FrameId) {
        let mut mutexes = std::mem::take(&mut self.mutexes);
        mutexes.retain(|holder, _| holder.frame != frame);
        self.mutexes = mutexes;
    }

    /// A `for_each` is over; so is every part of an instance that has not completed. What others have left to themselves goes on.
    pub(super) fn cut_instances(&mut self, unit: Unit) {
        let instances = self.out.iter().chain(&self.errands).filter_map(|task| self.instance_around(task.unit, unit));
        let open: BTreeSet<_> = instances.filter(|instance| !self.completed.contains(instance)).collect();
        let holding = self.mutexes.keys().filter_map(|holder| self.instance_around(*holder, unit));
        let open: BTreeSet<_> = holding.filter(|instance| !self.completed.contains(instance)).chain(open).collect();
        for instance in open {
            self.cut(instance);
        }
    }
}
