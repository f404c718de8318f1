//! JSON values with expressions in them, and conditions.

use std::fmt::Write as _;

use domain::Payload;
use expressions::shorten;
use serde_json::Value;

use super::{Expression, Found, MAX_EXPRESSIONS, MAX_ITEMS, MAX_VALUE, Read, Scope, Visible, Wrong};
use crate::{Failure, StepIndex};

/// A JSON value with expressions in it. A text that is one lone expression keeps the expression's type; elsewhere in a text an
/// expression is filled in as text: a string as it is, anything else as JSON. `$${{` stands for a literal `${{`. The keys of
/// objects are taken as they are.
#[derive(Debug)]
pub struct Template(Node);

#[derive(Debug)]
enum Node {
    /// Without expressions: shared by all evaluations.
    Literal(Payload),
    Expression(Expression),
    Text(Vec<Part>),
    List(Vec<Node>),
    /// The keys are JSON texts already.
    Object(Vec<(Payload, Node)>),
}

#[derive(Debug)]
enum Part {
    Text(String),
    Expression(Expression),
}

impl Template {
    /// The template that always gives `payload`.
    pub(crate) fn literal(payload: Payload) -> Self {
        Self(Node::Literal(payload))
    }

    /// Compiles `value`, which stands at `pointer`. Where there are faults, what is returned must not be used.
    pub(crate) fn compile(value: &Value, pointer: &str, visible: Visible<'_>, found: &mut Found) -> Self {
        let mut pointer = pointer.to_owned();
        match compile(value, &mut pointer, visible, found) {
            Some(node) => Self(node),
            None => Self::literal(Payload::from_value(value)),
        }
    }

    /// The value with every expression evaluated; a failure has the code `expression`.
    pub fn evaluate(&self, scope: &dyn Scope) -> Result<Payload, Failure> {
        match &self.0 {
            Node::Literal(payload) => Ok(payload.clone()),
            Node::Expression(expression) => {
                let payload = expression.evaluate(scope)?;
                within_limit(payload.as_str().len())?;
                Ok(payload)
            }
            node @ (Node::Text(_) | Node::List(_) | Node::Object(_)) => {
                let mut json = String::new();
                write(node, scope, &mut json)?;
                let broken = |_| Failure::fatal("expression", "the value with its expressions filled in is not JSON");
                Payload::from_slice(json.as_bytes()).map_err(broken)
            }
        }
    }

    /// Can it evaluate to this text? One with expressions can.
    pub(crate) fn may_be(&self, text: &str) -> bool {
        match &self.0 {
            Node::Literal(payload) => payload.parse::<String>().is_ok_and(|literal| literal == text),
            Node::Expression(_) | Node::Text(_) | Node::List(_) | Node::Object(_) => true,
        }
    }

    /// Evaluated to a text: a name, a topic, a time.
    pub fn evaluate_text(&self, scope: &dyn Scope) -> Result<String, Failure> {
        let payload = self.evaluate(scope)?;
        payload.parse::<String>().map_err(|_| {
            Failure::fatal("expression", format!("a text is wanted here, not {}", shorten(payload.as_str())))
        })
    }

    /// Evaluated to a text, whatever it is: for people.
    pub(crate) fn evaluate_words(&self, scope: &dyn Scope) -> Result<String, Failure> {
        let payload = self.evaluate(scope)?;
        let as_json = |_| if payload.is_null() { String::new() } else { payload.as_str().to_owned() };
        Ok(payload.parse::<String>().unwrap_or_else(as_json))
    }

    /// Evaluated to a list: the items of a `for_each`, the options of a decision.
    pub fn evaluate_list(&self, scope: &dyn Scope) -> Result<Vec<Payload>, Failure> {
        let payload = self.evaluate(scope)?;
        let items: Vec<Payload> = payload.parse().map_err(|_| {
            let source = match &self.0 {
                Node::Expression(expression) => format!("`{}`", shorten(&expression.source)),
                Node::Literal(_) | Node::Text(_) | Node::List(_) | Node::Object(_) => "the value".to_owned(),
            };
            Failure::fatal("expression", format!("{source}: gives {}, not a list", shorten(payload.as_str())))
        })?;
        if items.len() > MAX_ITEMS {
            let message = format!("the list has {} items; at most {MAX_ITEMS} are allowed", items.len());
            return Err(Failure::fatal("too_many_items", message));
        }
        Ok(items)
    }
}

