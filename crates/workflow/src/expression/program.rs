//! CEL, guarded: whatever people write, it neither panics nor overflows the stack nor runs for ever.
//!
//! The parsed expression is rewritten: every path in it (`steps.load.output.rows`) becomes a slot, filled from the JSON text
//! when the evaluation first reads it. So an evaluation parses only what it uses, and `has` on a path parses nothing.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, OnceLock},
};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value as Cel,
    common::{
        ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators},
        value::{CowVal, Val},
    },
    context::VariableResolver,
    extensions,
};
use domain::Payload;
use serde_json::{Map, Number, Value};

use super::{
    Scope, Visible, Wrong, meter,
    path::{Path, ROOTS, Segment, unknown_variable},
};
use crate::StepIndex;

/// Brackets within brackets; the parser and the evaluation recurse on them.
const MAX_NESTING: u16 = 24;
/// Operators, dots and brackets in one expression; a chain of them makes a tree of that depth.
pub(super) const MAX_OPERATORS: usize = 200;
/// `map`, `filter`, `all`, `exists` within each other: each multiplies the work by the length of a list.
const MAX_LOOPS: usize = 3;
/// The standard library and CEL's extensions for texts and numbers. `lists` is left out: `lists.range` makes lists of any length.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).expect("the extension is added once");
    env.add_extension(extensions::math).expect("the extension is added once");
    meter::declare(&mut env);
    Arc::new(env)
});

/// An expression that is more than a path.
#[derive(Debug)]
pub(super) struct Program {
    expression: IdedExpr,
    slots: Vec<Slot>,
}

#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Value(Path),
    /// `has(path)`.
    Exists(Path),
}

impl Program {
    pub(super) fn parse(source: &str, visible: Visible<'_>, reads: &mut Vec<StepIndex>) -> Result<Self, Vec<Wrong>> {
        let operators = source.bytes().filter(|byte| b".+-*/%<>=!&|?:([{,".contains(byte)).count();
        if operators > MAX_OPERATORS {
            let message = format!(
                "an expression has at most {MAX_OPERATORS} operators, dots and brackets; compute this in a step"
            );
            return Err(vec![Wrong::new("expression_too_complex", message)]);
        }
        let parse = || ENVIRONMENT.parser().max_recursion_depth(MAX_NESTING).parse(source);
        let invalid = |why: &str| {
            vec![Wrong::new("expression_invalid", format!("not a CEL expression: {}", super::shorten(why)))]
        };
        // The parser is known to panic on some malformed texts.
        let parsed = catch_unwind(AssertUnwindSafe(parse)).map_err(|_| invalid("the parser gave up on it"))?;
        let mut expression = parsed
            .map_err(|errors| invalid(errors.errors.first().map_or("it does not parse", |error| error.msg.as_str())))?;
        let mut rewrite = Rewrite { visible, slots: Vec::new(), bound: Vec::new(), loops: 0, wrongs: Vec::new() };
        rewrite.visit(&mut expression);
        let Rewrite { slots, wrongs, .. } = rewrite;
        let paths = slots.iter().map(|slot| match slot {
            Slot::Value(path) | Slot::Exists(path) => path,
        });
        reads.extend(paths.filter_map(Path::step));
        if wrongs.is_empty() { Ok(Self { expression, slots }) } else { Err(wrongs) }
    }

    pub(super) fn evaluate(&self, scope: &dyn Scope) -> Result<Value, String> {
        let index = scope.item().map(|(_, index)| index);
        let mut values = Values { slots: Vec::with_capacity(self.slots.len()) };
        for slot in &self.slots {
            let (Slot::Value(path) | Slot::Exists(path)) = slot;
            values.slots.push(Filled { slot, whole: path.whole(scope)?, index, value: OnceLock::new() });
        }
        meter::refill();
        let evaluate = || {
            let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
            context.set_variable_resolver(&values);
            Cel::resolve(&self.expression, &context)
        };
        // The evaluator is not ours; a panic in it must fail the step, not the shard.
        let result = catch_unwind(AssertUnwindSafe(evaluate)).map_err(|_| "it cannot be evaluated".to_owned())?;
        if meter::is_exhausted() {
            return Err(meter::EXHAUSTED.to_owned());
        }
        match result {
            Ok(value) => to_json(&value),
            Err(ExecutionError::UndeclaredReference(name)) => Err(values.explain(&name)),
            Err(error) => Err(super::shorten(error)),
        }
    }
}

/// The slots of one evaluation.
struct Values<'a> {
    slots: Vec<Filled<'a>>,
}

