//! The table of locks of a history: it does what the SQL does.

use std::collections::{BTreeMap, BTreeSet};

use domain::ExecutionId;
use workflow::Holder;

use crate::store::{Deed, Granted, LockKey, LockOrder, LockRow, Summary};

#[derive(Debug, Default)]
pub(super) struct Locks {
    rows: BTreeMap<i64, Row>,
    last: i64,
}

#[derive(Debug)]
struct Row {
    execution: ExecutionId,
    holder: Holder,
    key: LockKey,
    shard: u32,
    most: u32,
    is_granted: bool,
}

impl Locks {
    fn find(&self, order: &LockOrder) -> Option<i64> {
        let is_it = |row: &Row| (row.execution, row.holder, row.key) == (order.execution, order.holder, order.key);
        self.rows.iter().find(|(_, row)| is_it(row)).map(|(ticket, _)| *ticket)
    }

    pub(super) fn change(&mut self, orders: &[LockOrder]) -> Granted {
        for order in orders {
            match (&order.deed, self.find(order)) {
                (Deed::Acquire { most, .. }, None) => {
                    self.last += 1;
                    let LockOrder { execution, holder, key, held, .. } = *order;
                    let row = Row { execution, holder, key, shard: held.shard, most: *most, is_granted: false };
                    self.rows.insert(self.last, row);
                }
                (Deed::Release, Some(ticket)) => drop(self.rows.remove(&ticket)),
                (Deed::Acquire { .. }, Some(_)) | (Deed::Release, None) => {}
            }
        }
        let keys: BTreeSet<_> = orders.iter().map(|order| order.key).collect();
        let woken = keys.into_iter().flat_map(|key| self.grant(key)).collect();
        let has = |order: &&LockOrder| {
            order.is_acquire() && self.find(order).is_some_and(|ticket| self.rows[&ticket].is_granted)
        };
        let asked = orders.iter().filter(has).map(|order| (order.execution, order.holder, order.key)).collect();
        Granted::new(asked, woken)
    }

    fn grant(&mut self, key: LockKey) -> Vec<(ExecutionId, Holder, LockKey)> {
        let holders = self.rows.values().filter(|row| row.key == key && row.is_granted).count();
        let mut woken = Vec::new();
        for row in self.rows.values_mut().filter(|row| row.key == key && !row.is_granted) {
            if holders + woken.len() >= row.most as usize {
                break;
            }
            row.is_granted = true;
            woken.push((row.execution, row.holder, key));
        }
        woken
    }

    pub(super) fn rows(
        &self,
        summaries: &BTreeMap<ExecutionId, Summary>,
        shards: &[u32],
        after: i64,
        limit: i64,
    ) -> Vec<LockRow> {
        let rows = self.rows.range(after + 1..).filter(|(_, row)| shards.contains(&row.shard)).take(limit as usize);
        let row = |(ticket, row): (&i64, &Row)| LockRow {
            ticket: *ticket,
            execution: row.execution,
            holder: row.holder,
            key: row.key,
            is_granted: row.is_granted,
            has_ended: summaries.get(&row.execution).is_some_and(|summary| summary.ended_at.is_some()),
        };
        rows.map(row).collect()
    }

    /// Whether nobody has a lock or waits for one.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
