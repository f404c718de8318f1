//! Texts that are shown to nobody.

use std::{fmt, fs, path::Path};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

/// A secret: it prints, and serializes, as a mask.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

const MASK: &str = "***";

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// A secret that is given directly, or else in a file, whose last line break does not count.
    pub fn given(direct: Option<&Self>, file: Option<&Path>) -> std::io::Result<Option<Self>> {
        match (direct, file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, Some(path)) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    std::io::Error::new(error.kind(), format!("cannot read the secret in {}: {error}", path.display()))
                })?;
                Ok(Some(Self(text.trim_end_matches(['\r', '\n']).to_owned())))
            }
            (None, None) => Ok(None),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

/// Takes a text, and a whole number for one. What serde says of everything else would show it, so that is said here.
struct Text;

impl Text {
    fn refused<E: de::Error>() -> E {
        E::custom("a secret must be a text: put it in quotes")
    }
}

impl Visitor<'_> for Text {
    type Value = Secret;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
        Ok(Secret(text))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Secret, E> {
        Ok(Secret(number.to_string()))
    }

    fn visit_i128<E: de::Error>(self, number: i128) -> Result<Secret, E> {
        Ok(Secret(number.to_string()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Secret, E> {
        Ok(Secret(number.to_string()))
    }

    fn visit_u128<E: de::Error>(self, number: u128) -> Result<Secret, E> {
        Ok(Secret(number.to_string()))
    }

    // It does not say how it was written.
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Err(Self::refused())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Err(Self::refused())
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Secret, E> {
        Err(Self::refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        let secret = Secret::new("hush");
        assert!(!format!("{secret:?}").contains("hush"));
        assert_eq!(secret.reveal(), "hush");
    }

    #[test]
    fn a_secret_can_come_from_a_file() {
        let file = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        fs::write(&file, "hush\n").unwrap();
        let found = Secret::given(None, Some(&file)).unwrap().unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(found.reveal(), "hush");
        let error = Secret::given(None, Some(&file)).unwrap_err();
        assert!(error.to_string().contains("secret-"), "{error}");
    }
}