struct Filled<'a> {
    slot: &'a Slot,
    /// Absent where the step has no output.
    whole: Option<Payload>,
    /// The number of the `for_each` instance.
    index: Option<u32>,
    /// Looked up when first read; an error says what is missing.
    value: OnceLock<Result<Box<dyn Val>, String>>,
}

impl Filled<'_> {
    fn value(&self) -> &Result<Box<dyn Val>, String> {
        self.value.get_or_init(|| {
            let value = match (self.slot, &self.whole) {
                (Slot::Exists(path), whole) => {
                    Cel::Bool(whole.as_ref().is_some_and(|whole| path.descend(whole, self.index).is_ok()))
                }
                (Slot::Value(_), None) => Cel::Null,
                (Slot::Value(path), Some(whole)) => {
                    let text = path.descend(whole, self.index)?;
                    from_json(serde_json::from_str(text).map_err(|error| error.to_string())?)
                }
            };
            let value: Box<dyn Val> = value.try_into().map_err(|error: ExecutionError| super::shorten(error))?;
            meter::spend_for_data(value.as_ref()).map_err(super::shorten)?;
            Ok(value)
        })
    }
}

impl Values<'_> {
    fn slot(&self, name: &str) -> Option<&Filled<'_>> {
        self.slots.get(name.strip_prefix('$')?.parse::<usize>().ok()?)
    }

    /// Why a name has no value.
    fn explain(&self, name: &str) -> String {
        match self.slot(name).map(Filled::value) {
            Some(Err(why)) => why.clone(),
            Some(Ok(_)) | None => format!("there is no `{name}`"),
        }
    }
}

impl VariableResolver for Values<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        self.slot(variable)?.value().as_ref().ok().map(|value| CowVal::Borrowed(value.as_ref()))
    }
}

/// Puts slots in the place of paths, and finds what is wrong on the way.
struct Rewrite<'a> {
    visible: Visible<'a>,
    slots: Vec<Slot>,
    /// Names that `map` and its like bring in; they hide ours.
    bound: Vec<String>,
    loops: usize,
    wrongs: Vec<Wrong>,
}

