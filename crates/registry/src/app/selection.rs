//! Which of the live agents are chosen.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use domain::{AgentId, Namespace};
use rand::{Rng, seq::SliceRandom as _};

use super::directory::{Liveness, Snapshot, Target};

/// How agents are chosen among those that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The less loaded of two random choices: nearly as even as the least loaded of all, without a crowd on one
    /// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
    LeastLoaded,
    /// In turn.
    RoundRobin,
    /// At random, in proportion to their weights.
    Weighted,
    /// The same for the same key while the set of live agents stays (rendezvous hashing).
    Sticky(String),
}

/// Whose turn was last, per target.
#[derive(Debug, Default)]
pub(crate) struct Turns(HashMap<(Namespace, Target), AgentId>);

/// Chooses `count` distinct agents; degraded ones only where no others are left.
pub(crate) fn choose(
    candidates: Vec<Snapshot>,
    count: usize,
    strategy: &Strategy,
    turn: (&mut Turns, (Namespace, Target)),
    random: &mut impl Rng,
) -> Vec<Snapshot> {
    let (mut late, mut prompt): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .filter(|candidate| candidate.liveness != Liveness::Offline)
        .partition(|candidate| candidate.liveness == Liveness::Degraded);
    let (turns, key) = turn;
    match strategy {
        Strategy::LeastLoaded => {
            order_by_load(&mut prompt, count, random);
            late.shuffle(random);
        }
        Strategy::RoundRobin => {
            let last = turns.0.get(&key).copied();
            let next = prompt.iter().position(|candidate| last.is_none_or(|last| candidate.agent.id > last));
            prompt.rotate_left(next.unwrap_or(0));
            if let Some(last) = prompt.iter().take(count).next_back() {
                turns.0.insert(key, last.agent.id);
            }
        }
        Strategy::Weighted => {
            prompt = by_weight(prompt, count, random);
            late = by_weight(late, count, random);
        }
        Strategy::Sticky(key) => {
            prompt.sort_by_key(|candidate| std::cmp::Reverse(affinity(key, candidate.agent.id)));
            late.sort_by_key(|candidate| std::cmp::Reverse(affinity(key, candidate.agent.id)));
        }
    }
    prompt.into_iter().chain(late).take(count).collect()
}

fn order_by_load(candidates: &mut [Snapshot], count: usize, random: &mut impl Rng) {
    for place in 0..count.min(candidates.len()) {
        let one = random.random_range(place..candidates.len());
        let other = random.random_range(place..candidates.len());
        let chosen = if load(&candidates[one]) <= load(&candidates[other]) { one } else { other };
        candidates.swap(place, chosen);
    }
}

/// From 0, free, to 1, full.
fn load(candidate: &Snapshot) -> f64 {
    f64::from(candidate.in_flight) / f64::from(candidate.capacity.max(1))
}

/// A weighted sample without replacement: the largest `u^(1/w)` win (Efraimidis and Spirakis, 2006). Weight 0 comes last.
fn by_weight(candidates: Vec<Snapshot>, count: usize, random: &mut impl Rng) -> Vec<Snapshot> {
    let mut keyed: Vec<_> = candidates
        .into_iter()
        .map(|candidate| {
            (random.random::<f64>().powf(1.0 / candidate.agent.weight().max(f64::MIN_POSITIVE)), candidate)
        })
        .collect();
    keyed.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    keyed.truncate(count);
    keyed.into_iter().map(|(_, candidate)| candidate).collect()
}

fn affinity(key: &str, id: AgentId) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    id.hash(&mut hasher);
    hasher.finish()
}
