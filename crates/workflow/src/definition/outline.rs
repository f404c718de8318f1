//! Where everything is: the steps of a definition and of the blocks in it, numbered before any of them is read.

use std::{collections::HashMap, ops::Range};

use serde_json::Value;

use super::{Faults, Limits, fields};
use crate::{StepIndex, plan::ScopeIndex};

/// How deep blocks may be nested.
const MOST_NESTED: usize = 16;

/// A step as it stands in the document.
pub(super) struct Entry<'a> {
    pub(super) value: &'a Value,
    pub(super) pointer: String,
    pub(super) scope: ScopeIndex,
    /// The scope that its `block` is.
    pub(super) block: Option<ScopeIndex>,
}

impl Entry<'_> {
    /// Its id, or a question mark.
    pub(super) fn id(&self) -> &str {
        self.value.get("id").and_then(Value::as_str).unwrap_or("?")
    }

    fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some_and(|value| !value.is_null())
    }
}

/// The definition or a block: the object that has `steps`, `dependencies` and `output`.
pub(super) struct ScopeEntry<'a> {
    pub(super) value: &'a Value,
    pub(super) pointer: String,
    /// The step whose block it is.
    pub(super) parent: Option<StepIndex>,
    pub(super) steps: Range<StepIndex>,
    /// Is there a `for_each` around it?
    pub(super) item: bool,
    /// Is there a `loop` around it?
    pub(super) iteration: bool,
    depth: usize,
}

/// All steps and scopes.
pub(super) struct Outline<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    pub(super) scopes: Vec<ScopeEntry<'a>>,
    /// The place of each step, by id. Of two with the same id the first has it.
    pub(super) by_id: HashMap<String, StepIndex>,
}

impl<'a> Outline<'a> {
    /// Of the definition `document`; `None` only with faults.
    pub(super) fn of(document: &'a Value, limits: Limits, faults: &mut Faults) -> Option<Self> {
        let mut outline = Self { entries: Vec::new(), scopes: Vec::new(), by_id: HashMap::new() };
        outline.scopes.push(ScopeEntry {
            value: document,
            pointer: String::new(),
            parent: None,
            steps: 0..0,
            item: false,
            iteration: false,
            depth: 0,
        });
        let mut next = 0;
        while next < outline.scopes.len() {
            outline.read(next as ScopeIndex, limits, faults)?;
            next += 1;
        }
        Some(outline)
    }

    /// Numbers the steps of a scope, and notes the blocks among them.
    fn read(&mut self, scope: ScopeIndex, limits: Limits, faults: &mut Faults) -> Option<()> {
        let entry = &self.scopes[scope as usize];
        let (item, iteration, depth) = (entry.item, entry.iteration, entry.depth);
        let (pointer, steps) = (entry.pointer.clone(), entries(entry, faults));
        let first = self.entries.len();
        if first + steps.len() > limits.max_steps {
            let message = format!("a definition has at most {} steps (setting max_steps)", limits.max_steps);
            faults.push(&format!("{pointer}/steps"), "too_many_steps", message);
            return None;
        }
        self.scopes[scope as usize].steps = first as StepIndex..(first + steps.len()) as StepIndex;
        for (place, value) in steps.iter().enumerate() {
            let step = self.entries.len() as StepIndex;
            let mut entry = Entry { value, pointer: format!("{pointer}/steps/{place}"), scope, block: None };
            self.name(&entry, step, faults);
            if let Some(block) = value.get("block").filter(|block| block.is_object()) {
                if depth == MOST_NESTED {
                    let message = format!("blocks are nested at most {MOST_NESTED} deep");
                    faults.push(&format!("{}/block", entry.pointer), "nested_too_deep", message);
                    return None;
                }
                entry.block = Some(self.scopes.len() as ScopeIndex);
                self.scopes.push(ScopeEntry {
                    value: block,
                    pointer: format!("{}/block", entry.pointer),
                    parent: Some(step),
                    steps: 0..0,
                    item: item || entry.has("for_each"),
                    iteration: iteration || entry.has("loop"),
                    depth: depth + 1,
                });
            }
            self.entries.push(entry);
        }
        Some(())
    }

    fn name(&mut self, entry: &Entry<'_>, step: StepIndex, faults: &mut Faults) {
        let Some(id) = entry.value.get("id").and_then(Value::as_str) else { return };
        let first = *self.by_id.entry(id.to_owned()).or_insert(step);
        if first != step {
            let first = &self.entries[first as usize].pointer;
            let message = format!("the id `{id}` is taken by the step at {first}; ids are unique, in blocks too");
            faults.push(&format!("{}/id", entry.pointer), "duplicate_step", message);
        }
    }
}

fn entries<'a>(scope: &ScopeEntry<'a>, faults: &mut Faults) -> &'a [Value] {
    let pointer = format!("{}/steps", scope.pointer);
    match scope.value.get("steps").filter(|steps| !steps.is_null()) {
        None => faults.push(&scope.pointer, "missing_field", "needs `steps`: a list of at least one step"),
        Some(Value::Array(steps)) if steps.is_empty() => {
            faults.push(&pointer, "missing_field", "needs at least one step");
        }
        Some(Value::Array(steps)) => return steps,
        Some(other) => {
            faults.push(&pointer, "wrong_type", format!("must be a list of steps, not {}", fields::kind(other)));
        }
    }
    &[]
}
