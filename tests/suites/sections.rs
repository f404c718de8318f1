//! Documents that several suites write: each has a section between markers, and leaves the others as they are.

use std::{fs, path::Path};

/// Writes the section of this name; at the end where there is none yet.
pub(crate) fn write(path: &Path, name: &str, text: &str) {
    let before = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, with(&before, name, text)).expect("the document can be written");
}

fn with(document: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- begin: {name} -->\n"), format!("<!-- end: {name} -->\n"));
    let section = format!("{begin}\n{}\n\n{end}", text.trim());
    match (document.split_once(&begin), document.split_once(&end)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{section}{after}"),
        _ => format!("{}\n\n{section}", document.trim_end()),
    }
}

#[test]
fn a_section_is_replaced_and_the_others_stay() {
    let document = with(&with("# Title\n", "one", "1"), "two", "2");
    assert_eq!(
        document,
        "# Title\n\n<!-- begin: one -->\n\n1\n\n<!-- end: one -->\n\n<!-- begin: two -->\n\n2\n\n<!-- end: two -->\n"
    );
    assert_eq!(with(&document, "one", "3"), document.replace('1', "3"));
}