/// What is built is measured while it is built: ten thousand small expressions could name one large value.
pub(crate) fn within_limit(length: usize) -> Result<(), Failure> {
    if length <= MAX_VALUE {
        return Ok(());
    }
    let message = format!("the value is larger than {} MiB; pass a part of it, or the path of a file", MAX_VALUE >> 20);
    Err(Failure::fatal("value_too_large", message))
}

/// `None` where nothing in `value` is an expression, so that literals stay whole.
fn compile(value: &Value, pointer: &mut String, visible: Visible<'_>, found: &mut Found) -> Option<Node> {
    let length = pointer.len();
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
        Value::String(text) => compile_text(text, pointer, visible, found),
        Value::Array(elements) => {
            let nodes = elements.iter().enumerate().map(|(index, element)| {
                // Writing to a String cannot fail, here and below.
                let _ = write!(pointer, "/{index}");
                let node = compile(element, pointer, visible, found);
                pointer.truncate(length);
                node
            });
            let nodes: Vec<_> = nodes.collect();
            nodes
                .iter()
                .any(Option::is_some)
                .then(|| Node::List(nodes.into_iter().zip(elements).map(or_literal).collect()))
        }
        Value::Object(fields) => {
            let nodes = fields.iter().map(|(key, field)| {
                let _ = write!(pointer, "/{}", crate::definition::escape(key));
                let node = compile(field, pointer, visible, found);
                pointer.truncate(length);
                node
            });
            let nodes: Vec<_> = nodes.collect();
            if nodes.iter().all(Option::is_none) {
                return None;
            }
            let named = nodes.into_iter().zip(fields).map(|(node, (key, field))| {
                (Payload::from_value(&Value::String(key.clone())), or_literal((node, field)))
            });
            Some(Node::Object(named.collect()))
        }
    }
}

fn or_literal((node, value): (Option<Node>, &Value)) -> Node {
    node.unwrap_or_else(|| Node::Literal(Payload::from_value(value)))
}

fn compile_text(text: &str, pointer: &str, visible: Visible<'_>, found: &mut Found) -> Option<Node> {
    if !text.contains("${{") {
        return None;
    }
    let pieces = match split(text) {
        Ok(pieces) => pieces,
        Err(wrong) => {
            found.faults.push(pointer, wrong.code, wrong.message);
            return None;
        }
    };
    let alone = pieces.iter().all(|piece| {
        matches!(piece, Piece::Expression(_)) || matches!(piece, Piece::Text(text) if text.trim().is_empty())
    }) && pieces.iter().filter(|piece| matches!(piece, Piece::Expression(_))).count() == 1;
    let mut parts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece {
            Piece::Text(_) if alone => {}
            Piece::Text(text) => parts.push(Part::Text(text)),
            Piece::Expression(source) => {
                parts.push(Part::Expression(compile_expression(source, pointer, visible, found)?));
            }
        }
    }
    if alone && let Some(Part::Expression(expression)) = parts.pop() {
        return Some(Node::Expression(expression));
    }
    Some(Node::Text(parts))
}

fn compile_expression(source: &str, pointer: &str, visible: Visible<'_>, found: &mut Found) -> Option<Expression> {
    found.expressions += 1;
    if found.expressions > MAX_EXPRESSIONS {
        if found.expressions == MAX_EXPRESSIONS + 1 {
            found.faults.push(
                pointer,
                "too_many_expressions",
                format!("a definition has at most {MAX_EXPRESSIONS} expressions"),
            );
        }
        return None;
    }
    let mut reads: Vec<StepIndex> = Vec::new();
    let parsed = Expression::parse(source, visible, &mut reads);
    let Visible { reader, own, .. } = visible;
    found.reads.extend(reads.into_iter().map(|step| Read { pointer: pointer.to_owned(), reader, own, step }));
    match parsed {
        Ok(expression) => Some(expression),
        Err(wrongs) => {
            for wrong in wrongs {
                found.faults.push(pointer, wrong.code, wrong.message);
            }
            None
        }
    }
}

enum Piece<'a> {
    Text(String),
    Expression(&'a str),
}

