//! Entity tags: which state of a thing a client has seen (RFC 9110, 8.8 and 13).
//!
//! A tag is `"<revision>.<digest>"`. The revision is the thing's own (a workflow's version, the last event of an execution), grows
//! with every change, and is all that `If-Match` is about: the service behind compares it in the transaction that makes the
//! change, so that of two who have seen the same state one wins. The digest covers what the revision does not count, as an agent's
//! heartbeats: with it two answers under one tag are the same bytes, and `If-None-Match` misses nothing.

use std::{future::Future, sync::Arc};

use axum::extract::FromRequestParts;
use errors::{Code, Error};
use http::{HeaderValue, StatusCode, header, request::Parts};

use crate::{app::App, context, hex::hex, problem::Problem, words};

/// Bytes of a digest: two states of one thing under one revision are told apart by it, nothing else.
const DIGEST: usize = 8;

/// The tag of an answer.
pub(crate) fn tag(revision: u64, body: &[u8]) -> String {
    let digest = blake3::hash(body);
    format!("\"{revision}.{}\"", hex(&digest.as_bytes()[..DIGEST]))
}

/// What stands for a revision that nothing has.
const NEVER: u64 = u32::MAX as u64;
/// Tags that one request may name.
///
/// Each may be tried, so there are few.
pub(crate) const MOST: usize = 4;

/// What a client wants to change: whatever is there, or one of the states that it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IfMatch(Option<Vec<u64>>);

impl FromRequestParts<Arc<App>> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let mut lines = Vec::new();
        for line in parts.headers.get_all(header::IF_MATCH) {
            let unreadable = |_| Problem::field("If-Match", "invalid_value", "must be visible ASCII characters");
            lines.push(line.to_str().map_err(unreadable)?);
        }
        if lines.is_empty() || lines == ["*"] {
            return Ok(Self(None));
        }
        let text = lines.join(",");
        let words::EntityTags(text) = context::word("If-Match", &text)?;
        let tags = list(&text).unwrap_or_default();
        // A weak tag never matches (RFC 9110, 13.1.1), and nothing has a tag that is none of ours. What is not there is still
        // told to be not there, so the service is asked all the same.
        let mut seen: Vec<_> = tags.iter().filter(|tag| !tag.is_weak).filter_map(|tag| revision(tag.opaque)).collect();
        seen.retain(|revision| *revision < NEVER);
        seen.sort_unstable();
        seen.dedup();
        if seen.is_empty() {
            seen.push(NEVER);
        }
        Ok(Self(Some(seen)))
    }
}

/// Why a change was not made.
pub(crate) enum Refusal {
    /// For the state that `If-Match` names.
    Precondition(Problem),
    /// The request contradicts itself.
    Request(Problem),
    /// Whatever the service says.
    Service(Error),
}

impl Refusal {
    /// Of a change that came in the body.
    pub(crate) fn in_body(self) -> Problem {
        match self {
            Self::Service(error) => Problem::in_body(error),
            other @ (Self::Precondition(_) | Self::Request(_)) => other.into(),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Precondition(problem) | Refusal::Request(problem) => problem,
            Refusal::Service(error) => error.into(),
        }
    }
}

impl IfMatch {
    /// Makes a change that is told which revision must be the present one; 0 where any may be. `other` is what else the request
    /// says about it.
    ///
    /// Of several revisions each is tried, the oldest first: they only grow, so that none is missed that comes in between.
    pub(crate) async fn change<N, T, F>(
        self,
        other: Option<words::Version>,
        change: impl Fn(N) -> F,
    ) -> Result<T, Refusal>
    where
        N: TryFrom<u64> + Default,
        F: Future<Output = Result<T, Error>>,
    {
        let other = other.map(|version| u64::from(version.0));
        let Some(mut seen) = self.0 else {
            let expected = N::try_from(other.unwrap_or(0)).unwrap_or_default();
            return Box::pin(change(expected)).await.map_err(Refusal::Service);
        };
        if let Some(other) = other {
            if !seen.contains(&other) {
                let message = "must name the revision that the request expects besides, or one of the two be absent";
                return Err(Refusal::Request(Problem::field("If-Match", "invalid_value", message)));
            }
            seen = vec![other];
        }
        let mut refused = "nothing has had this entity tag".to_owned();
        for revision in seen.into_iter().filter_map(|revision| N::try_from(revision).ok()) {
            match Box::pin(change(revision)).await {
                Ok(made) => return Ok(made),
                Err(error) if error.code == Code::Conflict && error.reason.ends_with("_changed") => {
                    refused = error.message;
                }
                Err(error) => return Err(Refusal::Service(error)),
            }
        }
        Err(Refusal::Precondition(Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", refused)))
    }
}

/// One tag of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    is_weak: bool,
    /// Without its quotes.
    opaque: &'a str,
}

/// The tags of a list; nothing where it is none. Empty places are passed over (RFC 9110, 5.6.1).
pub(crate) fn list(text: &str) -> Option<Vec<Tag<'_>>> {
    let mut tags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(tags);
        }
        let strong = rest.strip_prefix("W/");
        let (opaque, after) = strong.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        if !opaque.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        tags.push(Tag { is_weak: strong.is_some(), opaque });
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

/// The revision of a tag, with a digest or without one.
fn revision(opaque: &str) -> Option<u64> {
    let digits = opaque.split_once('.').map_or(opaque, |(digits, _)| digits);
    let is_revision = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_revision)
}

