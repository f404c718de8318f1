//! Figures of columns: counts, sums, averages and the like, over groups or over everything.

use std::{cmp::Ordering, collections::HashMap};

use agent_sdk::Failure;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::Row;
use crate::expression::{Expression, to_cel};

/// Which figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Function {
    /// Rows; with a value, those where it is not null.
    Count,
    /// Different values.
    CountDistinct,
    Sum,
    Avg,
    Min,
    Max,
    Median,
    First,
    Last,
}

/// One figure: a function over a field, or over an expression, of the rows that fit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    function: Function,
    field: Option<String>,
    expression: Option<String>,
    r#where: Option<String>,
}

/// A figure with its expressions compiled.
#[derive(Debug)]
pub(crate) struct CompiledFigure {
    name: String,
    function: Function,
    value: Of,
    condition: Option<Expression>,
}

#[derive(Debug)]
enum Of {
    Row,
    Field(String),
    Expression(Expression),
}

/// Compiles named figures.
pub(crate) fn compile(figures: &Map<String, Value>) -> Result<Vec<CompiledFigure>, Failure> {
    figures.iter().map(|(name, figure)| compile_one(name, figure)).collect()
}

fn compile_one(name: &str, figure: &Value) -> Result<CompiledFigure, Failure> {
    let figure =
        Figure::deserialize(figure).map_err(|error| Failure::invalid_input(format!("the figure {name:?}: {error}")))?;
    let value = match (figure.field, figure.expression) {
        (Some(field), None) => Of::Field(field),
        (None, Some(source)) => Of::Expression(Expression::compile(&source)?),
        (None, None) if figure.function == Function::Count => Of::Row,
        (None, None) => {
            return Err(Failure::invalid_input(format!("the figure {name:?} needs `field` or `expression`")));
        }
        (Some(_), Some(_)) => {
            return Err(Failure::invalid_input(format!("the figure {name:?} takes `field` or `expression`, not both")));
        }
    };
    let condition = figure.r#where.as_deref().map(Expression::compile).transpose()?;
    Ok(CompiledFigure { name: name.to_owned(), function: figure.function, value, condition })
}

/// The figures of some rows.
pub(crate) fn compute(figures: &[CompiledFigure], rows: &[&Row]) -> Result<Row, Failure> {
    figures.iter().map(|figure| Ok((figure.name.clone(), figure.compute(rows)?))).collect()
}

impl CompiledFigure {
    fn compute(&self, rows: &[&Row]) -> Result<Value, Failure> {
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(value) = self.value_of(row)? {
                values.push(value);
            }
        }
        let number = |value: f64| Number::from_f64(value).map_or(Value::Null, Value::Number);
        Ok(match self.function {
            Function::Count => values.len().into(),
            Function::CountDistinct => {
                let distinct: std::collections::HashSet<_> = values.iter().map(Value::to_string).collect();
                distinct.len().into()
            }
            Function::Sum => sum(&self.numbers(&values)?),
            Function::Avg if values.is_empty() => Value::Null,
            Function::Avg => {
                let numbers = self.numbers(&values)?;
                number(
                    numbers.iter().map(|number| number.as_f64().unwrap_or(f64::NAN)).sum::<f64>()
                        / numbers.len() as f64,
                )
            }
            Function::Median => median(&self.numbers(&values)?).map_or(Value::Null, number),
            Function::Min => values.into_iter().min_by(compare).unwrap_or_default(),
            Function::Max => values.into_iter().max_by(compare).unwrap_or_default(),
            Function::First => values.into_iter().next().unwrap_or_default(),
            Function::Last => values.pop().unwrap_or_default(),
        })
    }

    /// What counts of a row: nothing where it does not fit or is null.
    fn value_of(&self, row: &Row) -> Result<Option<Value>, Failure> {
        let needs_cel = self.condition.is_some() || matches!(self.value, Of::Expression(_));
        let cel = needs_cel.then(|| to_cel(&Value::Object(row.clone())));
        let variables: Vec<_> = cel.iter().map(|cel| ("row", cel)).collect();
        if let Some(condition) = &self.condition
            && !condition.is_true(&variables)?
        {
            return Ok(None);
        }
        let value = match &self.value {
            Of::Row => Value::Bool(true),
            Of::Field(name) => row.get(name).cloned().unwrap_or_default(),
            Of::Expression(expression) => expression.evaluate(&variables)?,
        };
        Ok(Some(value).filter(|value| !value.is_null()))
    }

    fn numbers<'a>(&self, values: &'a [Value]) -> Result<Vec<&'a Number>, Failure> {
        let number = |value: &'a Value| match value {
            Value::Number(number) => Ok(number),
            other => Err(Failure::fatal(
                "not_a_number",
                format!("the figure {:?} is over numbers, but there is {other}", self.name),
            )),
        };
        values.iter().map(number).collect()
    }
}