impl Rewrite<'_> {
    fn visit(&mut self, node: &mut IdedExpr) {
        if let Some((exists, root, segments)) = self.path(&node.expr) {
            match Path::resolve(&root, segments, self.visible) {
                Ok(path) => node.expr = self.slot(if exists { Slot::Exists(path) } else { Slot::Value(path) }),
                Err(wrong) => self.wrongs.push(wrong),
            }
            return;
        }
        match &mut node.expr {
            Expr::Unspecified => {
                self.wrongs.push(Wrong::new("expression_invalid", "not a CEL expression: a part of it is missing"));
            }
            Expr::Literal(_) => {}
            Expr::Ident(name) => self.check_name(name),
            Expr::Select(select) => self.visit(&mut select.operand),
            Expr::Call(call) => self.visit_call(call),
            Expr::List(list) => list.elements.iter_mut().for_each(|element| self.visit(element)),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.visit(&mut entry.key);
                        self.visit(&mut entry.value);
                    }
                }
            }
            Expr::Struct(made) => {
                let message = format!("there is no type `{}`; write a map: `{{\"key\": value}}`", made.type_name);
                self.wrongs.push(Wrong::new("expression_invalid", message));
            }
            Expr::Comprehension(comprehension) => self.visit_loop(comprehension),
        }
        meter::guard(&mut node.expr);
    }

    fn visit_loop(&mut self, comprehension: &mut ComprehensionExpr) {
        self.visit(&mut comprehension.iter_range);
        self.visit(&mut comprehension.accu_init);
        let outer = self.bound.len();
        self.bound.push(comprehension.accu_var.clone());
        self.bound.push(comprehension.iter_var.clone());
        self.bound.extend(comprehension.iter_var2.clone());
        self.loops += 1;
        if self.loops == MAX_LOOPS + 1 {
            let message = format!("at most {MAX_LOOPS} of map, filter, all and exists can be within each other");
            self.wrongs.push(Wrong::new("expression_too_complex", message));
        }
        self.visit(&mut comprehension.loop_cond);
        self.visit(&mut comprehension.loop_step);
        self.visit(&mut comprehension.result);
        self.loops -= 1;
        self.bound.truncate(outer);
    }

    fn visit_call(&mut self, call: &mut CallExpr) {
        let namespace = call.target.as_deref().is_some_and(|target| self.is_namespace(target));
        let operands = call.args.len() + usize::from(call.target.is_some());
        match meter::replacement(&call.func_name, operands) {
            Some(own) if !namespace => {
                call.func_name = own.to_owned();
                call.args.splice(..0, call.target.take().map(|target| *target));
            }
            _ => self.check_function(call, namespace),
        }
        if let Some(target) = call.target.as_mut().filter(|_| !namespace) {
            self.visit(target);
        }
        call.args.iter_mut().for_each(|argument| self.visit(argument));
    }

    fn is_namespace(&self, target: &IdedExpr) -> bool {
        meter::is_namespace(target) && !matches!(&target.expr, Expr::Ident(name) if self.bound.contains(name))
    }

    /// Functions are known beforehand: called without arguments, an unknown one answers differently from a known one.
    fn check_function(&mut self, call: &CallExpr, namespace: bool) {
        let name = &call.func_name;
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return;
        }
        let mut probe = call.clone();
        if let Some(target) = probe.target.as_deref_mut().filter(|_| !namespace) {
            target.expr = Expr::Literal(LiteralValue::Null);
        }
        probe.args.clear();
        let context = Context::with_env(Arc::clone(&ENVIRONMENT));
        let probe = IdedExpr { id: 0, expr: Expr::Call(probe) };
        let answer = catch_unwind(AssertUnwindSafe(|| Cel::resolve(&probe, &context)));
        if let Ok(Err(ExecutionError::UndeclaredReference(_))) = answer {
            let message = format!("there is no function `{name}` that is called like this");
            self.wrongs.push(Wrong::new("unknown_function", message));
        }
    }

    fn check_name(&mut self, name: &str) {
        const TYPES: [&str; 12] = [
            "bool",
            "bytes",
            "double",
            "dyn",
            "int",
            "list",
            "map",
            "null_type",
            "optional_type",
            "string",
            "type",
            "uint",
        ];
        if !self.bound.iter().any(|bound| bound == name) && !TYPES.contains(&name) {
            self.wrongs.push(unknown_variable(name));
        }
    }

    /// The whole of `expr` as a path from one of our variables, with whether it stands in `has`.
    fn path(&self, expr: &Expr) -> Option<(bool, String, Vec<Segment>)> {
        let exists = matches!(expr, Expr::Select(select) if select.test);
        let mut segments = Vec::new();
        let mut node = expr;
        loop {
            match node {
                Expr::Ident(name) if ROOTS.contains(&name.as_str()) && !self.bound.contains(name) => {
                    segments.reverse();
                    return Some((exists, name.clone(), segments));
                }
                Expr::Select(select) if !select.test || std::ptr::eq(node, expr) => {
                    segments.push(Segment::Field(select.field.clone()));
                    node = &select.operand.expr;
                }
                Expr::Call(call) if call.func_name == operators::INDEX => {
                    let [operand, index] = call.args.as_slice() else { return None };
                    segments.push(self.segment(&index.expr)?);
                    node = &operand.expr;
                }
                Expr::Unspecified
                | Expr::Call(_)
                | Expr::Comprehension(_)
                | Expr::Ident(_)
                | Expr::List(_)
                | Expr::Literal(_)
                | Expr::Map(_)
                | Expr::Select(_)
                | Expr::Struct(_) => return None,
            }
        }
    }

    fn segment(&self, index: &Expr) -> Option<Segment> {
        match index {
            Expr::Literal(LiteralValue::String(text)) => Some(Segment::Field(text.inner().to_owned())),
            Expr::Literal(LiteralValue::Int(number)) => usize::try_from(*number.inner()).ok().map(Segment::Element),
            Expr::Ident(name) if name == "index" && !self.bound.contains(name) => Some(Segment::Index),
            _ => None,
        }
    }

    fn slot(&mut self, slot: Slot) -> Expr {
        let index = self.slots.iter().position(|known| *known == slot).unwrap_or_else(|| {
            self.slots.push(slot);
            self.slots.len() - 1
        });
        // No name that people can write.
        Expr::Ident(format!("${index}"))
    }
}

fn from_json(value: Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Cel::Int(integer),
            (None, Some(integer)) => Cel::UInt(integer),
            (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text)),
        Value::Array(elements) => Cel::List(Arc::new(elements.into_iter().map(from_json).collect())),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (cel::objects::Key::from(key), from_json(value)));
            Cel::Map(cel::objects::Map { map: Arc::new(fields.collect()) })
        }
    }
}

/// The fields of objects come sorted: CEL's maps have no order, and the same input must give the same text.
fn to_json(value: &Cel) -> Result<Value, String> {
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
            .map_err(|_| format!("gives {}, which JSON does not have", super::shorten(format_args!("{other:?}")))),
    }
}
