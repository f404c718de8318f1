//! CEL that people write, guarded: it neither panics nor overflows the stack nor runs for ever, whatever it says and whatever
//! data it meets.
//!
//! - [`Program`]: an expression, parsed once. What it reads from outside stands in numbered slots: a [`Names`] gives them out
//!   while it is parsed, a [`Values`] fills them when the evaluation first reads them.
//! - `meter`: what an evaluation of it may spend.
//! - [`to_cel`] and the way back: JSON as CEL sees it.

mod json;
mod meter;
mod program;

use std::fmt::{self, Write as _};

pub use cel::{Value as Cel, common::ast};

pub use self::{
    json::to_cel,
    program::{MAX_LENGTH, Names, Program, Values},
};

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// For programs: `expression_invalid`, `expression_too_complex`, `unknown_function` and whatever a [`Names`] adds.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Wrong {
    /// One of them.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The start of a text that may be as long as a payload; the rest is never formatted.
pub fn shorten(text: impl fmt::Display) -> String {
    const LONGEST: usize = 400;
    struct Short(String);
    impl fmt::Write for Short {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = LONGEST.saturating_sub(self.0.len());
            if part.len() <= room {
                self.0.push_str(part);
                return Ok(());
            }
            self.0.push_str(&part[..part.floor_char_boundary(room)]);
            self.0.push('…');
            Err(fmt::Error)
        }
    }
    let mut short = Short(String::new());
    // The only error is the one that ends the formatting early.
    let _ = write!(short, "{text}");
    short.0
}
