//! Secrets as texts that prove themselves: what somebody has made up is found out at once, and nobody is asked for it.
//!
//! `<mark><prefix>_<secret><check>`, in hex but for the mark. By the prefix it is found; the secret nobody can guess; and the check is
//! the beginning of an HMAC-SHA-256 of all before it under the gateway's own secret, so that only who has that makes texts that
//! fit. What is kept of a text is another HMAC-SHA-256, of all of it: a copy of the database opens nothing.

use access::RootSecret;
use aws_lc_rs::{constant_time, hmac, rand};
use errors::Error;

use crate::hex::hex;

/// Hex digits of the secret and of the check.
const SECRET: usize = 64;
const CHECK: usize = 16;

/// What makes texts of one kind, and knows them again.
pub(super) struct Mint {
    /// What each of them begins with; programs that look for leaked secrets know by it what they have found.
    mark: &'static str,
    /// Hex digits of the prefix.
    prefix: usize,
    pepper: hmac::Key,
}

/// A new text, by what it is found, and what is kept of it.
pub(super) struct Minted {
    pub(super) text: String,
    pub(super) prefix: String,
    pub(super) hash: Vec<u8>,
}

impl Mint {
    /// For texts with a mark and prefixes of so many hex digits, under what is derived from the secret for a purpose.
    pub(super) fn new(mark: &'static str, prefix: usize, secret: &RootSecret, purpose: &str) -> Self {
        Self { mark, prefix, pepper: hmac::Key::new(hmac::HMAC_SHA256, &secret.derive(purpose)) }
    }

    /// A new one, whose prefix begins with these hex digits.
    pub(super) fn make(&self, begin: &str) -> Result<Minted, Error> {
        let rest = self.prefix.saturating_sub(begin.len());
        let (prefix, secret) = (format!("{begin}{}", random(rest / 2)?), random(SECRET / 2)?);
        let unchecked = format!("{}{prefix}_{secret}", self.mark);
        let text = format!("{unchecked}{}", self.check(&unchecked));
        let hash = hmac::sign(&self.pepper, text.as_bytes()).as_ref().to_vec();
        Ok(Minted { text, prefix, hash })
    }

    /// The prefix of a text; nothing where it is none that was made here.
    pub(super) fn prefix<'a>(&self, text: &'a str) -> Option<&'a str> {
        let (prefix, rest) = text.strip_prefix(self.mark)?.split_once('_')?;
        if !is_hex(prefix, self.prefix) || !is_hex(rest, SECRET + CHECK) {
            return None;
        }
        let (unchecked, check) = text.split_at(text.len() - CHECK);
        let fits = constant_time::verify_slices_are_equal(self.check(unchecked).as_bytes(), check.as_bytes());
        fits.is_ok().then_some(prefix)
    }

    /// Is it what this was kept of? Takes as long wherever the two differ.
    pub(super) fn is(&self, text: &str, hash: &[u8]) -> bool {
        hmac::verify(&self.pepper, text.as_bytes(), hash).is_ok()
    }

    fn check(&self, unchecked: &str) -> String {
        let mut check = hex(hmac::sign(&self.pepper, unchecked.as_bytes()).as_ref());
        check.truncate(CHECK);
        check
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// So many random bytes in hex.
pub(super) fn random(bytes: usize) -> Result<String, Error> {
    let mut random = vec![0; bytes];
    rand::fill(&mut random).map_err(Error::internal)?;
    Ok(hex(&random))
}

#[cfg(test)]
mod tests {
    use settings::Secret;

    use super::*;

    fn mint(secret: &str, purpose: &str) -> Mint {
        Mint::new("trk_", 16, &RootSecret::new(&Secret::new(secret)), purpose)
    }

    #[test]
    fn only_what_was_made_here_fits() {
        let here = mint("a-secret-of-the-tests-that-is-long", "keys");
        let made = here.make("0a1b").unwrap();
        assert!(made.prefix.starts_with("0a1b"));
        assert_eq!(here.prefix(&made.text), Some(made.prefix.as_str()));
        assert!(here.is(&made.text, &made.hash));
        for other in
            [mint("another-secret-of-the-tests-0123456", "keys"), mint("a-secret-of-the-tests-that-is-long", "x")]
        {
            assert_eq!(other.prefix(&made.text), None);
        }
        // Every digit counts, wherever it is.
        for place in 4..made.text.len() {
            let mut wrong = made.text.clone();
            let digit = if wrong.as_bytes()[place] == b'0' { "1" } else { "0" };
            wrong.replace_range(place..=place, digit);
            assert_eq!(here.prefix(&wrong), None, "{wrong}");
        }
        let (long, zeros) = ("a".repeat(1_000_000), "0".repeat(80));
        for wrong in ["", "trk_", "trk__", "trk_\0_\0", &made.text[..made.text.len() - 1], &made.text.to_uppercase()] {
            assert_eq!(here.prefix(wrong), None, "{wrong}");
        }
        for wrong in
            [format!("trk_{long}_{zeros}"), format!("trk_{}_{long}", made.prefix), format!("trr{}", &made.text[3..])]
        {
            assert_eq!(here.prefix(&wrong), None);
        }
        assert!(!here.is(&made.text, b"short"));
    }
}
