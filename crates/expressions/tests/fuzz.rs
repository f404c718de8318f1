//! What anybody may write as an expression: whatever it is, it ends, and it asks for no more than it may.

use allocation_counter::{AllocationInfo, measure};
use expressions::{Cel, MAX_LENGTH, Names, Program, Values, Wrong, ast::Expr, to_cel};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use testkit::fuzz::{cases, nearly, text};

/// The most that one expression has at once, in bytes, whatever it says: far less than a machine has.
const MOST_BYTES: u64 = 96 << 20;
/// How often it asks for memory in all: what it does costs time in proportion.
const MOST_TIMES: u64 = 6_000_000;

/// Every name is one value.
struct Slot(Vec<String>);

impl Names for Slot {
    fn slot(&mut self, expr: &Expr, _: &[String]) -> Result<Option<usize>, Wrong> {
        let Expr::Ident(name) = expr else { return Ok(None) };
        let known = self.0.iter().position(|known| known == name);
        Ok(Some(known.unwrap_or_else(|| {
            self.0.push(name.clone());
            self.0.len() - 1
        })))
    }
}

struct Data(Vec<String>);

impl Values for Data {
    fn value(&self, slot: usize) -> Result<Cel, String> {
        let rows: Vec<_> =
            (0..200).map(|n| json!({ "n": n, "name": format!("row {n}"), "tags": ["a", "b"] })).collect();
        match self.0[slot].as_str() {
            "rows" => Ok(to_cel(Value::from(rows))),
            "few" => Ok(to_cel(json!((0..100).collect::<Vec<_>>()))),
            "text" => Ok(to_cel(Value::from("a".repeat(20_000)))),
            "row" => Ok(to_cel(json!({ "a": 1, "b": "x", "c": null, "d": [1.5, -1], "e": true }))),
            name => Err(format!("there is no `{name}`")),
        }
    }
}

/// Its value, or why it has none; and what it has asked for.
fn evaluated(source: &str) -> (Result<Value, String>, AllocationInfo) {
    let mut answer = Err(String::new());
    let asked = measure(|| {
        let mut names = Slot(Vec::new());
        answer = Program::parse(source, &mut names)
            .map_err(|wrongs| wrongs.iter().map(|wrong| wrong.message.as_str()).collect::<Vec<_>>().join("; "))
            .and_then(|program| program.evaluate(&Data(names.0)));
    });
    (answer, asked)
}

#[track_caller]
fn is_bounded(source: &str) -> Result<Value, String> {
    let (answer, asked) = evaluated(source);
    let shown: String = source.chars().take(120).collect();
    assert!(asked.bytes_max < MOST_BYTES && asked.count_total < MOST_TIMES, "{shown}: {asked:?}");
    if let Err(why) = &answer {
        assert!(!why.is_empty() && why.len() < 60_000, "{shown}: {} bytes of words", why.len());
    }
    answer
}

/// Each as long as an expression can be.
fn filled(first: &str, piece: &str, last: &str) -> String {
    let room = MAX_LENGTH.saturating_sub(first.len() + last.len());
    format!("{first}{}{last}", piece.repeat(room / piece.len()))
}

