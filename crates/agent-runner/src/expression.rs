//! CEL for row logic and rules: compiled once per task, evaluated per row. The variables are whole values under a name.

use agent_sdk::Failure;
use expressions::{Cel, Names, Program, Values, Wrong, ast::Expr, shorten};
use serde_json::Value;

/// JSON as an expression sees it.
pub(crate) fn to_cel(value: &Value) -> Cel {
    expressions::to_cel(value.clone())
}

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Expression {
    source: String,
    program: Program,
    variables: Vec<String>,
}

impl Expression {
    /// Compiles `source`; the text says what is wrong with it.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        let mut names = Variables(Vec::new());
        match Program::parse(source, &mut names) {
            Ok(program) => Ok(Self { source: source.to_owned(), program, variables: names.0 }),
            Err(wrongs) => {
                let why = wrongs.first().map_or("it cannot be used", |wrong| wrong.message.as_str());
                Err(format!("`{}`: {why}", shorten(source)))
            }
        }
    }

    /// Compiles `source`. Failure: `invalid_expression`.
    pub(crate) fn compile(source: &str) -> Result<Self, Failure> {
        Self::parse(source).map_err(|why| Failure::fatal("invalid_expression", why))
    }

    /// Its value with these variables. Failure: `expression`, not retryable.
    pub(crate) fn evaluate(&self, variables: &[(&str, &Cel)]) -> Result<Value, Failure> {
        self.program.evaluate(&Bound { names: &self.variables, variables }).map_err(|why| self.failure(&why))
    }

    /// Its truth; anything but true or false is a failure too.
    pub(crate) fn is_true(&self, variables: &[(&str, &Cel)]) -> Result<bool, Failure> {
        let value = self.evaluate(variables)?;
        value.as_bool().ok_or_else(|| self.failure(&format!("gives {}, not true or false", shorten(&value))))
    }

    fn failure(&self, why: &str) -> Failure {
        Failure::fatal("expression", format!("`{}`: {why}", shorten(&self.source)))
    }
}

/// The variables of an expression, in the order of their slots.
struct Variables(Vec<String>);

impl Names for Variables {
    fn slot(&mut self, expr: &Expr, _: &[String]) -> Result<Option<usize>, Wrong> {
        let Expr::Ident(name) = expr else { return Ok(None) };
        Ok(Some(self.0.iter().position(|known| known == name).unwrap_or_else(|| {
            self.0.push(name.clone());
            self.0.len() - 1
        })))
    }
}

/// The values of the variables of an expression.
struct Bound<'a> {
    /// By slot.
    names: &'a [String],
    variables: &'a [(&'a str, &'a Cel)],
}

impl Values for Bound<'_> {
    fn value(&self, slot: usize) -> Result<Cel, String> {
        let name = &self.names[slot];
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| (*value).clone()).ok_or_else(|| {
            let known: Vec<_> = self.variables.iter().map(|(known, _)| format!("`{known}`")).collect();
            format!("there is no `{name}`; it sees {}", known.join(", "))
        })
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

    #[test]
    fn a_row_costs_no_more_than_a_moment() {
        let row = to_cel(&json!({ "few": [vec![1; 200], vec![2; 200]], "text": "a".repeat(100_000) }));
        let expression =
            Expression::compile("row.few.all(x, x.all(y, row.text.replace('a', row.text) != ''))").unwrap();
        let failure = expression.is_true(&[("row", &row)]).unwrap_err();
        assert!(failure.message.contains("too much time or memory"), "{}", failure.message);
        assert!(Expression::compile("row.all(a, row.all(b, row.all(c, row.all(d, true))))").is_err());
    }
}
