//! Names that people choose: namespaces, agent types, capabilities, step ids, signals.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Longer than the limit.
    #[error("must be at most {limit} characters long, not {found}")]
    TooLong {
        /// The limit in characters.
        limit: usize,
        /// How many there are.
        found: usize,
    },
    /// A character that names do not have.
    #[error("may hold letters, digits, '_', '-' and '.', and must start with a letter or digit; found {0:?}")]
    Character(char),
}

/// Checks a name: 1 to 128 ASCII letters, digits, `_`, `-` and `.`, the first a letter or digit.
///
/// Names appear in paths, task ids and routing keys; nothing in them ever needs escaping.
pub fn check_name(text: &str) -> Result<(), NameError> {
    const LIMIT: usize = 128;
    let first = text.chars().next().ok_or(NameError::Empty)?;
    let found = text.chars().count();
    if found > LIMIT {
        return Err(NameError::TooLong { limit: LIMIT, found });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Character(first));
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))) {
        Some(character) => Err(NameError::Character(character)),
        None => Ok(()),
    }
}

/// The fence around agents, workflows, executions and messages; nothing crosses it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(std::sync::Arc<str>);

impl Namespace {
    /// What an absent namespace means.
    pub const DEFAULT: &'static str = "default";

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From a request's field, where empty means `default`.
    pub fn from_field(text: &str) -> Result<Self, NameError> {
        if text.is_empty() { Ok(Self::default()) } else { text.parse() }
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl FromStr for Namespace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Namespace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_dots_and_dashes() {
        for name in ["a", "credit.score", "eu-west_1.v2", "9lives"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn other_characters_empty_and_long_names_are_refused() {
        for name in ["", ".a", "a b", "a/b", "é", "a\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_name(&"x".repeat(129)), Err(NameError::TooLong { limit: 128, found: 129 }));
    }
}
