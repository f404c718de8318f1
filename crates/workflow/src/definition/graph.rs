//! Dependencies: who waits for whom, that nobody waits for itself, and that expressions read only what is upstream.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    Faults, did_you_mean, escape,
    fields::{Fields, kind},
};
use crate::{
    StepIndex,
    expression::Found,
    plan::{Join, Step},
};

/// Fills in `depends_on` and `dependents`, and checks everything that takes the whole graph. A step that is `None` is one with
/// faults; it keeps its place.
pub(super) fn connect(
    steps: &mut [Option<Step>],
    top: &Fields<'_>,
    by_id: &HashMap<String, StepIndex>,
    found: &mut Found,
) {
    let mut edges: Vec<Vec<StepIndex>> = vec![Vec::new(); steps.len()];
    let entries = top.value("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, entry) in entries.iter().enumerate() {
        let Some(list) = entry.get("depends_on").filter(|list| !list.is_null()) else { continue };
        read_list(
            list,
            index as StepIndex,
            &format!("/steps/{index}/depends_on"),
            by_id,
            &mut edges,
            &mut found.faults,
        );
    }
    if let Some(Value::Object(dependencies)) = top.value("dependencies") {
        for (id, list) in dependencies {
            let pointer = format!("/dependencies/{}", escape(id));
            match by_id.get(id) {
                Some(step) => read_list(list, *step, &pointer, by_id, &mut edges, &mut found.faults),
                None => found.faults.push(&pointer, "unknown_step", unknown(id, by_id)),
            }
        }
    } else if let Some(other) = top.value("dependencies") {
        found.faults.push(
            "/dependencies",
            "wrong_type",
            format!("must be an object of lists of step ids, not {}", kind(other)),
        );
    }
    for list in &mut edges {
        list.sort_unstable();
        list.dedup();
    }
    let order = order(&edges, entries, &mut found.faults);
    if let Some(order) = &order {
        check_reads(&edges, order, entries, found);
    }
    for (index, dependencies) in edges.into_iter().enumerate() {
        for dependency in &dependencies {
            if let Some(step) = &mut steps[*dependency as usize] {
                step.dependents.push(index as StepIndex);
            }
        }
        let Some(step) = &mut steps[index] else { continue };
        if let Join::Count(count) = step.join
            && count as usize > dependencies.len()
        {
            let message = format!("waits for {count} of its dependencies, but has {}", dependencies.len());
            found.faults.push(&format!("/steps/{index}/join/count"), "out_of_range", message);
        }
        step.depends_on = dependencies;
    }
}

fn unknown(id: &str, by_id: &HashMap<String, StepIndex>) -> String {
    let shown: String = id.chars().take(128).collect();
    format!("there is no step `{shown}`{}", did_you_mean(id, by_id.keys().map(String::as_str)))
}

fn read_list(
    list: &Value,
    step: StepIndex,
    pointer: &str,
    by_id: &HashMap<String, StepIndex>,
    edges: &mut [Vec<StepIndex>],
    faults: &mut Faults,
) {
    let Some(ids) = list.as_array() else {
        faults.push(pointer, "wrong_type", format!("must be a list of step ids, not {}", kind(list)));
        return;
    };
    for (index, id) in ids.iter().enumerate() {
        let at = || format!("{pointer}/{index}");
        let Some(id) = id.as_str() else {
            faults.push(&at(), "wrong_type", format!("must be the id of a step, not {}", kind(id)));
            continue;
        };
        match by_id.get(id) {
            Some(dependency) if *dependency == step => {
                faults.push(&at(), "self_dependency", format!("`{id}` cannot wait for itself"));
            }
            Some(dependency) => edges[step as usize].push(*dependency),
            None => faults.push(&at(), "unknown_step", unknown(id, by_id)),
        }
    }
}

fn id(entries: &[Value], step: StepIndex) -> &str {
    entries.get(step as usize).and_then(|entry| entry.get("id")).and_then(Value::as_str).unwrap_or("?")
}

/// The steps such that each comes after those it depends on; `None` where cycles forbid that, each reported with its members.
fn order(edges: &[Vec<StepIndex>], entries: &[Value], faults: &mut Faults) -> Option<Vec<StepIndex>> {
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

fn report(members: &[usize], entries: &[Value], faults: &mut Faults) {
    const SHOWN: usize = 12;
    let mut names: Vec<_> = members.iter().take(SHOWN).map(|member| id(entries, *member as StepIndex)).collect();
    if members.len() > SHOWN {
        names.push("…");
    }
    names.extend(members.first().map(|first| id(entries, *first as StepIndex)));
    let pointer = format!("/steps/{}", members.first().copied().unwrap_or_default());
    faults.push(
        &pointer,
        "cycle",
        format!("these steps wait for each other: {}; remove one dependency", names.join(" → ")),
    );
}

/// Every read of a step's output must be of a step upstream. Most reads are of direct dependencies; the others are checked in
/// blocks of 64 steps read, one pass over the graph each, so that memory stays one word per step.
fn check_reads(edges: &[Vec<StepIndex>], order: &[StepIndex], entries: &[Value], found: &mut Found) {
    let mut far: Vec<(StepIndex, StepIndex, usize)> = Vec::new();
    for (place, (pointer, read)) in found.reads.iter().enumerate() {
        let Some(reader) = reader(pointer) else { continue };
        // An undo comes after its own step, whatever else.
        let own = *read == reader && pointer.split('/').nth(3) == Some("compensate");
        if !own && edges[reader as usize].binary_search(read).is_err() {
            far.push((*read, reader, place));
        }
    }
    far.sort_unstable();
    let mut rest = far.as_slice();
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
                let (id, reader) = (id(entries, *read), id(entries, *reader));
                let message = format!(
                    "reads `{id}`, which need not have ended by then: add `{id}` to the dependencies of `{reader}`"
                );
                found.faults.push(&found.reads[*place].0, "step_not_upstream", message);
            }
        }
        rest = &rest[end..];
    }
}

/// The step in which the expression at `pointer` stands.
fn reader(pointer: &str) -> Option<StepIndex> {
    pointer.strip_prefix("/steps/")?.split('/').next()?.parse().ok()
}
