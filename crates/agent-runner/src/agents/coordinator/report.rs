//! What others did, merged, counted and said in words. The same input always gives the same text.

use agent_sdk::{Failure, Task};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::data::{Row, figures};
use crate::template;

/// The action `gather`: named or unnamed lists become one.
pub(super) fn gather(task: &Task) -> Result<Value, Failure> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Lists {
        Named(Map<String, Value>),
        Unnamed(Vec<Value>),
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Input {
        lists: Lists,
        /// A field that tells of each object which list it came from.
        source: Option<String>,
    }
    let input: Input = super::super::input(task)?;
    let lists: Vec<(String, Value)> = match input.lists {
        Lists::Named(lists) => lists.into_iter().collect(),
        Lists::Unnamed(lists) => lists.into_iter().enumerate().map(|(index, list)| (index.to_string(), list)).collect(),
    };
    let mut items = Vec::new();
    let mut counts = Map::new();
    for (name, list) in lists {
        let list = match list {
            Value::Array(list) => list,
            // A step that was skipped has no output.
            Value::Null => Vec::new(),
            other => vec![other],
        };
        counts.insert(name.clone(), list.len().into());
        items.extend(list.into_iter().map(|mut item| {
            if let (Some(source), Value::Object(fields)) = (&input.source, &mut item) {
                fields.insert(source.clone(), name.clone().into());
            }
            item
        }));
    }
    Ok(json!({ "count": items.len(), "counts": counts, "items": items }))
}

/// The action `summarise`: figures over items, and over groups of them.
pub(super) fn summarise(task: &Task) -> Result<Value, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Input {
        items: Vec<Row>,
        #[serde(default)]
        figures: Map<String, Value>,
        #[serde(default)]
        group_by: Vec<String>,
    }
    let input: Input = super::super::input(task)?;
    let compiled = figures::compile(&input.figures)?;
    let overall = figures::compute(&compiled, &input.items.iter().collect::<Vec<_>>())?;
    let mut groups = Vec::new();
    if !input.group_by.is_empty() {
        for (mut group, members) in figures::group(&input.items, &input.group_by) {
            group.insert("count".to_owned(), members.len().into());
            group.extend(figures::compute(&compiled, &members)?);
            groups.push(Value::Object(group));
        }
    }
    Ok(json!({ "count": input.items.len(), "figures": overall, "groups": groups }))
}

/// The action `report`: a template filled in.
pub(super) fn report(task: &Task) -> Result<Value, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Input {
        template: String,
        #[serde(default)]
        data: Value,
    }
    let input: Input = super::super::input(task)?;
    let text = template::render(&input.template, &input.data)?;
    Ok(json!({ "lines": text.lines().count(), "report": text }))
}
