//! The definitions of docs/patterns.md, each run to show that it means what its pattern means.

#![expect(clippy::unwrap_used, reason = "a test fails where what it expects is not there")]
#![expect(clippy::needless_pass_by_value, reason = "inputs are written in place")]

mod book;
mod branching;
mod cancellation;
mod instances;
mod iteration;
mod play;
#[path = "../recorded/mod.rs"]
mod recorded;
mod state;

use book::Book;

/// Patterns that need several tokens in one branch; docs/patterns.md says so of each.
const OUT_OF_SCOPE: [u32; 4] = [8, 33, 41, 42];

#[test]
fn the_book_has_every_pattern_and_a_definition_for_each_in_scope() {
    let book = Book::read();
    let expected: Vec<u32> = (1..=43).filter(|number| !OUT_OF_SCOPE.contains(number)).collect();
    assert_eq!(book.numbers_with_definition(), expected);
    assert_eq!(book.numbers_without_definition(), OUT_OF_SCOPE);
}
