//! CEL for row logic and rules: compiled once per task, evaluated per row. Whatever people write, it neither panics nor
//! overflows the stack; how long it may run is bounded by its size and the size of its data.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
};

use agent_sdk::Failure;
use cel::{Context, Env, Value as Cel, extensions, objects};
use serde_json::{Map, Number, Value};

/// The longest expression, in bytes.
const MOST_BYTES: usize = 4096;
/// Operators, dots and brackets in one expression: a chain of them makes a tree of that depth.
const MOST_OPERATORS: usize = 200;
/// Brackets within brackets; the parser and the evaluation recurse on them.
const DEEPEST: u16 = 24;

/// The standard library and CEL's extensions for texts and numbers; no `lists`, whose `range` makes lists of any length.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).expect("the extension is added once");
    env.add_extension(extensions::math).expect("the extension is added once");
    Arc::new(env)
});

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Expression {
    source: String,
    expression: cel::IdedExpr,
}

impl Expression {
    /// Compiles `source`; the text says what is wrong with it.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        let shown = shorten(source);
        if source.len() > MOST_BYTES
            || source.bytes().filter(|byte| b".+-*/%<>=!&|?:([{,".contains(byte)).count() > MOST_OPERATORS
        {
            return Err(format!("`{shown}` is too long; at most {MOST_BYTES} bytes and {MOST_OPERATORS} operators"));
        }
        let parse = || ENVIRONMENT.parser().max_recursion_depth(DEEPEST).parse(source);
        // The parser is known to panic on some malformed texts.
        let parsed = catch_unwind(AssertUnwindSafe(parse)).map_err(|_| format!("`{shown}` is not a CEL expression"))?;
        let expression = parsed.map_err(|errors| {
            let why = errors.errors.first().map_or("it does not parse", |error| error.msg.as_str());
            format!("`{shown}` is not a CEL expression: {}", shorten(why))
        })?;
        Ok(Self { source: source.to_owned(), expression })
    }

    /// Compiles `source`. Failure: `invalid_expression`.
    pub(crate) fn compile(source: &str) -> Result<Self, Failure> {
        Self::parse(source).map_err(|why| Failure::fatal("invalid_expression", why))
    }

    /// Its value with these variables. Failure: `expression`, not retryable.
    pub(crate) fn evaluate(&self, variables: &[(&str, &Cel)]) -> Result<Value, Failure> {
        let evaluate = || {
            let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
            for (name, value) in variables {
                context.add_variable_from_value(*name, (*value).clone());
            }
            Cel::resolve(&self.expression, &context)
                .map_err(|error| shorten(&error.to_string()))
                .and_then(|value| to_json(&value))
        };
        let evaluated =
            catch_unwind(AssertUnwindSafe(evaluate)).unwrap_or_else(|_| Err("it cannot be evaluated".to_owned()));
        evaluated.map_err(|why| self.failure(&why))
    }

    /// Its truth; anything but true or false is a failure too.
    pub(crate) fn is_true(&self, variables: &[(&str, &Cel)]) -> Result<bool, Failure> {
        let value = self.evaluate(variables)?;
        value
            .as_bool()
            .ok_or_else(|| self.failure(&format!("gives {}, not true or false", shorten(&value.to_string()))))
    }

    fn failure(&self, why: &str) -> Failure {
        Failure::fatal("expression", format!("`{}`: {why}", shorten(&self.source)))
    }
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 300;
    if text.len() <= LONGEST { text.to_owned() } else { format!("{}…", &text[..text.floor_char_boundary(LONGEST)]) }
}

/// JSON as CEL sees it.
pub(crate) fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Cel::Int(integer),
            (None, Some(integer)) => Cel::UInt(integer),
            (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(elements) => Cel::List(Arc::new(elements.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (objects::Key::from(key.clone()), to_cel(value)));
            Cel::Map(objects::Map { map: Arc::new(fields.collect()) })
        }
    }
}

/// The fields of objects come sorted: CEL's maps have no order, and the same input must give the same text.
fn to_json(value: &Cel) -> Result<Value, String> {
    match value {
        Cel::Float(float) => Number::from_f64(*float)
            .map(Value::Number)
            .ok_or_else(|| format!("gives {float}, which JSON does not have")),
        Cel::List(elements) => elements.iter().map(to_json).collect(),
        Cel::Map(map) => {
            let fields = map.map.iter().map(|(key, value)| Ok((key.to_string(), to_json(value)?)));
            let mut fields = fields.collect::<Result<Vec<_>, String>>()?;
            fields.sort_by(|(left, _), (right, _)| left.cmp(right));
            Ok(Value::Object(fields.into_iter().collect::<Map<_, _>>()))
        }
        other => other.json().map_err(|_| "gives a value that JSON does not have".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expression_sees_its_variables() {
        let row = to_cel(&json!({ "mag": 5.5, "place": "Alaska" }));
        let expression = Expression::compile("row.mag >= 5.0 && row.place.startsWith('Al')").unwrap();
        assert!(expression.is_true(&[("row", &row)]).unwrap());
        let expression = Expression::compile("row.place.matches('^A.*a$')").unwrap();
        assert!(expression.is_true(&[("row", &row)]).unwrap());
        assert_eq!(Expression::compile("row.mag").unwrap().is_true(&[("row", &row)]).unwrap_err().code, "expression");
        assert_eq!(Expression::compile("rwo.mag").unwrap().evaluate(&[("row", &row)]).unwrap_err().code, "expression");
    }

    #[test]
    fn whatever_people_write_is_a_failure_and_no_panic() {
        for source in [
            "",
            "1 +",
            "((((",
            "'",
            "a.b(",
            "{",
            "\"\\",
            "1 ? 2",
            &"(".repeat(3000),
            &"1+".repeat(500),
            "[1][5]",
            "1/0",
            "x.y.z",
        ] {
            let outcome = Expression::compile(source).and_then(|expression| expression.evaluate(&[]));
            assert!(outcome.is_err(), "{source}");
        }
    }
}
