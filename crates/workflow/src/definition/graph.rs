//! Dependencies: who waits for whom, that nobody waits for itself, and that expressions read only what is upstream.
//!
//! Steps wait for steps of their own scope, so the edges of all scopes are one graph.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    Faults, did_you_mean, escape,
    fields::kind,
    outline::{Entry, Outline},
};
use crate::{
    StepIndex,
    expression::{Found, Reader},
    plan::{Join, ScopeIndex, Step},
};

/// Fills in `depends_on`, `dependents` and `cancel_rest`, and checks everything about them. A step that is `None` is one with
/// faults; it keeps its place.
pub(super) fn connect(steps: &mut [Option<Step>], outline: &Outline<'_>, found: &mut Found) -> Vec<Vec<StepIndex>> {
    let mut edges = Edges { outline, of: vec![Vec::new(); steps.len()] };
    for (place, entry) in outline.entries.iter().enumerate() {
        let Some(list) = entry.value.get("depends_on").filter(|list| !list.is_null()) else { continue };
        edges.read(list, place as StepIndex, &format!("{}/depends_on", entry.pointer), &mut found.faults);
    }
    for (scope, entry) in outline.scopes.iter().enumerate() {
        if let Some(dependencies) = entry.value.get("dependencies").filter(|object| !object.is_null()) {
            let pointer = format!("{}/dependencies", entry.pointer);
            edges.read_object(dependencies, scope as ScopeIndex, &pointer, &mut found.faults);
        }
    }
    let mut edges = edges.of;
    for list in &mut edges {
        list.sort_unstable();
        list.dedup();
    }
    for (place, dependencies) in edges.iter().enumerate() {
        for dependency in dependencies {
            if let Some(step) = &mut steps[*dependency as usize] {
                step.dependents.push(place as StepIndex);
            }
        }
        let Some(step) = &mut steps[place] else { continue };
        if let Join::Count(count) = step.join
            && count as usize > dependencies.len()
        {
            let message = format!("waits for {count} of its dependencies, but has {}", dependencies.len());
            found.faults.push(&format!("{}/join/count", outline.entries[place].pointer), "out_of_range", message);
        }
        step.depends_on.clone_from(dependencies);
    }
    for (place, entry) in outline.entries.iter().enumerate() {
        if let Some(value) = entry.value.get("cancel_rest").filter(|value| !value.is_null()) {
            cancel_rest(steps, place, value, &format!("{}/cancel_rest", entry.pointer), &mut found.faults);
        }
    }
    edges
}

/// Finds what a race that is over leaves without use: every step that only this one, or what is withdrawn too, waits for.
fn cancel_rest(steps: &mut [Option<Step>], place: usize, value: &Value, pointer: &str, faults: &mut Faults) {
    let wanted = match value {
        Value::Bool(wanted) => *wanted,
        other => return faults.push(pointer, "wrong_type", format!("must be true or false, not {}", kind(other))),
    };
    let Some(step) = steps[place].as_ref().filter(|_| wanted) else { return };
    if step.join == Join::All {
        let message = "withdraws what a join of `any` or `{count: n}` does not wait for; this one waits for all";
        return faults.push(pointer, "not_applicable", message);
    }
    let mut rest = Vec::new();
    let mut looked_at = step.depends_on.clone();
    while let Some(candidate) = looked_at.pop() {
        let Some(step) = steps[candidate as usize].as_ref() else { continue };
        let is_wanted = |dependent: &StepIndex| *dependent as usize != place && !rest.contains(dependent);
        if rest.contains(&candidate) || step.dependents.iter().any(is_wanted) {
            continue;
        }
        rest.push(candidate);
        looked_at.extend(&step.depends_on);
    }
    rest.sort_unstable();
    if let Some(step) = &mut steps[place] {
        step.cancel_rest = rest;
    }
}

/// A step that does not exist.
pub(super) fn unknown(id: &str, by_id: &HashMap<String, StepIndex>) -> String {
    let shown: String = id.chars().take(128).collect();
    format!("there is no step `{shown}`{}", did_you_mean(id, by_id.keys().map(String::as_str)))
}

/// Who waits for whom.
struct Edges<'a> {
    outline: &'a Outline<'a>,
    of: Vec<Vec<StepIndex>>,
}