/// The answers that a client has.
#[derive(Clone, Debug, Default)]
pub(crate) struct IfNoneMatch(Vec<HeaderValue>);

impl FromRequestParts<Arc<App>> for IfNoneMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        Ok(Self(parts.headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect()))
    }
}

impl IfNoneMatch {
    /// An answer with this tag, as the client has it: by the name of the coding in which it came. What cannot be read names none:
    /// the client gets the answer once more.
    pub(crate) fn known(&self, tag: &str) -> Option<String> {
        let own = tag.trim_matches('"');
        let is_own = |opaque: &str| CODINGS.iter().any(|coding| opaque.strip_suffix(coding) == Some(own));
        self.0.iter().filter_map(|line| line.to_str().ok()).find_map(|line| {
            if line == "*" {
                return Some(tag.to_owned());
            }
            let known = list(line)?.into_iter().find(|tag| is_own(tag.opaque))?;
            Some(format!("\"{}\"", known.opaque))
        })
    }
}

/// What a tag ends with, after the coding in which the answer was sent; nothing for none.
const CODINGS: [&str; 3] = ["", "-gzip", "-zstd"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_of_a_tag_is_found_and_no_other_number() {
        assert_eq!(revision(tag(7, b"body").trim_matches('"')), Some(7));
        assert_eq!(revision("7"), Some(7));
        assert_eq!(revision("7.0123-gzip"), Some(7));
        for none in ["", "x", "07", "+7", "0", "7x", "-7", "99999999999999999999"] {
            assert_eq!(revision(none), None, "{none}");
        }
    }

    #[test]
    fn a_list_is_tags_with_commas_between_them_and_nothing_else() {
        let strong = |opaque| Tag { is_weak: false, opaque };
        assert_eq!(list("\"7\""), Some(vec![strong("7")]));
        let two = Some(vec![strong("a,b"), Tag { is_weak: true, opaque: "7" }]);
        assert_eq!(list(" , \"a,b\" ,, W/\"7\","), two);
        assert_eq!(list(""), Some(Vec::new()));
        for none in
            ["7", "*", "\"7", "\"7\"\"8\"", "\"7\" \"8\"", "\"7\", *", "w/\"7\"", "W/ \"7\"", "\"a b\"", "\"7\";q=1"]
        {
            assert_eq!(list(none), None, "{none}");
        }
    }

    #[test]
    fn known_answers_are_known_in_any_list_and_coding() {
        let of = |text: &'static str| IfNoneMatch(vec![HeaderValue::from_static(text)]);
        for known in ["*", "\"7.ab\"", "W/\"7.ab\"", "\"1.cd\" , \"7.ab\"", "\"7.ab-gzip\""] {
            let told = if known.contains("gzip") { "\"7.ab-gzip\"" } else { "\"7.ab\"" };
            assert_eq!(of(known).known("\"7.ab\"").as_deref(), Some(told), "{known}");
        }
        for unknown in ["", "7.ab", "\"7.abc\"", "\"7.a\"", "\"7.ab-br\"", "\"\""] {
            assert_eq!(of(unknown).known("\"7.ab\""), None, "{unknown}");
        }
        assert_eq!(IfNoneMatch::default().known("\"7.ab\""), None);
    }

    /// What clients may write into `If-Match` and `If-None-Match`.
    mod fuzz {
        use proptest::prelude::*;
        use testkit::fuzz::{cases, nearly, text};

        use super::*;

        const LIST: &str = "(W/)?\"[!#-~]{0,9}\"([ \t]?,[ \t]?(W/)?\"[1-9][0-9]{0,3}\\.[0-9a-f]{16}(-gzip)?\"){0,4}";

        proptest! {
            #![proptest_config(cases(512))]

            #[test]
            fn a_list_that_is_read_is_written_the_same(said in prop_oneof![text(), nearly(LIST), LIST]) {
                if let Some(tags) = list(&said) {
                    let written = |tag: &Tag<'_>| format!("{}\"{}\"", if tag.is_weak { "W/" } else { "" }, tag.opaque);
                    let all: Vec<_> = tags.iter().map(written).collect();
                    let again = all.join(", ");
                    prop_assert_eq!(list(&again), Some(tags.clone()));
                    for tag in tags {
                        prop_assert!(said.contains(&written(&tag)));
                        if let Some(revision) = revision(tag.opaque) {
                            prop_assert!(tag.opaque.starts_with(&revision.to_string()), "{}", tag.opaque);
                        }
                    }
                }
            }

            #[test]
            fn an_answer_is_known_where_a_list_names_it(before in LIST, after in LIST, revision in 1..u64::MAX, body in any::<Vec<u8>>()) {
                let tag = tag(revision, &body);
                let lines = |lines: &[&str]| IfNoneMatch(lines.iter().filter_map(|line| HeaderValue::from_str(line).ok()).collect());
                let among = format!("{before},{tag} , {after}");
                prop_assert_eq!(lines(&[&before, &among]).known(&tag), Some(tag.clone()));
                prop_assert_eq!(lines(&[&before, &after]).known(&tag), None);
            }

            #[test]
            fn whatever_is_named_besides_is_none(lines in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
                let lines = lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()).collect::<Vec<_>>();
                let known = IfNoneMatch(lines.clone()).known("\"7.ab\"");
                prop_assert_eq!(known.is_some(), lines.iter().any(|line| line == "*"), "{:?}", lines);
            }
        }
    }
}
