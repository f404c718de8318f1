//! What a file of settings may say.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{fmt::Write as _, time::Duration};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use settings::{ByteSize, Database, Redis, Secret, Settings};
use testkit::fuzz::{cases, damaged, nearly, text};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sample {
    api_key: Option<Secret>,
    database: Database,
    redis: Redis,
    max_body: ByteSize,
    most: u16,
    #[serde(with = "humantime_serde")]
    patience: Duration,
    names: Vec<String>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            api_key: None,
            database: Database::default(),
            redis: Redis::default(),
            max_body: ByteSize(1 << 20),
            most: 1,
            patience: Duration::from_secs(1),
            names: Vec::new(),
        }
    }
}

impl Settings for Sample {
    const SERVICE: &'static str = "sample";
}

const VALID: &str = r#"
[sample]
api_key = "a-secret-of-the-tests"
max_body = "4MiB"
most = 17
patience = "1m 30s"
names = ["a", "b"]

[sample.database]
max_connections = 20

[gateway]
listen = "127.0.0.1:8080"
"#;

/// Reads a file that says so, and answers with what is wrong with it.
fn load(said: &[u8]) -> Result<Sample, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), said).unwrap();
    Sample::load(Some(file.path())).map_err(|error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            write!(text, ": {error}").unwrap();
            cause = error.source();
        }
        text
    })
}

#[test]
fn the_valid_one_is() {
    assert_eq!(load(VALID.as_bytes()).unwrap().most, 17);
}

#[test]
fn a_file_that_is_deep_or_long_ends_in_an_error() {
    let deep = [
        format!("[sample]\nnames = {}{}", "[".repeat(50_000), "]".repeat(50_000)),
        format!("[sample]\nnames = {}", "{a=".repeat(50_000)),
        format!("[sample.{}a]", "a.".repeat(50_000)),
        format!("[sample]\n{} = 1", "a.".repeat(50_000) + "a"),
        format!("[sample]\nmost = {}", "9".repeat(100_000)),
    ];
    for said in deep {
        assert!(load(said.as_bytes()).is_err(), "{said:.60}");
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn any_file_is_read_or_refused_for_a_reason(said in prop_oneof![
        1 => any::<Vec<u8>>(),
        1 => text().prop_map(|text| format!("[sample]\nnames = [{text}]\n{text} = {text}\n").into_bytes()),
        6 => damaged(Just(VALID.as_bytes().to_vec())),
    ]) {
        match load(&said) {
            Ok(read) => prop_assert!(!format!("{read:?}").contains("a-secret"), "secrets are not shown"),
            Err(why) => prop_assert!((10..20_000).contains(&why.len()), "{}", why),
        }
    }

    #[test]
    fn a_size_reads_as_it_is_written(text in prop_oneof![text(), nearly("[0-9]{1,20}(KiB|MiB|GiB)?")]) {
        if let Ok(size) = text.parse::<ByteSize>() {
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
