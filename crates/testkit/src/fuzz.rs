//! Input that means no good: texts, bytes and JSON of any kind, and valid ones with something broken in them.
//!
//! Tests with it are called `fuzz::…`. `TROUPE_FUZZ` says how many times as many cases each of them tries.

use proptest::{
    prelude::*,
    sample::{Index, select},
};
use serde_json::{Map, Value};

/// In the manner of the Big List of Naughty Strings: what means something elsewhere.
pub const WORDS: &[&str] = &[
    "",
    " ",
    "'; DROP TABLE agents; --",
    "1' OR '1'='1",
    "\" OR \"\"=\"",
    "1; SELECT pg_sleep(10)",
    "') UNION SELECT NULL --",
    "%' --",
    "%s%n%x",
    "\\",
    "\\'",
    "$1",
    "?",
    "*",
    "#",
    "${{ 7 * 7 }}",
    "${{",
    "{{ 7 * 7 }}",
    "{% for a in range(9) %}",
    "#{7*7}",
    "<%= 7*7 %>",
    "${jndi:ldap://127.0.0.1/a}",
    "$(touch /tmp/troupe-was-here)",
    "`id`",
    "; ls -la",
    "| cat /etc/passwd",
    "../../../../etc/passwd",
    "..",
    ".",
    "/",
    "//",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "file:///etc/passwd",
    "%2e%2e%2f",
    "%00",
    "%",
    "CON",
    "NUL",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "<!--",
    "]]>",
    "javascript:alert(1)",
    "null",
    "nil",
    "undefined",
    "true",
    "False",
    "NaN",
    "Infinity",
    "-1",
    "-0",
    "0",
    "1e309",
    "0x0",
    "1_000",
    "1,5",
    "9223372036854775808",
    "18446744073709551616",
    "2026-02-30T25:61:61Z",
    "9999-12-31T23:59:59-23:59",
    "0000-01-01T00:00:00+23:59",
    "99999999999999h",
    "__proto__",
    "constructor",
    "toString",
    "ＡＢＣ１２３",
    "ﷺ",
    "İı",
    "ß",
    "\u{1F1E9}\u{1F1EA}",
    "👩‍👩‍👧‍👦",
    "Z\u{335}a\u{301}l\u{321}go",
    "\u{202e}txt.exe",
    "\u{200b}",
    "\u{feff}",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10ffff}",
    "\u{a0}",
    "\u{2028}",
    "\u{85}",
    "a\nb",
    "a\r\nX-Evil: 1",
    "a\tb",
    "a\0b",
    "\0",
    "\u{1b}[31mred",
    "\u{7f}",
];

/// How many cases a test tries: `usual` many, times `TROUPE_FUZZ`.
///
/// # Panics
/// Where `TROUPE_FUZZ` is no number.
pub fn cases(usual: u32) -> ProptestConfig {
    let times = std::env::var("TROUPE_FUZZ").map_or(1, |times| times.parse().expect("TROUPE_FUZZ is a whole number"));
    ProptestConfig { cases: usual.saturating_mul(times), failure_persistence: None, ..ProptestConfig::default() }
}

/// Any text: such as people write, such as means something elsewhere, and very long ones.
pub fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        4 => select(WORDS).prop_map(str::to_owned),
        2 => "[ -~]{0,60}",
        2 => any::<String>(),
        1 => (select(vec!["a", "0", "\u{e9}", "(", "[", "{\"a\":", "\\", "\"", ".", "-", "%41"]), 1..3_000_usize)
            .prop_map(|(piece, times)| piece.repeat(times)),
    ]
}

/// Of a text that is valid, one that is nearly so.
pub fn nearly(valid: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (valid, prop::collection::vec(slip(), 0..3)).prop_map(|(valid, slips)| {
        let mut text: Vec<char> = valid.chars().collect();
        for slip in slips {
            slip.happen(&mut text);
        }
        text.into_iter().collect()
    })
}

/// Of bytes that are valid, such that are nearly so.
pub fn damaged(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let slip = (any::<Slip<u8>>(), any::<u8>()).prop_map(|(slip, byte)| slip.with(byte));
    (valid, prop::collection::vec(slip, 1..5)).prop_map(|(mut bytes, slips)| {
        for slip in slips {
            slip.happen(&mut bytes);
        }
        bytes
    })
}

fn slip() -> impl Strategy<Value = Slip<char>> {
    let symbol = prop_oneof![
        select("._-:;,/\\%&=?#*+~'\"()[]{}<>$@!| \t\n\r\0aZ09éİ\u{200b}".chars().collect::<Vec<_>>()),
        any::<char>()
    ];
    (any::<Slip<char>>(), symbol).prop_map(|(slip, symbol)| slip.with(symbol))
}

/// What goes wrong where something is written or kept.
#[derive(Clone, Debug)]
enum Slip<T> {
    Cut(Index),
    Drop(Index),
    Insert(Index, T),
    Replace(Index, T),
    /// A part of it comes again.
    Repeat(Index, Index),
    Swap(Index, Index),
}

