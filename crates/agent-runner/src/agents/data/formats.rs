//! Rows as files.

use agent_sdk::Failure;
use serde_json::{Number, Value};

use super::Row;

/// How rows are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Json,
    Jsonl,
}

impl Format {
    pub(super) const ALL: [Self; 3] = [Self::Csv, Self::Json, Self::Jsonl];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
        }
    }
}

/// What a file holds.
#[derive(Debug, PartialEq)]
pub(super) enum Decoded {
    Rows(Vec<Row>),
    /// A JSON document, or a part of one, that is no list of objects.
    Value(Value),
}

fn invalid(format: Format, why: impl std::fmt::Display) -> Failure {
    Failure::fatal("invalid_file", format!("the file is not {}: {why}", format.as_str().to_uppercase()))
}

/// Rows from a file's content. Failure: `invalid_file`, with the line.
pub(super) fn decode(
    format: Format,
    content: &[u8],
    pointer: &str,
    delimiter: Option<char>,
) -> Result<Decoded, Failure> {
    if format != Format::Json && !pointer.is_empty() {
        return Err(Failure::invalid_input("`pointer` means something for JSON only"));
    }
    match format {
        Format::Csv => decode_csv(content, delimiter).map(Decoded::Rows),
        Format::Json => {
            let mut document: Value = serde_json::from_slice(content).map_err(|error| invalid(format, error))?;
            let part = document.pointer_mut(pointer).map(Value::take);
            let part = part.ok_or_else(|| {
                Failure::invalid_input(format!("there is nothing at the pointer {pointer:?} in the file"))
            })?;
            Ok(match part {
                Value::Array(elements) if elements.iter().all(Value::is_object) => {
                    Decoded::Rows(elements.into_iter().filter_map(into_row).collect())
                }
                other => Decoded::Value(other),
            })
        }
        Format::Jsonl => {
            let text = std::str::from_utf8(content).map_err(|error| invalid(format, error))?;
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            let row = |(index, line)| {
                serde_json::from_str(line).map_err(|error| invalid(format, format_args!("line {}: {error}", index + 1)))
            };
            lines.map(row).collect::<Result<_, _>>().map(Decoded::Rows)
        }
    }
}

fn into_row(value: Value) -> Option<Row> {
    match value {
        Value::Object(row) => Some(row),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

fn byte(delimiter: Option<char>) -> Result<u8, Failure> {
    let delimiter = delimiter.unwrap_or(',');
    u8::try_from(delimiter)
        .map_err(|_| Failure::invalid_input(format!("the delimiter {delimiter:?} must be an ASCII character")))
}

fn decode_csv(content: &[u8], delimiter: Option<char>) -> Result<Vec<Row>, Failure> {
    // A byte order mark is no part of the first column's name.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut reader = csv::ReaderBuilder::new().delimiter(byte(delimiter)?).from_reader(content);
    let headers = reader.headers().map_err(|error| invalid(Format::Csv, error))?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| invalid(Format::Csv, error))?;
        rows.push(headers.iter().zip(&record).map(|(name, text)| (name.to_owned(), infer(text))).collect());
    }
    Ok(rows)
}

/// A number or a truth value only where its text would read back the same: `007` stays a text. Empty is null.
fn infer(text: &str) -> Value {
    match text {
        "" => return Value::Null,
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(integer) = text.parse::<i64>()
        && integer.to_string() == text
    {
        return integer.into();
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && digits.contains('.');
    let leading = digits.starts_with("0.") || digits.starts_with(|first: char| ('1'..='9').contains(&first));
    let number = if plain && leading { text.parse().ok().and_then(Number::from_f64) } else { None };
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// A file's content from rows.
pub(super) fn encode(format: Format, rows: &[Row], delimiter: Option<char>) -> Result<Vec<u8>, Failure> {
    let broken = |error: serde_json::Error| Failure::fatal("invalid_output", error.to_string());
    match format {
        Format::Csv => encode_csv(rows, delimiter),
        Format::Json => serde_json::to_vec_pretty(rows).map_err(broken),
        Format::Jsonl => {
            let mut content = Vec::new();
            for row in rows {
                serde_json::to_writer(&mut content, row).map_err(broken)?;
                content.push(b'\n');
            }
            Ok(content)
        }
    }
}

/// The columns are all fields of all rows, in the order in which they first appear.
fn encode_csv(rows: &[Row], delimiter: Option<char>) -> Result<Vec<u8>, Failure> {
    let mut columns: Vec<&str> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for name in rows.iter().flat_map(Row::keys) {
        if seen.insert(name.as_str()) {
            columns.push(name);
        }
    }
    let broken = |error: csv::Error| Failure::fatal("invalid_output", error.to_string());
    let mut writer = csv::WriterBuilder::new().delimiter(byte(delimiter)?).from_writer(Vec::new());
    if !columns.is_empty() {
        writer.write_record(&columns).map_err(broken)?;
    }
    for row in rows {
        let record = columns.iter().map(|column| match row.get(*column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        });
        writer.write_record(record).map_err(broken)?;
    }
    writer.into_inner().map_err(|error| Failure::fatal("invalid_output", error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn csv_keeps_what_only_looks_like_a_number() {
        let rows = decode_csv(b"a,b,c,d,e\n007,1.50,-3,,1e3\n", None).unwrap();
        assert_eq!(json!(rows), json!([{ "a": "007", "b": 1.5, "c": -3, "d": null, "e": "1e3" }]));
    }

    #[test]
    fn rows_read_back_in_every_format() {
        let rows = json!([{ "a": 1, "b": "x, \"y\"\nz" }, { "a": 2.5, "b": null }]);
        let rows: Vec<Row> = serde_json::from_value(rows).unwrap();
        for format in Format::ALL {
            let content = encode(format, &rows, None).unwrap();
            assert_eq!(decode(format, &content, "", None).unwrap(), Decoded::Rows(rows.clone()), "{format:?}");
        }
    }

    #[test]
    fn a_broken_file_is_told_with_its_line() {
        assert!(decode(Format::Jsonl, b"{}\n{", "", None).unwrap_err().message.contains("line 2"));
        assert_eq!(decode(Format::Csv, b"a,b\n1\n", "", None).unwrap_err().code, "invalid_file");
        assert_eq!(decode(Format::Json, b"{}", "/rows", None).unwrap_err().code, "invalid_input");
    }
}
