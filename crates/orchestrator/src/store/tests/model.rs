//! Random schedules of two replicas on one database, against what a map would do.

use std::{collections::BTreeMap, sync::Arc};

use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::store::{EventRow, SHORT, Store};

const SEEDS: std::ops::Range<u64> = 0..12;
const ACTS: u32 = 120;
const OWNERS: [&str; 2] = ["one", "two"];
const SHARDS: u32 = 2;
const EXECUTIONS: u128 = 5;

/// What the log and the summary of an execution are to be.
struct Log {
    summary: Summary,
    events: BTreeMap<u64, EventRow>,
    pruned: Option<Pruned>,
}

struct Model {
    random: ChaCha8Rng,
    place: Database,
    stores: Vec<Arc<dyn Store>>,
    /// Who has each shard, and under which epoch.
    held: BTreeMap<u32, (usize, Held)>,
    logs: Vec<Log>,
}

pub(super) async fn two_replicas_do_what_a_map_does(place: Database) {
    let first = open(&place).await.unwrap();
    first.make_shards(SHARDS).await.unwrap();
    let mut stores = vec![first, open(&place).await.unwrap()];
    for seed in SEEDS {
        let mut model = Model::new(seed, place.clone(), stores);
        // Where it fails, this says how to see it again.
        println!("seed {seed}");
        for _ in 0..ACTS {
            model.act().await;
        }
        stores = model.stores;
    }
    for store in stores {
        store.close().await;
    }
}

impl Model {
    fn new(seed: u64, place: Database, stores: Vec<Arc<dyn Store>>) -> Self {
        let log = |number: u128| {
            let id = ExecutionId::from_parts(seed + 1, number);
            let shard = u32::try_from(number).unwrap() % SHARDS;
            let summary = Summary { id, shard, last_sequence: 0, ..summary(number) };
            Log { summary, events: BTreeMap::new(), pruned: None }
        };
        let (random, logs) = (ChaCha8Rng::seed_from_u64(seed), (0..EXECUTIONS).map(log).collect());
        Self { random, place, stores, held: BTreeMap::new(), logs }
    }

    async fn act(&mut self) {
        match self.random.random_range(0..21) {
            0..9 => self.append().await,
            9..11 => self.append_again().await,
            11 => self.append_without_the_shard().await,
            12 => self.prune().await,
            13..16 => self.read().await,
            16 => self.live().await,
            17 => self.stores[self.random.random_range(0..2)].settle().await.unwrap(),
            18 => self.claim().await,
            19 => self.logs().await,
            _ => self.die().await,
        }
    }

    /// Some events for each of some executions that one replica writes.
    async fn append(&mut self) {
        let replica = self.random.random_range(0..2);
        let held: Vec<_> = self.held.values().filter(|(who, _)| *who == replica).map(|(_, held)| *held).collect();
        let (mut events, mut summaries) = (Vec::new(), Vec::new());
        for log in &mut self.logs {
            if held.iter().all(|held| held.shard != log.summary.shard) || self.random.random_bool(0.5) {
                continue;
            }
            for _ in 0..self.random.random_range(1..5) {
                log.summary.last_sequence += 1;
                let next = written(&mut self.random, &log.summary);
                let row = EventRow {
                    sequence: next.sequence,
                    at: next.at,
                    data: next.data.clone(),
                    hash: next.hash.to_vec(),
                };
                log.events.insert(next.sequence, row);
                events.push(next);
            }
            summaries.push(log.summary.clone());
        }
        if !events.is_empty() {
            self.stores[replica].append(OWNERS[replica], &append(events, summaries, &held)).await.unwrap();
        }
    }

    /// Something that is written already, by who may write.
    async fn append_again(&mut self) {
        let Some((replica, held, log)) = self.any() else { return };
        let (store, last) = (Arc::clone(&self.stores[replica]), self.logs[log].summary.clone());
        if last.last_sequence > 0 {
            let sequence = self.random.random_range(1..=last.last_sequence);
            let again = append(vec![event(&last, sequence)], vec![last], &[held]);
            let again = store.append(OWNERS[replica], &again).await;
            assert!(matches!(again, Err(AppendError::Diverged)), "{again:?}");
        }
    }

    /// The next event, by who has lost the shard.
    async fn append_without_the_shard(&mut self) {
        let Some((replica, held, log)) = self.any() else { return };
        let last = self.logs[log].summary.clone();
        let next =
            append(vec![event(&last, last.last_sequence + 1)], vec![last], &[Held { epoch: held.epoch - 1, ..held }]);
        let fenced = self.stores[1 - replica].append(OWNERS[1 - replica], &next).await;
        assert!(matches!(fenced, Err(AppendError::Fenced)), "{fenced:?}");
    }

