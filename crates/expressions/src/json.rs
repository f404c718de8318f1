//! JSON to CEL and back.

use std::sync::Arc;

use cel::Value as Cel;
use serde_json::{Map, Number, Value};

/// JSON as CEL sees it.
pub fn to_cel(value: Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Cel::Int(integer),
            (None, Some(integer)) => Cel::UInt(integer),
            (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text)),
        Value::Array(elements) => Cel::List(Arc::new(elements.into_iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (cel::objects::Key::from(key), to_cel(value)));
            Cel::Map(cel::objects::Map { map: Arc::new(fields.collect()) })
        }
    }
}

/// The fields of objects come sorted: CEL's maps have no order, and the same input must give the same text.
pub(crate) fn to_json(value: &Cel) -> Result<Value, String> {
    match value {
        Cel::Null => Ok(Value::Null),
        Cel::Bool(truth) => Ok((*truth).into()),
        Cel::Int(integer) => Ok((*integer).into()),
        Cel::UInt(integer) => Ok((*integer).into()),
        Cel::Float(float) => Number::from_f64(*float)
            .map(Value::Number)
            .ok_or_else(|| format!("gives {float}, which JSON does not have")),
        Cel::String(text) => Ok(text.as_str().into()),
        Cel::List(elements) => elements.iter().map(to_json).collect(),
        Cel::Map(map) => {
            let mut fields = Vec::with_capacity(map.map.len());
            for (key, value) in map.map.iter() {
                fields.push((key.to_string(), to_json(value)?));
            }
            fields.sort_by(|(left, _), (right, _)| left.cmp(right));
            Ok(Value::Object(fields.into_iter().collect::<Map<_, _>>()))
        }
        other => other
            .json()
            .map_err(|_| format!("gives {}, which JSON does not have", crate::shorten(format_args!("{other:?}")))),
    }
}
