//! docs/patterns.md: which pattern has which definition.

use std::collections::BTreeMap;

use serde_json::Value;

const TEXT: &str = include_str!("../../../../docs/patterns.md");

pub(crate) struct Book {
    definitions: BTreeMap<u32, Option<String>>,
}

impl Book {
    pub(crate) fn read() -> Self {
        let mut definitions = BTreeMap::new();
        for section in TEXT.split("\n### ").skip(1) {
            let (title, body) = section.split_once('\n').expect("a section has a title");
            let yaml = body.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```"));
            let yaml = yaml.map(|(yaml, _)| yaml.to_owned());
            // `41. Thread merge, 42. Thread split` is two.
            for part in title.split(", ") {
                let number = part.split_once('.').and_then(|(number, _)| number.parse().ok());
                let number: u32 = number.unwrap_or_else(|| panic!("no number in {title}"));
                assert!(definitions.insert(number, yaml.clone()).is_none(), "{number} is there twice");
            }
        }
        Self { definitions }
    }

    /// The definition of a pattern, as JSON.
    pub(crate) fn definition(&self, number: u32) -> Value {
        let yaml = self.definitions[&number].as_ref().expect("the pattern has a definition");
        serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("pattern {number}: {error}"))
    }

    pub(crate) fn numbers_with_definition(&self) -> Vec<u32> {
        self.definitions.iter().filter(|(_, yaml)| yaml.is_some()).map(|(number, _)| *number).collect()
    }

    pub(crate) fn numbers_without_definition(&self) -> Vec<u32> {
        self.definitions.iter().filter(|(_, yaml)| yaml.is_none()).map(|(number, _)| *number).collect()
    }
}