impl<T: Default + Clone + std::fmt::Debug + 'static> Arbitrary for Slip<T> {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let at = any::<Index>;
        prop_oneof![
            at().prop_map(Self::Cut),
            at().prop_map(Self::Drop),
            at().prop_map(|at| Self::Insert(at, T::default())),
            at().prop_map(|at| Self::Replace(at, T::default())),
            (at(), at()).prop_map(|(from, to)| Self::Repeat(from, to)),
            (at(), at()).prop_map(|(from, to)| Self::Swap(from, to)),
        ]
        .boxed()
    }
}

impl<T: Clone> Slip<T> {
    fn with(self, symbol: T) -> Self {
        match self {
            Self::Insert(at, _) => Self::Insert(at, symbol),
            Self::Replace(at, _) => Self::Replace(at, symbol),
            other => other,
        }
    }

    fn happen(self, to: &mut Vec<T>) {
        let length = to.len();
        match self {
            Self::Cut(at) => to.truncate(at.index(length + 1)),
            Self::Insert(at, symbol) => to.insert(at.index(length + 1), symbol),
            _ if length == 0 => {}
            Self::Drop(at) => drop(to.remove(at.index(length))),
            Self::Replace(at, symbol) => to[at.index(length)] = symbol,
            Self::Repeat(one, other) => {
                let (one, other) = (one.index(length), other.index(length));
                let again = to[one.min(other)..=one.max(other)].to_vec();
                to.extend(again);
            }
            Self::Swap(one, other) => to.swap(one.index(length), other.index(length)),
        }
    }
}

/// Any JSON.
pub fn json() -> impl Strategy<Value = Value> + Clone {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2..12_i64).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..5).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// Of a document that is valid, such that have something wrong in one to three places: what is there is of another type, missing,
/// doubled, named otherwise, deeper, or what is elsewhere in it.
pub fn mutated(valid: Value) -> impl Strategy<Value = Value> {
    let mutation = prop_oneof![
        3 => json().prop_map(Mutation::Replace),
        2 => text().prop_map(|text| Mutation::Replace(text.into())),
        2 => Just(Mutation::Remove),
        1 => Just(Mutation::Repeat),
        2 => text().prop_map(Mutation::Rename),
        1 => (1..90_usize).prop_map(Mutation::Deepen),
        2 => any::<Index>().prop_map(Mutation::Copy),
    ];
    prop::collection::vec((any::<Index>(), mutation), 1..4).prop_map(move |mutations| {
        let mut document = valid.clone();
        for (at, mutation) in mutations {
            let places = places(&document);
            mutation.happen(&mut document, &places[at.index(places.len())], &places);
        }
        document
    })
}

#[derive(Clone, Debug)]
enum Mutation {
    Replace(Value),
    Remove,
    Repeat,
    Rename(String),
    Deepen(usize),
    Copy(Index),
}

impl Mutation {
    fn happen(self, document: &mut Value, at: &str, places: &[String]) {
        let found = document.pointer(at).cloned().unwrap_or_default();
        let instead = match self {
            Self::Replace(value) => value,
            Self::Deepen(levels) => (0..levels).fold(found, |inner, _| Value::Array(vec![inner])),
            Self::Copy(from) => document.pointer(&places[from.index(places.len())]).cloned().unwrap_or_default(),
            Self::Remove | Self::Repeat | Self::Rename(_) => return self.happen_around(document, at, found),
        };
        if let Some(place) = document.pointer_mut(at) {
            *place = instead;
        }
    }

    /// To what it is in.
    fn happen_around(self, document: &mut Value, at: &str, found: Value) {
        let Some((parent, key)) = at.rsplit_once('/') else { return };
        let key = key.replace("~1", "/").replace("~0", "~");
        match (document.pointer_mut(parent), self) {
            (Some(Value::Array(list)), Self::Repeat) => list.push(found),
            (Some(Value::Array(list)), _) => list.retain(|element| *element != found),
            (Some(Value::Object(fields)), Self::Rename(name)) => {
                fields.remove(&key);
                fields.insert(name, found);
            }
            (Some(Value::Object(fields)), Self::Repeat) => {
                fields.insert(format!("{key}_"), found);
            }
            (Some(Value::Object(fields)), _) => {
                fields.remove(&key);
            }
            _ => {}
        }
    }
}

/// A pointer to every part of a document, the whole of it first.
pub fn places(document: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    let inner: Vec<(String, &Value)> = match document {
        Value::Array(list) => list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        _ => Vec::new(),
    };
    for (key, value) in inner {
        found.extend(places(value).into_iter().map(|rest| format!("/{key}{rest}")));
    }
    found
}

/// Does an error that points somewhere point at what is there, or at what is missing in what is there?
pub fn is_in(document: &Value, pointer: &str) -> bool {
    let around = pointer.rsplit_once('/').map_or("", |(around, _)| around);
    document.pointer(pointer).is_some() || matches!(document.pointer(around), Some(Value::Object(_) | Value::Array(_)))
}

/// Fields as text, for a form or a query.
pub fn fields(document: &Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    document.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}