    async fn prune(&mut self) {
        let Some((replica, _, log)) = self.any() else { return };
        let (store, log) = (Arc::clone(&self.stores[replica]), &mut self.logs[log]);
        let run = self.random.random_range(1..=log.summary.last_sequence + 1);
        let before = NOW + Duration::from_secs(self.random.random_range(0..100));
        let removed = store.prune(log.summary.id, run, before, self.random.random_range(1..5)).await.unwrap();
        let pruned = store.pruned(log.summary.id).await.unwrap();
        assert_eq!(removed > 0, pruned != log.pruned, "what is removed is noted");
        if removed == 0 {
            return;
        }
        let last = pruned.as_ref().unwrap();
        assert_eq!(log.events[&last.to].hash, last.hash);
        assert!(log.pruned.as_ref().is_none_or(|before| before.to < last.to) && last.to + 1 < run, "{last:?} of {run}");
        let left = store.events(log.summary.id, 0, 1_000_000).await.unwrap().rows;
        let first_row = left.iter().take_while(|row| row.sequence <= last.to).last().unwrap().sequence;
        log.events.retain(|sequence, _| *sequence <= first_row || *sequence > last.to);
        assert!(left.iter().eq(log.events.values()), "nothing else is missing");
        log.pruned = pruned;
    }

    async fn read(&mut self) {
        let Some((replica, _, log)) = self.any() else { return };
        let (store, log) = (&self.stores[replica], &self.logs[log]);
        let (after, limit) = (self.random.random_range(0..=log.summary.last_sequence), self.random.random_range(1..30));
        let page = store.events(log.summary.id, after, limit).await.unwrap();
        let expected: Vec<_> = log.events.range(after + 1..).map(|(_, row)| row.clone()).collect();
        assert_eq!(page.rows, expected[..expected.len().min(limit)], "{limit} after {after}");
        assert_eq!(page.is_last, expected.len() <= limit);
        let summary = (log.summary.last_sequence > 0).then(|| log.summary.clone());
        assert_eq!(store.summary(log.summary.id).await.unwrap(), summary);
    }

    /// The short logs of one replica, all at once.
    async fn logs(&mut self) {
        let replica = self.random.random_range(0..2);
        let is_held = |log: &&Log| self.held.get(&log.summary.shard).is_some_and(|(who, _)| *who == replica);
        let held: Vec<_> = self.logs.iter().filter(is_held).collect();
        let ids: Vec<_> = held.iter().map(|log| log.summary.id).chain([summary(999).id]).collect();
        let mut logs = self.stores[replica].logs(&ids).await.unwrap();
        logs.sort_by_key(|(id, _)| *id);
        let is_short = |log: &&&Log| (1..=SHORT.unsigned_abs()).contains(&log.summary.last_sequence);
        let expected = held.iter().filter(is_short).map(|log| (log.summary.id, log.events.values().cloned().collect()));
        assert_eq!(logs, expected.collect::<Vec<_>>());
    }

    async fn live(&mut self) {
        for (shard, (replica, _)) in &self.held {
            let mut live = self.stores[*replica].live(&[*shard]).await.unwrap();
            live.retain(|id| self.logs.iter().any(|log| log.summary.id == *id));
            let begun = self.logs.iter().filter(|log| log.summary.shard == *shard && log.summary.last_sequence > 0);
            assert_eq!(live, begun.map(|log| log.summary.id).collect::<Vec<_>>());
        }
    }

    /// A replica takes shards from the other.
    async fn claim(&mut self) {
        let (replica, most) = (self.random.random_range(0..2), self.random.random_range(1..=2));
        let claimed = self.stores[replica].claim(OWNERS[replica], most, LEASE, true).await.unwrap();
        self.held.extend(claimed.into_iter().map(|held| (held.shard, (replica, held))));
    }

    /// A replica dies, and another process goes on under its name.
    async fn die(&mut self) {
        let replica = self.random.random_range(0..2);
        self.stores[replica] = open(&self.place).await.unwrap();
    }

    /// Any execution whose shard somebody has, and who.
    fn any(&mut self) -> Option<(usize, Held, usize)> {
        let held: Vec<_> = self.held.values().copied().collect();
        let (replica, held) = *held.choose(&mut self.random)?;
        let logs = self.logs.iter().enumerate().filter(|(_, log)| log.summary.shard == held.shard);
        let logs: Vec<_> = logs.map(|(place, _)| place).collect();
        Some((replica, held, *logs.choose(&mut self.random)?))
    }
}

/// The last event of an execution: now and then one that fills a row alone.
fn written(random: &mut ChaCha8Rng, summary: &Summary) -> NewEvent {
    let size = if random.random_bool(0.1) { random.random_range(20_000..80_000) } else { random.random_range(0..200) };
    let at = NOW + Duration::from_secs(random.random_range(0..100));
    let (execution, sequence) = (summary.id, summary.last_sequence);
    NewEvent { execution, sequence, at, data: vec![b'x'; size], hash: random.random() }
}
