//! Parsing, rewriting and evaluating.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, OnceLock},
};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value as Cel,
    common::{
        ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue},
        value::{CowVal, Val},
    },
    context::VariableResolver,
    extensions,
};
use serde_json::Value;

use crate::{Wrong, json::to_json, meter, shorten};

/// The longest expression, in bytes. Those that people write have a few dozen.
pub const MAX_LENGTH: usize = 4096;
/// Brackets within brackets; the parser and the evaluation recurse on them.
const MAX_NESTING: u16 = 24;
/// Operators, dots and brackets in one expression; a chain of them makes a tree of that depth.
pub(crate) const MAX_OPERATORS: usize = 200;
/// `map`, `filter`, `all`, `exists` within each other: each multiplies the work by the length of a list.
const MAX_LOOPS: usize = 3;
/// Names of types, which are values too.
const TYPES: [&str; 12] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "optional_type", "string", "type", "uint"];
/// The standard library and CEL's extensions for texts and numbers. `lists` is left out: `lists.range` makes lists of any length.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).expect("the extension is added once");
    env.add_extension(extensions::math).expect("the extension is added once");
    meter::declare(&mut env);
    Arc::new(env)
});

/// What the names in an expression stand for.
pub trait Names {
    /// The number of the slot from which `expr` is read as a whole; none where it is no name from outside, and what is in it is
    /// asked for in turn. `bound` are the names that `map` and its like have brought in, which hide those from outside; a name
    /// alone that is bound, or a type, is not asked for.
    ///
    /// # Errors
    /// What is wrong with the name.
    fn slot(&mut self, expr: &Expr, bound: &[String]) -> Result<Option<usize>, Wrong>;
}

/// What the slots of an expression hold in one evaluation.
pub trait Values: Send + Sync {
    /// Asked at most once for each slot, when it is first read.
    ///
    /// # Errors
    /// Why there is no value.
    fn value(&self, slot: usize) -> Result<Cel, String>;
}

/// A parsed expression. What it reads from outside has become slots, so that an evaluation makes only what it uses.
#[derive(Debug)]
pub struct Program {
    expression: IdedExpr,
    /// One more than the highest slot.
    slots: usize,
}

impl Program {
    /// Parses `source`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(source: &str, names: &mut dyn Names) -> Result<Self, Vec<Wrong>> {
        if source.len() > MAX_LENGTH {
            let message = format!("an expression has at most {MAX_LENGTH} bytes, not {}", source.len());
            return Err(vec![Wrong::new("expression_too_long", message)]);
        }
        let operators = source.bytes().filter(|byte| b".+-*/%<>=!&|?:([{,".contains(byte)).count();
        if operators > MAX_OPERATORS {
            let message = format!("an expression has at most {MAX_OPERATORS} operators, dots and brackets");
            return Err(vec![Wrong::new("expression_too_complex", message)]);
        }
        let parse = || ENVIRONMENT.parser().max_recursion_depth(MAX_NESTING).parse(source);
        let invalid =
            |why: &str| vec![Wrong::new("expression_invalid", format!("not a CEL expression: {}", shorten(why)))];
        // The parser is known to panic on some malformed texts.
        let parsed = catch_unwind(AssertUnwindSafe(parse)).map_err(|_| invalid("the parser gave up on it"))?;
        let mut expression = parsed
            .map_err(|errors| invalid(errors.errors.first().map_or("it does not parse", |error| error.msg.as_str())))?;
        let mut rewrite = Rewrite { names, slots: 0, bound: Vec::new(), loops: 0, wrongs: Vec::new() };
        rewrite.visit(&mut expression);
        let Rewrite { slots, wrongs, .. } = rewrite;
        if wrongs.is_empty() { Ok(Self { expression, slots }) } else { Err(wrongs) }
    }

    /// Its value.
    ///
    /// # Errors
    /// Why it has none, for people: something is missing, does not fit, or costs too much.
    pub fn evaluate(&self, values: &dyn Values) -> Result<Value, String> {
        let slots = Slots { values, filled: (0..self.slots).map(|_| OnceLock::new()).collect() };
        meter::refill();
        let evaluate = || {
            let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
            context.set_variable_resolver(&slots);
            Cel::resolve(&self.expression, &context)
        };
        // The evaluator is not ours; a panic in it must fail what asked for it, not the process.
        let result = catch_unwind(AssertUnwindSafe(evaluate)).map_err(|_| "it cannot be evaluated".to_owned())?;
        if meter::is_exhausted() {
            return Err(meter::EXHAUSTED.to_owned());
        }
        match result {
            Ok(value) => to_json(&value),
            Err(ExecutionError::UndeclaredReference(name)) => Err(slots.explain(&name)),
            Err(error) => Err(shorten(error)),
        }
    }
}

/// A value, or why there is none.
type Filled = Result<Box<dyn Val>, String>;

/// The slots of one evaluation.
struct Slots<'a> {
    values: &'a dyn Values,
    /// Filled when first read; an error says what is missing.
    filled: Box<[OnceLock<Filled>]>,
}

impl Slots<'_> {
    fn get(&self, name: &str) -> Option<&Filled> {
        let slot: usize = name.strip_prefix('$')?.parse().ok()?;
        Some(self.filled.get(slot)?.get_or_init(|| {
            let value: Box<dyn Val> =
                self.values.value(slot)?.try_into().map_err(|error: ExecutionError| shorten(error))?;
            meter::spend_for_data(value.as_ref()).map_err(shorten)?;
            Ok(value)
        }))
    }

    /// Why a name has no value.
    fn explain(&self, name: &str) -> String {
        match self.get(name) {
            Some(Err(why)) => why.clone(),
            Some(Ok(_)) | None => format!("there is no `{name}`"),
        }
    }
}

impl VariableResolver for Slots<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        self.get(variable)?.as_ref().ok().map(|value| CowVal::Borrowed(value.as_ref()))
    }
}

/// Puts slots in the place of what is read from outside, and finds what is wrong on the way.
struct Rewrite<'a> {
    names: &'a mut dyn Names,
    slots: usize,
    /// Names that `map` and its like bring in; they hide ours.
    bound: Vec<String>,
    loops: usize,
    wrongs: Vec<Wrong>,
}

impl Rewrite<'_> {
    fn visit(&mut self, node: &mut IdedExpr) {
        if matches!(&node.expr, Expr::Ident(name) if self.bound.contains(name) || TYPES.contains(&name.as_str())) {
            return;
        }
        match self.names.slot(&node.expr, &self.bound) {
            Ok(Some(slot)) => {
                self.slots = self.slots.max(slot + 1);
                // No name that people can write.
                node.expr = Expr::Ident(format!("${slot}"));
                return;
            }
            Ok(None) => {}
            Err(wrong) => {
                self.wrongs.push(wrong);
                return;
            }
        }
        match &mut node.expr {
            Expr::Unspecified => {
                self.wrongs.push(Wrong::new("expression_invalid", "not a CEL expression: a part of it is missing"));
            }
            Expr::Literal(_) | Expr::Ident(_) => {}
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
}
