//! Reading what people hand over: files, standard input, text on the command line; JSON or YAML.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::Deserialize as _;
use serde_json::Value;

/// The largest document that is read, in bytes; the server's own limits are below it.
const LARGEST: u64 = 64 << 20;

/// The text of a file, or of standard input for `-`.
pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(LARGEST + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", shown(path)))?;
    if text.len() as u64 > LARGEST {
        bail!("{} is larger than {LARGEST} bytes", shown(path));
    }
    Ok(text)
}

/// How messages name a path.
pub(super) fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// Every document of a text: JSON where it parses as that, else YAML, whose documents `---` divides.
pub(super) fn documents(text: &str, path: &Path) -> anyhow::Result<Vec<Value>> {
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    match serde_json::from_str(text) {
        Ok(document) => Ok(vec![document]),
        Err(error) if is_json => Err(error).with_context(|| format!("{} is not JSON", shown(path))),
        Err(_) => {
            // As the gateway reads it: `NO` is a country, and no boolean.
            let options = serde_saphyr::options! { strict_booleans: true };
            serde_saphyr::from_multiple_with_options(text, options)
                .with_context(|| format!("{} is neither JSON nor YAML", shown(path)))
        }
    }
}

/// A JSON value from the command line (`--data`), from a file or standard input (`--input`), or none.
pub(super) fn value(data: Option<&str>, file: Option<&PathBuf>) -> anyhow::Result<Option<Value>> {
    if let Some(data) = data {
        return json(data).map(Some);
    }
    let Some(path) = file else { return Ok(None) };
    let mut documents = documents(&text(path)?, path)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(Some(document)),
        (None, _) => bail!("{} is empty", shown(path)),
        (Some(_), false) => bail!("{} holds several documents; one is needed", shown(path)),
    }
}

/// A JSON value from the command line.
pub(super) fn json(text: &str) -> anyhow::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Value::deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    value.with_context(|| format!("{text:?} is not JSON; a text needs quotes of its own: '\"{}\"'", text.trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_json_or_yaml_and_may_be_several() {
        let yaml = "name: a\nsteps: [1]\n---\nagents:\n  - name: b\n";
        let found = documents(yaml, Path::new("x.yaml")).unwrap();
        assert_eq!(found, [json!({ "name": "a", "steps": [1] }), json!({ "agents": [{ "name": "b" }] })]);
        assert_eq!(documents("{\"name\": \"a\"}", Path::new("-")).unwrap(), [json!({ "name": "a" })]);
        assert!(documents("{", Path::new("x.json")).unwrap_err().to_string().contains("not JSON"));
        assert!(documents("a: [", Path::new("-")).is_err());
    }

    #[test]
    fn a_text_without_quotes_is_refused_with_what_would_be_right() {
        assert_eq!(json("{\"a\": 1}").unwrap(), json!({ "a": 1 }));
        assert!(json("approve").unwrap_err().to_string().contains("'\"approve\"'"));
        assert!(json("1 2").is_err());
    }

    /// What people may hand over.
    mod fuzz {
        use std::path::Path;

        use proptest::prelude::*;
        use serde_json::{Value, json};
        use testkit::fuzz::{cases, damaged, json as any_json, nearly, text};

        use super::super::{documents, json as argument, shown};

        const YAML: &str = "name: w\nx: &x { a: 1, b: [1, 2.5, ~, 'x'] }\nsteps:\n  - id: a\n    input: *x\n    text: |\n      one\n---\nagents:\n  - <<: *x\n    when: !!str true\n";

        proptest! {
            #![proptest_config(cases(256))]

            #[test]
            fn a_document_is_read_as_it_was_written(value in any_json()) {
                for path in ["x.json", "x.yaml", "-"] {
                    let text = value.to_string();
                    prop_assert_eq!(documents(&text, Path::new(path)).unwrap(), vec![serde_json::from_str::<Value>(&text).unwrap()]);
                }
            }

            #[test]
            fn several_documents_are_read_in_their_order(names in prop::collection::vec("[a-z]{1,20}", 1..5), number in any::<i32>()) {
                let of = |name: &String| json!({ "name": name, "config": { "n": number, "is": [true, null, "a b"] } });
                let all: Vec<_> = names.iter().map(of).collect();
                let flow: Vec<_> = all.iter().map(ToString::to_string).collect();
                prop_assert_eq!(documents(&flow.join("\n---\n"), Path::new("-")).unwrap(), all.clone());
                let block = |name| format!("name: {name}\nconfig:\n  n: {number}\n  is:\n    - true\n    - null\n    - a b\n");
                let block: Vec<_> = names.iter().map(block).collect();
                prop_assert_eq!(documents(&block.join("---\n"), Path::new("x.yml")).unwrap(), all);
            }

            #[test]
            fn any_text_is_documents_or_refused_with_where_it_comes_from(said in prop_oneof![
                text(),
                nearly(Just(YAML.to_owned())),
                nearly(any_json().prop_map(|json| json.to_string())),
                damaged(Just(YAML.as_bytes().to_vec())).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            ]) {
                for path in ["x.yaml", "x.json", "-"] {
                    if let Err(error) = documents(&said, Path::new(path)) {
                        let name = shown(Path::new(path));
                        prop_assert!(error.to_string().starts_with(&name), "{}", error);
                    }
                }
                if let Err(error) = argument(&said) {
                    prop_assert!(error.to_string().contains("is not JSON"), "{}", error);
                }
            }
        }
    }
}
