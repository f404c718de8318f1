//! Names of topics, and patterns that fit them, as in topic exchanges of AMQP.
//!
//! A topic is words with dots between them: `executions.exe_1.progress`. In a pattern `*` stands for one word and `#` for any
//! number of them, none included.

use std::{fmt, str::FromStr};

/// The longest topic or pattern, in bytes; as long as a routing key of AMQP.
pub const MAX_TOPIC: usize = 255;

/// Why a text is no topic or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Longer than the limit.
    #[error("must be at most {MAX_TOPIC} bytes long, not {0}")]
    TooLong(usize),
    /// Nothing between two dots, before the first or after the last.
    #[error("must be words with a dot between each two, and no word may be empty")]
    EmptyWord,
    /// A word with something else in it.
    #[error("a word may hold letters, digits, '_' and '-'{}; found {found:?}", .wildcards.then_some(", or be `*` or `#`").unwrap_or_default())]
    Word {
        /// The word.
        found: String,
        /// May it be a wildcard?
        wildcards: bool,
    },
}

/// Where something is published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic(String);

/// Which topics somebody wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern(Vec<Word>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Exactly(Box<str>),
    /// `*`
    One,
    /// `#`
    Any,
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        text.split('.').try_for_each(|word| check_word(word, false))?;
        Ok(Self(text.to_owned()))
    }
}

impl Topic {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its words, for [`TopicPattern::fits`].
    pub fn words(&self) -> Vec<&str> {
        self.0.split('.').collect()
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for TopicPattern {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        let word = |word| {
            Ok(match word {
                "*" => Word::One,
                "#" => Word::Any,
                _ => {
                    check_word(word, true)?;
                    Word::Exactly(word.into())
                }
            })
        };
        text.split('.').map(word).collect::<Result<_, _>>().map(Self)
    }
}

impl TopicPattern {
    /// Does a topic of these words fit? Takes no more steps than words times words, whatever the pattern.
    pub fn fits(&self, topic: &[&str]) -> bool {
        let (mut at, mut read) = (0, 0);
        // After the last `#`, and how far the topic is read where that stands for nothing more: what is tried next.
        let mut retry = None;
        loop {
            match (self.0.get(at), topic.get(read)) {
                (None, None) => return true,
                (Some(Word::Any), _) => {
                    at += 1;
                    retry = Some((at, read));
                    continue;
                }
                (Some(Word::One), Some(_)) => {
                    (at, read) = (at + 1, read + 1);
                    continue;
                }
                (Some(Word::Exactly(wanted)), Some(found)) if **wanted == **found => {
                    (at, read) = (at + 1, read + 1);
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((after, skipped)) if skipped < topic.len() => {
                    (at, read) = (after, skipped + 1);
                    retry = Some((at, read));
                }
                Some(_) | None => return false,
            }
        }
    }
}

fn check_length(text: &str) -> Result<(), TopicError> {
    if text.len() > MAX_TOPIC { Err(TopicError::TooLong(text.len())) } else { Ok(()) }
}

fn check_word(word: &str, wildcards: bool) -> Result<(), TopicError> {
    if word.is_empty() {
        return Err(TopicError::EmptyWord);
    }
    if word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        return Ok(());
    }
    Err(TopicError::Word { found: word.to_owned(), wildcards })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, topic: &str) -> bool {
        pattern.parse::<TopicPattern>().unwrap().fits(&topic.parse::<Topic>().unwrap().words())
    }

    /// What the words mean, written down as they are read.
    fn means(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], topic) => topic.is_empty(),
            (["#", rest @ ..], topic) => (0..=topic.len()).any(|skipped| means(rest, &topic[skipped..])),
            (["*", rest @ ..], [_, topic @ ..]) => means(rest, topic),
            ([word, rest @ ..], [found, topic @ ..]) => word == found && means(rest, topic),
            (_, []) => false,
        }
    }

    #[test]
    fn wildcards_stand_for_words() {
        for (pattern, topic, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a", false),
            ("a.*", "a.b", true),
            ("*.b", "a.b", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#.c", "a.b.c", true),
            ("#", "a", true),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.c.d", false),
            ("#.*.#", "a", true),
            ("*.#.*", "a", false),
        ] {
            assert_eq!(fits(pattern, topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn what_is_no_topic_or_pattern_is_refused() {
        for text in ["", ".", "a.", ".a", "a..b"] {
            assert_eq!(text.parse::<Topic>(), Err(TopicError::EmptyWord), "{text}");
            assert_eq!(text.parse::<TopicPattern>(), Err(TopicError::EmptyWord), "{text}");
        }
        for text in ["a b", "a.ä", "a:b", "a\0", "a*", "**", "#a"] {
            assert!(text.parse::<Topic>().is_err() && text.parse::<TopicPattern>().is_err(), "{text}");
        }
        assert!("a.*".parse::<Topic>().is_err() && "#".parse::<Topic>().is_err());
        assert!("a".repeat(MAX_TOPIC).parse::<Topic>().is_ok());
        assert_eq!("a".repeat(MAX_TOPIC + 1).parse::<Topic>(), Err(TopicError::TooLong(MAX_TOPIC + 1)));
    }

    #[test]
    fn no_pattern_takes_long() {
        let pattern = format!("{}b", "#.a.".repeat(63));
        assert!(!fits(&pattern, &format!("a{}", ".a".repeat(127))));
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_its_words_mean(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "#"]), 1..8),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 1..9),
        ) {
            prop_assert_eq!(fits(&pattern.join("."), &topic.join(".")), means(&pattern, &topic));
        }
    }
}