#[test]
fn the_worst_that_is_known_ends() {
    let nested = |open: &str, close: &str| {
        let times = MAX_LENGTH / (open.len() + close.len()) - 1;
        format!("{}1{}", open.repeat(times), close.repeat(times))
    };
    let twice = (0..12).fold("'ab'".to_owned(), |inner, _| format!("({inner}).replace('a', 'aa')"));
    let worst = [
        filled("1", " in 1", ""),
        filled("1", " in [1]", ""),
        filled("!", "!", "true"),
        filled("", "- ", "1"),
        filled("1", "+1", ""),
        filled("true", "||true", ""),
        filled("true", "?true:true", ""),
        filled("row", ".a", ""),
        filled("row", "[0]", ""),
        filled("row", ".?a", ""),
        filled("'", "\\u00e9", "'"),
        filled("b'", "\\377", "'"),
        filled("'''", "\n", "'''"),
        filled("//", "a", ""),
        filled("1 ", "// a\n", ""),
        filled("row.a(", "row,", "row)"),
        filled("[", "1,", "1]"),
        filled("{", "1:1,", "1:1}"),
        filled("a{", "b:1,", "b:1}"),
        filled("", "a ", ""),
        filled("", "(", ""),
        filled("", "\"", ""),
        filled("0x", "f", ""),
        filled("1e", "9", ""),
        filled("", "9", "u"),
        nested("(", ")"),
        nested("[", "]"),
        nested("{1:", "}"),
        nested("size(", ")"),
        nested("row[", "]"),
        nested("(true?", ":1)"),
        nested("f(", ")"),
        nested("[1].map(a,", ")"),
        nested("[1].exists(a,a in ", ")"),
        twice,
        "few.map(a, few.map(b, few.map(c, text)))".to_owned(),
        "few.map(a, few.map(b, text + text)).size()".to_owned(),
        "rows.filter(a, rows.exists(b, rows == rows)).size()".to_owned(),
        "text.matches('(a*)*b') || text.matches('(a|aa)+$') || text.matches('(.*)(.*)(.*)(.*)(.*)x')".to_owned(),
        "text.matches('((a{100}){100}){100}')".to_owned(),
        "text.matches('(?:a?){1000}a{1000}')".to_owned(),
        "text.matches('[\\\\p{L}\\\\p{M}]{1000}')".to_owned(),
        "text.matches(text)".to_owned(),
        "'x'.matches('(((((((((((((((((((((((((((((((((((((((((((((((((((((((((')".to_owned(),
        "text.split('').map(a, text.split('')).size()".to_owned(),
        "few.map(a, '%s %s %s'.format([text, text, rows])).join(text)".to_owned(),
        "text.replace('a', text)".to_owned(),
        "text.replace('', text)".to_owned(),
        "'%1000000000d'.format([1])".to_owned(),
        "'%.1000000000f'.format([1.0])".to_owned(),
        "'%.1000000000e'.format([1.0])".to_owned(),
        "few.map(a, timestamp('2026-01-01T00:00:00Z') + duration('1h')).size()".to_owned(),
        "duration('99999999999999999999h')".to_owned(),
        "timestamp('9999-12-31T23:59:59Z') + duration('9223372036s') + duration('9223372036s')".to_owned(),
        "timestamp('0001-01-01T00:00:00Z') - duration('9223372036s')".to_owned(),
        "-9223372036854775808 / -1".to_owned(),
        "-9223372036854775808 % -1".to_owned(),
        "9223372036854775807 + 1".to_owned(),
        "1 / 0 + 1 % 0".to_owned(),
        "int(1e300) + int('9223372036854775808') + uint(-1)".to_owned(),
        "'\u{e9}\u{e9}'.substring(1, 1000000000000)".to_owned(),
        "'\u{e9}\u{e9}'.charAt(-1) + 'a'.charAt(9223372036854775807)".to_owned(),
        "'ab'.substring(2, 1)".to_owned(),
        "text.lastIndexOf(text, -9223372036854775808)".to_owned(),
        "[1][9223372036854775807] + [1][-1]".to_owned(),
        "math.bitShiftLeft(1, 9223372036854775807) + math.bitShiftRight(1, -1)".to_owned(),
        "math.abs(-9223372036854775808)".to_owned(),
        "math.round(1e308 * 10.0) + math.sqrt(-1.0)".to_owned(),
        "bytes(text) == b'a' || string(b'\\377') == ''".to_owned(),
        "{1: 1, 1: 2, 1u: 3, 1.0: 4, '1': 5, true: 6}".to_owned(),
        "{null: 1}".to_owned(),
        "dyn(rows).map(a, dyn(a)).map(a, type(a)).size()".to_owned(),
    ];
    for source in worst {
        let _ = is_bounded(&source);
    }
    // One byte more is not even looked at.
    assert!(is_bounded(&" ".repeat(MAX_LENGTH + 1)).is_err());
}

/// An expression of CEL, most of them with a meaning.
fn expression() -> impl Strategy<Value = String> {
    let leaf = select(vec![
        "1",
        "-1",
        "0",
        "2u",
        "1.5",
        "'a'",
        "\"b\"",
        "b'c'",
        "r'\\d'",
        "true",
        "null",
        "[]",
        "{}",
        "row",
        "rows",
        "few",
        "text",
        "x",
        "row.a",
        "row.b",
        "row.d[0]",
        "9223372036854775807",
        "'^(a|b)+$'",
        "duration('1s')",
        "''",
        "' '",
        "timestamp('2026-01-01T00:00:00Z')",
        "int",
        "type(1)",
        "optional.of(1)",
        "optional.none()",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = select(vec![
            "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", " in ", ".", ",", ":", " ",
        ]);
        let unary = select(vec![
            "size",
            "string",
            "int",
            "uint",
            "double",
            "bool",
            "bytes",
            "type",
            "has",
            "dyn",
            "duration",
            "timestamp",
            "!",
            "-",
            "math.abs",
            "math.ceil",
            "math.greatest",
            "optional.of",
            "nothing",
        ]);
        let method = select(vec![
            "size",
            "contains",
            "startsWith",
            "endsWith",
            "matches",
            "split",
            "join",
            "replace",
            "substring",
            "charAt",
            "indexOf",
            "lastIndexOf",
            "lowerAscii",
            "upperAscii",
            "trim",
            "reverse",
            "format",
            "getFullYear",
            "orValue",
            "hasValue",
            "value",
            "nothing",
        ]);
        let over = select(vec!["map", "filter", "all", "exists", "exists_one"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone())
                .prop_map(|(left, operator, right)| format!("({left}{operator}{right})")),
            (unary, inner.clone()).prop_map(|(function, of)| format!("{function}({of})")),
            (inner.clone(), method, prop::collection::vec(inner.clone(), 0..3))
                .prop_map(|(of, method, with)| format!("{of}.{method}({})", with.join(", "))),
            (inner.clone(), over, inner.clone()).prop_map(|(of, over, each)| format!("{of}.{over}(x, {each})")),
            (inner.clone(), inner.clone()).prop_map(|(of, at)| format!("{of}[{at}]")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(when, yes, no)| format!("({when} ? {yes} : {no})")),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(", "))),
            (inner.clone(), inner).prop_map(|(key, value)| format!("{{{key}: {value}}}")),
        ]
    })
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn any_expression_ends_within_what_it_may_spend(source in prop_oneof![1 => text(), 3 => expression(), 2 => nearly(expression())]) {
        let _ = is_bounded(&source);
    }
}

#[test]
fn what_is_read_from_outside_is_read() {
    assert_eq!(is_bounded("row.a + size(rows)").unwrap(), 201);
}
