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
            serde_saphyr::from_multiple(text).with_context(|| format!("{} is neither JSON nor YAML", shown(path)))
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
}
