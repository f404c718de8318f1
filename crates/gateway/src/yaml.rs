//! YAML definitions as JSON.
//!
//! YAML can say much with little: aliases of aliases grow without end. The parser's budget bounds events, anchors and
//! replayed aliases, and the result is bounded like a JSON body is.

use bytes::Bytes;
use serde_json::Value;

use crate::problem::Problem;

/// Replayed nodes: enough for definitions that reuse blocks, far below what hurts.
const MAX_REPLAYED: usize = 200_000;
/// Parser events: a definition of 10,000 steps has some 300,000.
const MAX_EVENTS: usize = 2_000_000;
/// Aliases in a document.
const MAX_ALIASES: usize = 10_000;

/// One YAML document as JSON text of at most `limit` bytes.
pub(crate) async fn to_json(yaml: Bytes, limit: usize) -> Result<Bytes, Problem> {
    // A large document takes a while; the runtime's threads serve others meanwhile.
    let parsed = tokio::task::spawn_blocking(move || convert(&yaml, limit)).await;
    parsed.unwrap_or_else(|failed| Err(Problem::internal(failed.to_string())))
}

pub(crate) fn convert(yaml: &[u8], limit: usize) -> Result<Bytes, Problem> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: MAX_EVENTS,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
        },
        with_snippet: false,
        // As YAML 1.2 has it: `NO` is a country, and `y` may be a name.
        strict_booleans: true,
    };
    let value: Value = serde_saphyr::from_slice_with_options(yaml, options).map_err(|error| {
        let message: String = format!("not YAML: {error}").chars().take(500).collect();
        Problem::field("", "malformed_yaml", message)
    })?;
    if !value.is_object() {
        return Err(Problem::field("", "wrong_type", "must be a mapping"));
    }
    let json = serde_json::to_vec(&value).map_err(|error| Problem::internal(error.to_string()))?;
    if json.len() > limit {
        let message = format!("must have at most {limit} bytes as JSON (setting max_body)");
        return Err(Problem::field("", "body_too_large", message));
    }
    Ok(json.into())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn yaml_means_the_same_as_json() {
        let json = convert(b"name: a\nsteps:\n  - { id: x, timeout: 30s, input: [1, 2.5, null, true, '1'] }\n", 1_000)
            .unwrap();
        let expected = r#"{"name":"a","steps":[{"id":"x","timeout":"30s","input":[1,2.5,null,true,"1"]}]}"#;
        assert_eq!(json, expected);
        assert_eq!(
            convert(b"{ country: NO, y: yes, on: off }", 100).unwrap(),
            r#"{"country":"NO","y":"yes","on":"off"}"#
        );
    }

    #[test]
    fn aliases_that_explode_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
        }
        assert!(convert(bomb.as_bytes(), 5 << 20).is_err());
    }

    #[test]
    fn other_documents_are_refused() {
        for text in ["", "[1]", "a: [unclosed", "a: 1\na: 2", "\u{0}", "a: 1\n---\nb: 2"] {
            assert!(convert(text.as_bytes(), 1_000).is_err(), "{text:?}");
        }
        assert!(convert(b"\xff\xfe\x00", 1_000).is_err());
    }
}