impl Edges<'_> {
    fn read_object(&mut self, dependencies: &Value, scope: ScopeIndex, pointer: &str, faults: &mut Faults) {
        let Value::Object(dependencies) = dependencies else {
            let message = format!("must be an object of lists of step ids, not {}", kind(dependencies));
            return faults.push(pointer, "wrong_type", message);
        };
        for (id, list) in dependencies {
            let pointer = format!("{pointer}/{}", escape(id));
            match self.outline.by_id.get(id) {
                Some(step) if self.outline.entries[*step as usize].scope == scope => {
                    self.read(list, *step, &pointer, faults);
                }
                Some(_) => faults.push(&pointer, "step_not_visible", elsewhere(id)),
                None => faults.push(&pointer, "unknown_step", unknown(id, &self.outline.by_id)),
            }
        }
    }

    fn read(&mut self, list: &Value, step: StepIndex, pointer: &str, faults: &mut Faults) {
        let Some(ids) = list.as_array() else {
            return faults.push(pointer, "wrong_type", format!("must be a list of step ids, not {}", kind(list)));
        };
        let scope = self.outline.entries[step as usize].scope;
        for (index, id) in ids.iter().enumerate() {
            let at = format!("{pointer}/{index}");
            let Some(id) = id.as_str() else {
                faults.push(&at, "wrong_type", format!("must be the id of a step, not {}", kind(id)));
                continue;
            };
            match self.outline.by_id.get(id) {
                Some(dependency) if *dependency == step => {
                    faults.push(&at, "self_dependency", format!("`{id}` cannot wait for itself"));
                }
                Some(dependency) if self.outline.entries[*dependency as usize].scope == scope => {
                    self.of[step as usize].push(*dependency);
                }
                Some(_) => faults.push(&at, "step_not_visible", elsewhere(id)),
                None => faults.push(&at, "unknown_step", unknown(id, &self.outline.by_id)),
            }
        }
    }
}

fn elsewhere(id: &str) -> String {
    format!("`{id}` is in another block; steps wait for steps of their own list")
}

