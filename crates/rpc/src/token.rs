//! The secret that all processes of a cluster share.

use http::HeaderValue;
use settings::Secret;
use subtle::ConstantTimeEq as _;

/// What an agent or an operator presents, as `authorization: Bearer …`. Processes present what is signed with keys made of it.
#[derive(Clone, Debug)]
pub struct Token(HeaderValue);

/// A token that no header can carry.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the token must be at least 32 visible ASCII characters")]
pub struct TokenError;

impl Token {
    /// The shortest token: whoever has something that was signed with a key made of it can guess as fast as they compute.
    const SHORTEST: usize = 32;

    /// Takes a secret that an operator has chosen.
    pub fn new(secret: &Secret) -> Result<Self, TokenError> {
        let text = secret.reveal();
        if text.len() < Self::SHORTEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| TokenError)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// Is it what was presented? In a time that does not tell where they differ.
    pub fn is(&self, presented: Option<&HeaderValue>) -> bool {
        presented.is_some_and(|presented| bool::from(presented.as_bytes().ct_eq(self.0.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_enough_and_only_itself() {
        assert!(Token::new(&Secret::new("0123456789abcdef0123456789abcde")).is_err());
        assert!(Token::new(&Secret::new("with spaces in the middle, and long enough")).is_err());
        let token = Token::new(&Secret::new("0123456789abcdef0123456789abcdef")).unwrap();
        assert!(token.is(Some(&HeaderValue::from_static("Bearer 0123456789abcdef0123456789abcdef"))));
        assert!(!token.is(Some(&HeaderValue::from_static("Bearer 0123456789abcdef0123456789abcdeF"))));
        assert!(!token.is(Some(&HeaderValue::from_static("0123456789abcdef0123456789abcdef"))));
        assert!(!token.is(None));
        assert!(!format!("{token:?}").contains("0123456789"));
    }
}
