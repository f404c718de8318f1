//! Texts with data in them, in Jinja's language: bounded in time, without access to anything but the data.

use agent_sdk::Failure;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

/// Instructions that one rendering may take; a report of a few thousand rows needs a fraction of it.
const FUEL: u64 = 5_000_000;
/// The longest template, in bytes.
const MOST_BYTES: usize = 256 * 1024;

/// Fills `template` in. Failure: `invalid_template`, with the line.
pub(crate) fn render(template: &str, data: &impl Serialize) -> Result<String, Failure> {
    if template.len() > MOST_BYTES {
        return Err(Failure::fatal("invalid_template", format!("a template has at most {MOST_BYTES} bytes")));
    }
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_recursion_limit(64);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let rendered = environment.render_str(template, minijinja::value::Serde(data));
    rendered.map_err(|error| Failure::fatal("invalid_template", errors::chain(&error)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_fills_a_template() {
        let text = render(
            "{% for r in rows %}{{ r.name }}={{ r.value|round(1) }};{% endfor %}",
            &json!({ "rows": [{ "name": "a", "value": 1.26 }] }),
        );
        assert_eq!(text.unwrap(), "a=1.3;");
    }

    #[test]
    fn what_is_missing_and_what_runs_for_ever_fails() {
        assert_eq!(render("{{ nothing }}", &json!({})).unwrap_err().code, "invalid_template");
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}";
        assert_eq!(render(endless, &json!({})).unwrap_err().code, "invalid_template");
    }
}