/// Splits a text into what stands as it is and what stands between `${{` and `}}`.
fn split(text: &str) -> Result<Vec<Piece<'_>>, Wrong> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${{") {
        if rest[..start].ends_with('$') {
            literal.push_str(&rest[..start]);
            literal.push_str("{{");
            rest = &rest[start + 3..];
            continue;
        }
        literal.push_str(&rest[..start]);
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal)));
        }
        let inside = &rest[start + 3..];
        let end = expression_end(inside).ok_or_else(|| {
            Wrong::new("expression_invalid", "`${{` is not closed by `}}`; write `$${{` for a literal `${{`")
        })?;
        pieces.push(Piece::Expression(&inside[..end]));
        rest = &inside[end + 2..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}

/// Where the `}}` is that closes an expression: not one in a CEL text, nor one that closes two CEL maps.
fn expression_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut quote = None;
    let mut index = 0;
    while index < bytes.len() {
        match (quote, bytes[index]) {
            (Some(_), b'\\') => index += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth > 0 => depth -= 1,
            (None, b'}') if bytes.get(index + 1) == Some(&b'}') => return Some(index),
            (Some(_) | None, _) => {}
        }
        index += 1;
    }
    None
}

fn write(node: &Node, scope: &dyn Scope, json: &mut String) -> Result<(), Failure> {
    match node {
        Node::Literal(payload) => json.push_str(payload.as_str()),
        Node::Expression(expression) => json.push_str(expression.evaluate(scope)?.as_str()),
        Node::Text(parts) => {
            let mut text = String::new();
            for part in parts {
                match part {
                    Part::Text(literal) => text.push_str(literal),
                    Part::Expression(expression) => push_as_text(&mut text, &expression.evaluate(scope)?),
                }
                within_limit(text.len())?;
            }
            json.push_str(Payload::from_value(&Value::String(text)).as_str());
        }
        Node::List(nodes) => {
            for (index, node) in nodes.iter().enumerate() {
                json.push(if index == 0 { '[' } else { ',' });
                write(node, scope, json)?;
            }
            json.push(']');
        }
        Node::Object(fields) => {
            for (index, (key, node)) in fields.iter().enumerate() {
                json.push(if index == 0 { '{' } else { ',' });
                json.push_str(key.as_str());
                json.push(':');
                write(node, scope, json)?;
            }
            json.push('}');
        }
    }
    within_limit(json.len())
}

fn push_as_text(text: &mut String, value: &Payload) {
    match value.parse::<String>() {
        Ok(string) => text.push_str(&string),
        Err(_) => text.push_str(value.as_str()),
    }
}

/// An expression that gives a truth value.
#[derive(Debug)]
pub struct Condition(Truth);

#[derive(Debug)]
enum Truth {
    Constant(bool),
    Expression(Expression),
}

impl Condition {
    /// Compiles `value`: CEL with or without `${{ }}`, or a plain truth value. Where there are faults, what is returned must
    /// not be used.
    pub(crate) fn compile(value: &Value, pointer: &str, visible: Visible<'_>, found: &mut Found) -> Self {
        let refused = |found: &mut Found, code, message: &str| {
            found.faults.push(pointer, code, message);
            Self(Truth::Constant(false))
        };
        let text = match value {
            Value::Bool(constant) => return Self(Truth::Constant(*constant)),
            Value::String(text) => text.trim(),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                return refused(found, "wrong_type", "must be an expression, such as `steps.vote.output.margin < 0.2`");
            }
        };
        let source = match text.strip_prefix("${{") {
            None => text,
            Some(inside) => match expression_end(inside) {
                Some(end) if end + 2 == inside.len() => &inside[..end],
                _ => {
                    return refused(
                        found,
                        "expression_invalid",
                        "must be one expression: CEL, with or without `${{ }}` around all of it",
                    );
                }
            },
        };
        match compile_expression(source, pointer, visible, found) {
            Some(expression) => Self(Truth::Expression(expression)),
            None => Self(Truth::Constant(false)),
        }
    }

    /// Its truth; anything but a truth value is a failure with the code `expression`.
    pub fn evaluate(&self, scope: &dyn Scope) -> Result<bool, Failure> {
        match &self.0 {
            Truth::Constant(constant) => Ok(*constant),
            Truth::Expression(expression) => expression.evaluate_truth(scope),
        }
    }
}
