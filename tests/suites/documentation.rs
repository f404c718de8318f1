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

fn unlisted(codes: BTreeSet<String>, document: &str) -> Vec<String> {
    let text = fs::read_to_string(testkit::workspace().join(document)).expect("the document is there");
    codes.into_iter().filter(|code| !text.contains(&format!("`{code}`"))).collect()
}

#[test]
fn every_code_of_an_error_is_listed_with_what_to_do() {
    let codes = codes(EDGES);
    assert!(codes.len() > 40, "the makers of errors have changed: only {codes:?} were found");
    assert_eq!(unlisted(codes, "docs/errors.md"), Vec::<String>::new());
}

#[test]
fn every_code_of_an_agents_failure_is_listed() {
    let codes = codes(AGENTS);
    assert!(codes.len() > 25, "the makers of failures have changed: only {codes:?} were found");
    assert_eq!(unlisted(codes, "crates/agent-runner/README.md"), Vec::<String>::new());
}
