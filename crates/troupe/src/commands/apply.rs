//! `troupe apply`: files become agents and workflows. Doing it again changes nothing.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Context, Named, Outcome, input};
use crate::{client, output::Tone};

/// Options of `troupe apply`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, a directory (its .yaml, .yml and .json files), or - for standard input; may be given several times
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
}

/// What one document holds.
#[derive(Debug, PartialEq)]
enum Item {
    Agent(Value),
    Workflow(Value),
}

pub(crate) async fn run(args: Args, context: &Context<'_>) -> Outcome {
    let mut items = Vec::new();
    for path in &args.files {
        items.extend(read(path, context)?);
    }
    if items.is_empty() {
        bail!("found neither agents (a list `agents`) nor workflows (a list `steps`) to apply");
    }
    // Agents first, whatever the order of the files: a workflow that is run at once should find them.
    items.sort_by_key(|(_, item)| matches!(item, Item::Workflow(_)));
    let mut applied = Vec::new();
    for (path, item) in items {
        let result = match &item {
            Item::Agent(agent) => apply_agent(agent, context).await,
            Item::Workflow(definition) => apply_workflow(definition, context).await,
        };
        // The error keeps its type, so that its faults and hint are printed.
        let result = result.inspect_err(|_| context.output.note(format!("in {}:", input::shown(&path))))?;
        if !context.output.is_json() {
            context.output.line(result.sentence(context))?;
        }
        applied.push(result.document());
    }
    if context.output.is_json() {
        context.output.document(&applied)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything in a file, or in the files of a directory.
fn read(path: &Path, context: &Context<'_>) -> anyhow::Result<Vec<(PathBuf, Item)>> {
    if !path.is_dir() {
        let documents = input::documents(&input::text(path)?, path)?;
        let mut items = Vec::new();
        for document in documents {
            let found = items_of(document).with_context(|| format!("in {}", input::shown(path)))?;
            items.extend(found.into_iter().map(|item| (path.to_owned(), item)));
        }
        return Ok(items);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut files = BTreeSet::new();
    for entry in entries {
        let file = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
        if file.extension().is_some_and(|extension| matches!(extension.to_str(), Some("yaml" | "yml" | "json"))) {
            files.insert(file);
        }
    }
    let mut items = Vec::new();
    for file in files {
        for document in input::documents(&input::text(&file)?, &file)? {
            // A directory holds data and inputs too.
            match items_of(document) {
                Ok(found) => items.extend(found.into_iter().map(|item| (file.clone(), item))),
                Err(_) => context.output.note(format!("skipped {}: neither agents nor a workflow", file.display())),
            }
        }
    }
    Ok(items)
}

fn items_of(mut document: Value) -> anyhow::Result<Vec<Item>> {
    if document.get("steps").is_some() {
        return Ok(vec![Item::Workflow(document)]);
    }
    match document.get_mut("agents").map(Value::take) {
        Some(Value::Array(agents)) if document.as_object().is_some_and(|object| object.len() == 1) => {
            Ok(agents.into_iter().map(Item::Agent).collect())
        }
        Some(_) | None => {
            bail!("a document is a workflow (with `steps`) or `agents:` with a list, and nothing beside it")
        }
    }
}

/// What became of an item.
struct Applied {
    kind: Named,
    name: String,
    id: String,
    change: &'static str,
    version: Option<u64>,
}

impl Applied {
    fn sentence(&self, context: &Context<'_>) -> String {
        let tone = if self.change == "unchanged" { Tone::Faint } else { Tone::Good };
        let version = self.version.map(|version| format!(" version {version}")).unwrap_or_default();
        let change = context.output.paint(tone, self.change);
        format!("{} {} {change}{version} ({})", self.kind.word(), crate::output::printable(&self.name), self.id)
    }

    fn document(&self) -> Value {
        let Self { kind, name, id, change, version } = self;
        json!({ "kind": kind.word(), "name": name, "id": id, "change": change, "version": version })
    }
}

async fn apply_agent(agent: &Value, context: &Context<'_>) -> Result<Applied, client::Error> {
    let name = client::text(agent, "name").to_owned();
    let applied = |stored: &Value, change| Applied {
        kind: Named::Agent,
        name: name.clone(),
        id: client::text(stored, "id").to_owned(),
        change,
        version: None,
    };
    let existing = if name.is_empty() { None } else { context.by_name(Named::Agent, &name).await? };
    let Some(existing) = existing else {
        return Ok(applied(&context.client.post(&["agents"], agent).await?, "created"));
    };
    if is_same_agent(agent, &existing) {
        return Ok(applied(&existing, "unchanged"));
    }
    let (id, agent_type) = (client::text(&existing, "id"), client::text(&existing, "agent_type"));
    let mut change = agent.clone();
    if let Some(fields) = change.as_object_mut() {
        // What an agent is cannot change; where the file says the same there is nothing to send.
        match fields.get("agent_type").and_then(Value::as_str) {
            Some(wanted) if wanted != agent_type => {
                return Err(client::Error::OtherType { name, agent_type: agent_type.to_owned() });
            }
            Some(_) | None => fields.remove("agent_type"),
        };
    }
    let stored = context.client.send(context.client.request(Method::PUT, &["agents", id]).json(&change)).await?;
    Ok(applied(&stored, "updated"))
}

/// Does every field of the file stand in the server's answer already? The order of capabilities means nothing.
fn is_same_agent(wanted: &Value, existing: &Value) -> bool {
    let Some(wanted) = wanted.as_object() else { return false };
    wanted.iter().all(|(field, value)| match (value, existing.get(field)) {
        (Value::Array(wanted), Some(Value::Array(found))) => {
            wanted.len() == found.len() && wanted.iter().all(|value| found.contains(value))
        }
        (value, found) => Some(value) == found,
    })
}

async fn apply_workflow(definition: &Value, context: &Context<'_>) -> Result<Applied, client::Error> {
    let name = client::text(definition, "name").to_owned();
    let applied = |stored: &Value, change| Applied {
        kind: Named::Workflow,
        name: name.clone(),
        id: client::text(stored, "id").to_owned(),
        change,
        version: stored.get("version").and_then(Value::as_u64),
    };
    let existing = if name.is_empty() { None } else { context.by_name(Named::Workflow, &name).await? };
    let Some(existing) = existing else {
        return Ok(applied(&context.client.post(&["workflows"], definition).await?, "created"));
    };
    // The server compares, and makes no new version of an equal definition.
    let id = client::text(&existing, "id");
    let request = context.client.request(Method::PUT, &["workflows", id]).json(definition);
    let stored = context.client.send(request).await?;
    let same = client::number(&stored, "version") == client::number(&existing, "version");
    Ok(applied(&stored, if same { "unchanged" } else { "updated" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_a_workflow_or_a_list_of_agents() {
        let workflow = json!({ "name": "a", "steps": [] });
        assert_eq!(items_of(workflow.clone()).unwrap(), [Item::Workflow(workflow)]);
        let agents = items_of(json!({ "agents": [{ "name": "a" }, { "name": "b" }] })).unwrap();
        assert_eq!(agents, [Item::Agent(json!({ "name": "a" })), Item::Agent(json!({ "name": "b" }))]);
        for wrong in [json!([1]), json!({ "agents": 5 }), json!({ "agents": [], "agnets": [] }), json!(null)] {
            assert!(items_of(wrong).is_err());
        }
    }

    #[test]
    fn an_agent_is_the_same_whatever_else_the_server_knows_of_it() {
        let stored =
            json!({ "id": "agt_1", "name": "a", "capabilities": ["x", "y"], "config": { "k": 1 }, "status": "idle" });
        assert!(is_same_agent(&json!({ "name": "a", "capabilities": ["y", "x"], "config": { "k": 1 } }), &stored));
        assert!(!is_same_agent(&json!({ "name": "a", "capabilities": ["x"] }), &stored));
        assert!(!is_same_agent(&json!({ "name": "a", "config": {} }), &stored));
    }
}
