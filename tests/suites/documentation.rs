//! What the documents promise to list, read from the sources: a code that programs rely on is one that people can look up.

use std::{collections::BTreeSet, fs, path::Path};

/// Whose constructors an error or a failure is made with.
const MAKERS: &[&str] = &["Error", "Failure", "Problem", "Self"];
/// The constructors that take a code; others take the name of a field first.
const CONSTRUCTORS: &[&str] =
    &["new", "not_found", "conflict", "unavailable", "invalid", "fatal", "retryable", "transient"];
/// Failures of the engine, beside the errors of the services.
const EDGES: &[&str] =
    &["access", "errors", "store", "registry", "communication", "orchestrator", "gateway", "workflow"];
const AGENTS: &[&str] = &["agent-runner", "agent-sdk"];
/// Where faults of single fields come from.
const FIELDS: &[&str] =
    &["access", "errors", "store", "registry", "communication", "orchestrator", "gateway", "workflow", "expressions"];
/// What makes a fault of a field, and which of its arguments has the code.
const FAULT_MAKERS: &[(&str, usize)] = &[
    ("Violation::new(", 1),
    ("Problem::field(", 1),
    ("CommunicationError::field(", 1),
    ("invalid_field(", 1),
    ("faults.push(", 1),
    ("self.fault(", 1),
    (".name(", 1),
    ("Wrong::new(", 0),
];

/// Every file of a folder, tests left out.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("names are text");
        if name.starts_with("tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source is text");
            // Tests stand at the end of a file.
            found.push(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned());
        }
    }
}

/// The codes that follow a maker: its first argument, or the second one after a plain name.
fn codes(crates: &[&str]) -> BTreeSet<String> {
    let mut files = Vec::new();
    for name in crates {
        sources(&testkit::workspace().join("crates").join(name).join("src"), &mut files);
    }
    let mut codes = BTreeSet::new();
    let makers: Vec<_> = MAKERS
        .iter()
        .flat_map(|of| CONSTRUCTORS.iter().map(move |constructor| format!("{of}::{constructor}(")))
        .collect();
    for (text, maker) in files.iter().flat_map(|text| makers.iter().map(move |maker| (text, maker))) {
        for (at, _) in text.match_indices(maker.as_str()) {
            let call: String = text[at..].chars().take(120).collect();
            let Some((before, rest)) = call.split_once('"') else { continue };
            let code = rest.split('"').next().unwrap_or_default();
            let is_argument = before.matches('(').count() == 1 && !before.contains([')', ';', '{', '=']);
            if is_argument && !code.is_empty() && code.chars().all(|char| char.is_ascii_lowercase() || char == '_') {
                codes.insert(code.to_owned());
            }
        }
    }
    codes
}

/// The arguments of a call, from behind its bracket on.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut depth, mut quoted, mut escaped) = (vec![String::new()], 0, false, false);
    for char in text.chars() {
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().expect("there is one").push(char);
    }
    found
}

/// The words in quotation marks that could be codes.
fn quoted_codes(text: &str) -> impl Iterator<Item = String> {
    let is_code = |text: &&str| !text.is_empty() && text.chars().all(|char| char.is_ascii_lowercase() || char == '_');
    text.split('"').skip(1).step_by(2).filter(is_code).map(str::to_owned)
}

/// The codes of faults of fields: the argument that has it, or a `let code` above where it is a choice.
fn field_codes() -> BTreeSet<String> {
    let mut files = Vec::new();
    for name in FIELDS {
        sources(&testkit::workspace().join("crates").join(name).join("src"), &mut files);
    }
    let mut codes = BTreeSet::new();
    for text in &files {
        for (maker, place) in FAULT_MAKERS {
            for (at, _) in text.match_indices(maker) {
                let arguments = arguments(&text[at + maker.len()..]);
                codes.extend(arguments.get(*place).into_iter().flat_map(|argument| quoted_codes(argument)));
            }
        }
        for (at, _) in text.match_indices("let code = ") {
            let choice = text[at..].split(';').next().unwrap_or_default();
            let chosen = choice.split("=> ").chain(choice.split("{ ")).filter(|arm| arm.starts_with('"'));
            codes.extend(chosen.filter_map(|arm| quoted_codes(arm).next()));
        }
        codes.extend(
            text.split("code: ").filter(|rest| rest.starts_with('"')).filter_map(|rest| quoted_codes(rest).next()),
        );
    }
    codes
}

/// The rows of the tables of codes: the codes, and what to do.
fn rows(text: &str) -> Vec<(Vec<String>, String)> {
    let mut rows = Vec::new();
    for table in text.split("\n\n").filter(|table| table.starts_with("| code |")) {
        for row in table.lines().skip(2) {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [codes, _, advice] = cells[..] else { panic!("a row has three cells: {row}") };
            rows.push((codes.split('`').skip(1).step_by(2).map(str::to_owned).collect(), advice.to_owned()));
        }
    }
    rows
}

fn unlisted(codes: BTreeSet<String>, document: &str) -> Vec<String> {
    let text = fs::read_to_string(testkit::workspace().join(document)).expect("the document is there");
    codes.into_iter().filter(|code| !text.contains(&format!("`{code}`"))).collect()
}

#[test]
fn every_code_of_an_error_or_a_field_is_listed_with_what_to_do() {
    let (errors, fields) = (codes(EDGES), field_codes());
    assert!(errors.len() > 40, "the makers of errors have changed: only {errors:?} were found");
    assert!(fields.len() > 45, "the makers of faults have changed: only {fields:?} were found");
    let text = fs::read_to_string(testkit::workspace().join("docs/errors.md")).expect("the document is there");
    let rows = rows(&text);
    let listed: BTreeSet<_> = rows.iter().flat_map(|(codes, _)| codes.iter().cloned()).collect();
    let missing: Vec<_> = errors.union(&fields).filter(|code| !listed.contains(*code)).collect();
    assert!(missing.is_empty(), "no table of docs/errors.md has {missing:?}");
    let silent: Vec<_> = rows.iter().filter(|(_, advice)| advice.is_empty()).map(|(codes, _)| codes).collect();
    assert!(silent.is_empty(), "docs/errors.md does not say what to do about {silent:?}");
}

#[test]
fn every_code_of_an_agents_failure_is_listed() {
    let codes = codes(AGENTS);
    assert!(codes.len() > 25, "the makers of failures have changed: only {codes:?} were found");
    assert_eq!(unlisted(codes, "crates/agent-runner/README.md"), Vec::<String>::new());
}