/// Exact for integers, as long as it fits.
fn sum(numbers: &[&Number]) -> Value {
    let exact = numbers.iter().try_fold(0_i64, |sum, number| sum.checked_add(number.as_i64()?));
    let float = || numbers.iter().map(|number| number.as_f64().unwrap_or(f64::NAN)).sum::<f64>();
    exact.map_or_else(|| Number::from_f64(float()).map_or(Value::Null, Value::Number), Value::from)
}

fn median(numbers: &[&Number]) -> Option<f64> {
    let mut sorted: Vec<f64> = numbers.iter().filter_map(|number| number.as_f64()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        Some(f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, sorted[middle]))
    } else {
        sorted.get(middle).copied()
    }
}

/// A total order of all JSON values: null, false, true, numbers, texts, then the rest by its text.
pub(crate) fn compare(left: &Value, right: &Value) -> Ordering {
    const fn rank(value: &Value) -> u8 {
        match value {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => 2,
            Value::String(_) => 3,
            Value::Array(_) => 4,
            Value::Object(_) => 5,
        }
    }
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => left.as_f64().unwrap_or(f64::NAN).total_cmp(&right.as_f64().unwrap_or(f64::NAN)),
        },
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            left.to_string().cmp(&right.to_string())
        }
        _ => rank(left).cmp(&rank(right)),
    }
}

/// Rows by the values of some fields, groups in the order in which they first appear. Without fields: one group of all rows,
/// also where there are none.
pub(crate) fn group<'a>(rows: &'a [Row], by: &[String]) -> Vec<(Row, Vec<&'a Row>)> {
    if by.is_empty() {
        return vec![(Row::new(), rows.iter().collect())];
    }
    let mut groups: Vec<(Row, Vec<&Row>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let key: Row = by.iter().map(|name| (name.clone(), row.get(name).cloned().unwrap_or_default())).collect();
        let text = Value::Object(key.clone()).to_string();
        let place = *places.entry(text).or_insert_with(|| {
            groups.push((key, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(row);
    }
    groups
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn figures(rows: &Value, figures: &Value) -> Result<Value, Failure> {
        let rows: Vec<Row> = serde_json::from_value(rows.clone()).unwrap();
        let compiled = compile(figures.as_object().unwrap())?;
        compute(&compiled, &rows.iter().collect::<Vec<_>>()).map(Value::Object)
    }

    #[test]
    fn every_function_gives_its_figure_and_skips_nulls() {
        let rows = json!([{ "v": 3 }, { "v": 1 }, { "v": null }, { "v": 2 }, {}]);
        let of = |function: &str| json!({ "function": function, "field": "v" });
        let wanted = json!({ "n": { "function": "count" }, "c": of("count"), "d": of("count_distinct"), "s": of("sum"), "a": of("avg"), "lo": of("min"),
            "hi": of("max"), "m": of("median"), "f": of("first"), "l": of("last"), "big": { "function": "count", "where": "has(row.v) && row.v != null && row.v > 1" } });
        let found = figures(&rows, &wanted).unwrap();
        assert_eq!(
            found,
            json!({ "n": 5, "c": 3, "d": 3, "s": 6, "a": 2.0, "lo": 1, "hi": 3, "m": 2.0, "f": 3, "l": 2, "big": 2 })
        );
    }

    #[test]
    fn no_rows_give_zero_or_null() {
        let of = |function: &str| json!({ "function": function, "field": "v" });
        let found = figures(
            &json!([]),
            &json!({ "c": of("count"), "s": of("sum"), "a": of("avg"), "m": of("median"), "x": of("max") }),
        )
        .unwrap();
        assert_eq!(found, json!({ "c": 0, "s": 0, "a": null, "m": null, "x": null }));
    }

    #[test]
    fn texts_have_no_sum() {
        let failure =
            figures(&json!([{ "v": "a" }]), &json!({ "s": { "function": "sum", "field": "v" } })).unwrap_err();
        assert_eq!(failure.code, "not_a_number");
    }
}