/// The steps such that each comes after those it depends on; `None` where cycles forbid that, each reported with its members.
fn order(edges: &[Vec<StepIndex>], entries: &[Entry<'_>], faults: &mut Faults) -> Option<Vec<StepIndex>> {
    let mut dependents = vec![Vec::new(); edges.len()];
    let mut waits_for: Vec<usize> = edges.iter().map(Vec::len).collect();
    for (step, dependencies) in edges.iter().enumerate() {
        for dependency in dependencies {
            dependents[*dependency as usize].push(step);
        }
    }
    let mut removed = vec![false; edges.len()];
    let mut order = Vec::with_capacity(edges.len());
    let mut free: Vec<usize> = (0..edges.len()).filter(|step| waits_for[*step] == 0).collect();
    let mut cyclic = false;
    let mut search_from = 0;
    loop {
        while let Some(step) = free.pop() {
            if std::mem::replace(&mut removed[step], true) {
                continue;
            }
            order.push(step as StepIndex);
            for dependent in &dependents[step] {
                waits_for[*dependent] -= 1;
                if waits_for[*dependent] == 0 {
                    free.push(*dependent);
                }
            }
        }
        // Whatever is left waits for something that is left: walking along must come back.
        while removed.get(search_from) == Some(&true) {
            search_from += 1;
        }
        if search_from == edges.len() {
            return (!cyclic).then_some(order);
        }
        cyclic = true;
        let members = cycle(edges, &removed, search_from);
        report(&members, entries, faults);
        free.extend(members);
    }
}

/// A cycle among the steps that are not `removed`, found from `start`; it begins with its first step in the document.
fn cycle(edges: &[Vec<StepIndex>], removed: &[bool], start: usize) -> Vec<usize> {
    let mut place: HashMap<usize, usize> = HashMap::new();
    let mut walked = Vec::new();
    let mut step = start;
    loop {
        if let Some(first) = place.insert(step, walked.len()) {
            let mut members = walked.split_off(first);
            let smallest = members.iter().enumerate().min_by_key(|(_, member)| **member).map_or(0, |(index, _)| index);
            members.rotate_left(smallest);
            return members;
        }
        walked.push(step);
        match edges[step].iter().find(|dependency| !removed[**dependency as usize]) {
            Some(dependency) => step = *dependency as usize,
            // Not reached: a step without such a dependency would have been removed.
            None => return walked,
        }
    }
}

fn report(members: &[usize], entries: &[Entry<'_>], faults: &mut Faults) {
    const SHOWN: usize = 12;
    let mut names: Vec<_> = members.iter().take(SHOWN).map(|member| entries[*member].id()).collect();
    if members.len() > SHOWN {
        names.push("…");
    }
    let Some(first) = members.first() else { return };
    names.push(entries[*first].id());
    faults.push(
        &entries[*first].pointer,
        "cycle",
        format!("these steps wait for each other: {}; remove one dependency", names.join(" → ")),
    );
}

/// Every read of a step's output must be of a step upstream, or upstream of a block around the reader. Most reads are of direct
/// dependencies; the others are checked in blocks of 64 steps read, one pass over the graph each, so that memory stays one
/// word per step.
pub(super) fn check_reads(outline: &Outline<'_>, edges: &[Vec<StepIndex>], found: &mut Found) {
    let entries = &outline.entries;
    let order = order(edges, entries, &mut found.faults);
    let mut far: Vec<(StepIndex, StepIndex, usize)> = Vec::new();
    for (place, read) in found.reads.iter().enumerate() {
        match relation(read.reader, read.step, outline) {
            Relation::Ended => {}
            Relation::Beside(reader) => {
                // An undo comes after its own step, whatever else.
                let own = read.own && read.reader == Reader::Step(read.step);
                if !own && edges[reader as usize].binary_search(&read.step).is_err() {
                    far.push((read.step, reader, place));
                }
            }
            Relation::Hidden => {
                let id = entries[read.step as usize].id();
                let message =
                    format!("reads `{id}`, which is out of sight here: read the output of the block it is in");
                found.faults.push(&read.pointer, "step_not_visible", message);
            }
        }
    }
    if let Some(order) = order {
        far.sort_unstable();
        check_far(&far, edges, &order, entries, found);
    }
}

/// How what an expression reads stands to where it is.
enum Relation {
    /// It has ended by then.
    Ended,
    /// It is in the same list as this step, which is the reader or has the reader inside.
    Beside(StepIndex),
    /// It is inside another block.
    Hidden,
}

fn relation(reader: Reader, read: StepIndex, outline: &Outline<'_>) -> Relation {
    let scope = outline.entries[read as usize].scope;
    let mut step = match reader {
        Reader::Execution if scope == 0 => return Relation::Ended,
        Reader::Start | Reader::Execution => return Relation::Hidden,
        Reader::Output(block) if outline.entries[block as usize].block == Some(scope) => return Relation::Ended,
        Reader::Step(step) | Reader::Output(step) => step,
    };
    loop {
        let around = outline.entries[step as usize].scope;
        if around == scope {
            return Relation::Beside(step);
        }
        match outline.scopes[around as usize].parent {
            Some(parent) => step = parent,
            None => return Relation::Hidden,
        }
    }
}

fn check_far(
    far: &[(StepIndex, StepIndex, usize)],
    edges: &[Vec<StepIndex>],
    order: &[StepIndex],
    entries: &[Entry<'_>],
    found: &mut Found,
) {
    let mut rest = far;
    let mut upstream = vec![0_u64; edges.len()];
    while let Some(&(first, ..)) = rest.first() {
        let mut block = vec![first];
        let mut end = 0;
        while let Some(&(read, ..)) = rest.get(end) {
            if block.last() != Some(&read) {
                if block.len() == 64 {
                    break;
                }
                block.push(read);
            }
            end += 1;
        }
        let bits: HashMap<StepIndex, u64> = block.iter().enumerate().map(|(bit, read)| (*read, 1 << bit)).collect();
        for step in order {
            let of = |dependency: &StepIndex| {
                upstream[*dependency as usize] | bits.get(dependency).copied().unwrap_or_default()
            };
            upstream[*step as usize] = edges[*step as usize].iter().map(of).fold(0, |all, one| all | one);
        }
        for (read, reader, place) in &rest[..end] {
            if upstream[*reader as usize] & bits[read] == 0 {
                let (id, reader) = (entries[*read as usize].id(), entries[*reader as usize].id());
                let message = format!(
                    "reads `{id}`, which need not have ended by then: add `{id}` to the dependencies of `{reader}`"
                );
                found.faults.push(&found.reads[*place].pointer, "step_not_upstream", message);
            }
        }
        rest = &rest[end..];
    }
}
