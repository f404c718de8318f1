//! Secrets in files and variables, which `Jail` sets for the whole process: so this is a binary of its own.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{error::Error, path::Path};

use figment::Jail;
use serde::{Deserialize, Serialize};
use settings::{Database, Secret, Settings as _};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keyed {
    key: Option<Secret>,
    database: Database,
    count: u32,
}

impl settings::Settings for Keyed {
    const SERVICE: &'static str = "keyed";
}

/// The settings of a file and of a variable; or everything that is told of why there are none.
#[expect(clippy::result_large_err, reason = "the error is figment's")]
fn load(file: &str, variable: Option<(&str, &str)>) -> Result<Keyed, String> {
    let mut loaded = None;
    Jail::expect_with(|jail| {
        std::fs::write(jail.directory().join("troupe.toml"), file).unwrap();
        if let Some((name, value)) = variable {
            jail.set_env(name, value);
        }
        loaded = Some(Keyed::load(Some(Path::new("troupe.toml"))));
        Ok(())
    });
    loaded.unwrap().map_err(|error| {
        let causes = std::iter::successors(Some(&error as &(dyn Error + 'static)), |error| (*error).source());
        causes.map(|cause| format!("{cause} {cause:?}")).collect::<Vec<_>>().join("\n")
    })
}

#[test]
fn a_secret_of_digits_is_taken_as_it_is_written() {
    for digits in ["1234567890123456", "0000567890123456", "99999999999999999999999999999999999999999", "-12"] {
        let keyed = load("", Some(("TROUPE_KEYED__KEY", digits))).unwrap();
        assert_eq!(keyed.key.unwrap().reveal(), digits);
    }
    let keyed = load("[keyed]\nkey = 1234567890123456\ncount = 7\n", None).unwrap();
    assert_eq!((keyed.key.unwrap().reveal(), keyed.count), ("1234567890123456", 7));
    assert_eq!(load("", Some(("TROUPE_KEYED__COUNT", "8"))).unwrap().count, 8);
}

#[test]
fn whatever_stands_where_a_secret_belongs_is_not_told() {
    for wrong in ["4711.5", "[4711]", "{ a = 4711 }", "true", "1979-05-27", "4711 4712", "postgres://u:4711@h/d"] {
        let told = load(&format!("[keyed]\nkey = {wrong}\n"), None).unwrap_err();
        assert!(!told.contains("4711") && !told.contains("1979") && !told.contains("true"), "{wrong}: {told}");
    }
    for wrong in ["4711.5", "[4711]", "{a=4711}", "true"] {
        let told = load("", Some(("TROUPE_KEYED__KEY", wrong))).unwrap_err();
        assert!(!told.contains("4711") && !told.contains("`true`"), "{wrong}: {told}");
        assert!(told.contains("keyed.key") || told.contains("KEY"), "{wrong}: {told}");
    }
    let told = load("", Some(("TROUPE_KEYED__DATABASE", "postgres://u:4711@h/d"))).unwrap_err();
    assert!(!told.contains("4711") && told.contains("struct Database"), "{told}");
}
