//! Operations on rows in memory. Each takes rows and gives rows; the order of rows is kept where nothing else is said.

use std::collections::{HashMap, HashSet};

use agent_sdk::{Failure, Progress};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Row,
    figures::{self, CompiledFigure, compare},
};
use crate::expression::{Expression, to_cel};

/// Rows between two looks at whether the task was cancelled; every look is a sign of life too.
const STRIDE: usize = 4096;

/// One operation, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Operation {
    Filter {
        r#where: String,
    },
    Map {
        fields: Map<String, Value>,
        #[serde(default)]
        keep: bool,
    },
    Sort {
        by: Vec<Key>,
    },
    Aggregate {
        #[serde(default)]
        group_by: Vec<String>,
        compute: Map<String, Value>,
    },
    Join {
        with: Vec<Row>,
        on: On,
        #[serde(default)]
        kind: JoinKind,
    },
    Select {
        fields: Vec<String>,
    },
    Limit {
        count: usize,
        #[serde(default)]
        offset: usize,
    },
    Distinct {
        #[serde(default)]
        by: Vec<String>,
    },
}

/// What to sort by: a field, ascending unless said otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Key {
    Field(String),
    Directed { field: String, order: Order },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Asc,
    Desc,
}

/// The fields whose values must be equal: of the same name, or named `{left: right}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum On {
    Same(Vec<String>),
    Named(Map<String, Value>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JoinKind {
    #[default]
    Inner,
    Left,
}

/// An operation that is ready to run.
#[derive(Debug)]
pub(super) enum Plan {
    Filter(Expression),
    Map { fields: Vec<(String, Expression)>, keep: bool },
    Sort(Vec<(String, Order)>),
    Aggregate { group_by: Vec<String>, figures: Vec<CompiledFigure> },
    Join { with: Vec<Row>, left: Vec<String>, right: Vec<String>, kind: JoinKind },
    Select(Vec<String>),
    Limit { count: usize, offset: usize },
    Distinct(Vec<String>),
}

impl Operation {
    /// The names of the actions that are one operation.
    pub(super) const NAMES: [&'static str; 8] =
        ["filter", "map", "sort", "aggregate", "join", "select", "limit", "distinct"];

    pub(super) fn compile(&self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Filter { r#where } => Plan::Filter(Expression::compile(r#where)?),
            Self::Map { fields, keep } => {
                let field = |(name, source): (&String, &Value)| {
                    // What is no text stands for itself, such as a constant number.
                    let source = source.as_str().map_or_else(|| source.to_string(), str::to_owned);
                    Ok((name.clone(), Expression::compile(&source)?))
                };
                Plan::Map { fields: fields.iter().map(field).collect::<Result<_, Failure>>()?, keep: *keep }
            }
            Self::Sort { by } => {
                let key = |key: &Key| match key {
                    Key::Field(field) => (field.clone(), Order::Asc),
                    Key::Directed { field, order } => (field.clone(), *order),
                };
                Plan::Sort(by.iter().map(key).collect())
            }
            Self::Aggregate { group_by, compute } => {
                Plan::Aggregate { group_by: group_by.clone(), figures: figures::compile(compute)? }
            }
            Self::Join { with, on, kind } => {
                let (left, right) = on.fields()?;
                Plan::Join { with: with.clone(), left, right, kind: *kind }
            }
            Self::Select { fields } => Plan::Select(fields.clone()),
            Self::Limit { count, offset } => Plan::Limit { count: *count, offset: *offset },
            Self::Distinct { by } => Plan::Distinct(by.clone()),
        })
    }
}

impl On {
    fn fields(&self) -> Result<(Vec<String>, Vec<String>), Failure> {
        let pairs: Vec<(String, String)> = match self {
            Self::Same(names) => names.iter().map(|name| (name.clone(), name.clone())).collect(),
            Self::Named(names) => {
                let pair = |(left, right): (&String, &Value)| {
                    let right = right
                        .as_str()
                        .ok_or_else(|| Failure::invalid_input("`on` names fields: {\"left\": \"right\"}"))?;
                    Ok((left.clone(), right.to_owned()))
                };
                names.iter().map(pair).collect::<Result<_, Failure>>()?
            }
        };
        if pairs.is_empty() {
            return Err(Failure::invalid_input("`on` needs at least one field"));
        }
        Ok(pairs.into_iter().unzip())
    }
}

impl Plan {
    /// Runs it. `most` bounds the rows that come out.
    pub(super) fn run(&self, rows: Vec<Row>, most: usize, progress: &Progress) -> Result<Vec<Row>, Failure> {
        match self {
            Self::Filter(condition) => filter(rows, condition, progress),
            Self::Map { fields, keep } => map(rows, fields, *keep, progress),
            Self::Sort(keys) => Ok(sort(rows, keys)),
            Self::Aggregate { group_by, figures } => {
                let groups = figures::group(&rows, group_by).into_iter().enumerate();
                let row = |(index, (mut key, members)): (usize, (Row, Vec<&Row>))| {
                    look(index, progress)?;
                    key.extend(figures::compute(figures, &members)?);
                    Ok(key)
                };
                groups.map(row).collect()
            }
            Self::Join { with, left, right, kind } => join(rows, with, left, right, *kind, most, progress),
            Self::Select(fields) => {
                let pick = |row: Row| {
                    fields.iter().map(|name| (name.clone(), row.get(name).cloned().unwrap_or_default())).collect()
                };
                Ok(rows.into_iter().map(pick).collect())
            }
            Self::Limit { count, offset } => Ok(rows.into_iter().skip(*offset).take(*count).collect()),
            Self::Distinct(by) => {
                let mut seen = HashSet::new();
                let key =
                    |row: &Row| if by.is_empty() { Value::Object(row.clone()).to_string() } else { key_of(row, by) };
                Ok(rows.into_iter().filter(|row| seen.insert(key(row))).collect())
            }
        }
    }
}

/// Stops where the task was cancelled, and says that it lives where it was not.
fn look(index: usize, progress: &Progress) -> Result<(), Failure> {
    if !index.is_multiple_of(STRIDE) {
        return Ok(());
    }
    if progress.cancelled().is_cancelled() {
        return Err(Failure::fatal("cancelled", "the task was cancelled"));
    }
    progress.heartbeat();
    Ok(())
}

/// Says which row it was.
fn at(index: usize) -> impl Fn(Failure) -> Failure {
    move |failure| Failure { message: format!("row {index}: {}", failure.message), ..failure }
}

fn filter(rows: Vec<Row>, condition: &Expression, progress: &Progress) -> Result<Vec<Row>, Failure> {
    let mut kept = Vec::new();
    for (index, row) in rows.into_iter().enumerate() {
        look(index, progress)?;
        let value = Value::Object(row);
        if condition.is_true(&[("row", &to_cel(&value))]).map_err(at(index))?
            && let Value::Object(row) = value
        {
            kept.push(row);
        }
    }
    Ok(kept)
}

fn map(rows: Vec<Row>, fields: &[(String, Expression)], keep: bool, progress: &Progress) -> Result<Vec<Row>, Failure> {
    let mut mapped = Vec::with_capacity(rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        look(index, progress)?;
        let cel = to_cel(&Value::Object(row.clone()));
        let mut made = if keep { row } else { Row::new() };
        for (name, expression) in fields {
            made.insert(name.clone(), expression.evaluate(&[("row", &cel)]).map_err(at(index))?);
        }
        mapped.push(made);
    }
    Ok(mapped)
}

fn sort(mut rows: Vec<Row>, keys: &[(String, Order)]) -> Vec<Row> {
    let by_key = |left: &Row, right: &Row, (field, order): &(String, Order)| {
        let ordering = compare(left.get(field).unwrap_or(&Value::Null), right.get(field).unwrap_or(&Value::Null));
        match order {
            Order::Asc => ordering,
            Order::Desc => ordering.reverse(),
        }
    };
    rows.sort_by(|left, right| {
        let first_that_differs = keys.iter().map(|key| by_key(left, right, key)).find(|ordering| ordering.is_ne());
        first_that_differs.unwrap_or(std::cmp::Ordering::Equal)
    });
    rows
}

fn key_of(row: &Row, fields: &[String]) -> String {
    Value::Array(fields.iter().map(|name| row.get(name).cloned().unwrap_or_default()).collect()).to_string()
}

/// Every pair of rows that agree; with `left`, rows of the left that have no partner too. Fields that both sides have, other
/// than those of `on`, come from the left, and from the right as `right_<name>`.
fn join(
    rows: Vec<Row>,
    with: &[Row],
    left: &[String],
    right: &[String],
    kind: JoinKind,
    most: usize,
    progress: &Progress,
) -> Result<Vec<Row>, Failure> {
    let mut partners: HashMap<String, Vec<&Row>> = HashMap::new();
    for row in with {
        partners.entry(key_of(row, right)).or_default().push(row);
    }
    let mut joined = Vec::new();
    for (index, row) in rows.into_iter().enumerate() {
        look(index, progress)?;
        let found = partners.get(&key_of(&row, left)).map_or(&[][..], Vec::as_slice);
        if joined.len() + found.len() > most {
            return Err(Failure::fatal("too_many_rows", format!("the join gives more than max_rows, {most}")));
        }
        for partner in found {
            let mut pair = row.clone();
            for (name, value) in partner.iter().filter(|(name, _)| !right.contains(name)) {
                let name = if row.contains_key(name) { format!("right_{name}") } else { name.clone() };
                pair.insert(name, value.clone());
            }
            joined.push(pair);
        }
        if found.is_empty() && kind == JoinKind::Left {
            joined.push(row);
        }
    }
    Ok(joined)
}
