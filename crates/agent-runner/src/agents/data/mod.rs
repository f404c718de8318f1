//! `data`: reads and writes CSV, JSON and JSONL, and works on rows. A row is a JSON object.
//!
//! [`formats`] turns bytes into rows and back, [`operations`] works on rows in memory, [`figures`] computes columns' figures.
//! All of it runs on a thread of its own; expressions are compiled once per task.

pub(super) mod figures;
mod formats;
mod operations;

use std::sync::Arc;

use agent_sdk::{AgentBuilder, Failure, Progress, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::{
    formats::Format,
    operations::{Operation, Plan},
};
use super::Workshop;

/// A row.
pub(super) type Row = Map<String, Value>;

/// Rows that an action gives.
#[derive(Debug, Serialize)]
struct Rows {
    rows: Vec<Row>,
    count: usize,
}

pub(super) fn build(mut agent: AgentBuilder, workshop: &Arc<Workshop>) -> AgentBuilder {
    for format in Format::ALL {
        let (reader, writer) = (Arc::clone(workshop), Arc::clone(workshop));
        agent = agent
            .action(format!("read_{}", format.as_str()), move |task| read(Arc::clone(&reader), task, format))
            .action(format!("write_{}", format.as_str()), move |task| write(Arc::clone(&writer), task, format));
    }
    for name in Operation::NAMES {
        let workshop = Arc::clone(workshop);
        agent = agent.action(name, move |task| operate(Arc::clone(&workshop), task));
    }
    let workshop = Arc::clone(workshop);
    agent.action("transform", move |task| transform(Arc::clone(&workshop), task))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    path: String,
    /// Where in a JSON document the rows are, as a JSON pointer.
    #[serde(default)]
    pointer: String,
    /// Of CSV: what stands between fields.
    delimiter: Option<char>,
    /// Operations to do at once, so that only what is wanted goes on.
    #[serde(default)]
    then: Vec<Operation>,
}

async fn read(workshop: Arc<Workshop>, task: Task, format: Format) -> Result<Value, Failure> {
    let input: Read = super::input(&task)?;
    let (progress, shop) = (task.progress_handle().clone(), Arc::clone(&workshop));
    let work = move || {
        let plans = compile(&input.then)?;
        let content = shop.files.read(&input.path)?;
        let rows = match formats::decode(format, &content, &input.pointer, input.delimiter)? {
            formats::Decoded::Rows(rows) => rows,
            formats::Decoded::Value(value) if input.then.is_empty() => return Ok(json!({ "value": value })),
            formats::Decoded::Value(_) => {
                return Err(Failure::invalid_input("`then` works on rows, but `pointer` leads to no list of objects"));
            }
        };
        let Rows { rows, count } = run(rows, &plans, &shop, &progress)?;
        Ok(json!({ "rows": rows, "count": count }))
    };
    workshop.on_thread(work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    path: String,
    rows: Vec<Row>,
    delimiter: Option<char>,
}

async fn write(workshop: Arc<Workshop>, task: Task, format: Format) -> Result<Value, Failure> {
    let shop = Arc::clone(&workshop);
    let work = move || {
        let input: Write = super::input(&task)?;
        let content = formats::encode(format, &input.rows, input.delimiter)?;
        shop.files.write(&input.path, &content)?;
        Ok(json!({ "path": input.path, "count": input.rows.len(), "bytes": content.len() }))
    };
    workshop.on_thread(work).await
}

/// An action that is one operation: its fields stand beside `rows`.
async fn operate(workshop: Arc<Workshop>, task: Task) -> Result<Rows, Failure> {
    let shop = Arc::clone(&workshop);
    let work = move || {
        let mut input: Map<String, Value> = super::input(&task)?;
        let rows = rows_of(input.remove("rows"))?;
        let fields = Value::Object(input);
        let operation = json!({ task.action.as_str(): fields });
        let operation = Operation::deserialize(operation)
            .map_err(|error| Failure::invalid_input(format!("the input of `{}` does not fit: {error}", task.action)))?;
        run(rows, &compile(&[operation])?, &shop, task.progress_handle())
    };
    workshop.on_thread(work).await
}

async fn transform(workshop: Arc<Workshop>, task: Task) -> Result<Rows, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Transform {
        rows: Vec<Row>,
        operations: Vec<Operation>,
    }
    let shop = Arc::clone(&workshop);
    let work = move || {
        let input: Transform = super::input(&task)?;
        run(input.rows, &compile(&input.operations)?, &shop, task.progress_handle())
    };
    workshop.on_thread(work).await
}

fn rows_of(value: Option<Value>) -> Result<Vec<Row>, Failure> {
    let value = value.ok_or_else(|| Failure::invalid_input("needs `rows`: a list of objects"))?;
    Vec::deserialize(value)
        .map_err(|error| Failure::invalid_input(format!("`rows` must be a list of objects: {error}")))
}

fn compile(operations: &[Operation]) -> Result<Vec<Plan>, Failure> {
    operations.iter().map(Operation::compile).collect()
}

fn run(mut rows: Vec<Row>, plans: &[Plan], workshop: &Workshop, progress: &Progress) -> Result<Rows, Failure> {
    for plan in plans {
        rows = plan.run(rows, workshop.max_rows, progress)?;
    }
    if rows.len() > workshop.max_rows {
        return Err(Failure::fatal(
            "too_many_rows",
            format!("{} rows are more than max_rows, {}", rows.len(), workshop.max_rows),
        ));
    }
    Ok(Rows { count: rows.len(), rows })
}
