//! Paging: how many, and from where on.

use errors::Error;

/// How many items a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(u32);

impl PageSize {
    /// Where a request says nothing.
    pub const DEFAULT: u32 = 50;
    /// The most a page has.
    pub const MOST: u32 = 500;

    /// From a request's field, where zero means the default.
    pub fn from_field(size: u32) -> Self {
        Self(if size == 0 { Self::DEFAULT } else { size.min(Self::MOST) })
    }

    /// The number of items.
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// What to ask the database for: one more, which tells whether there is a next page.
    pub const fn limit(self) -> i64 {
        self.0 as i64 + 1
    }

    /// Cuts the extra row off; the token of the next page is made from the last row that stays.
    pub fn cut<T>(self, mut rows: Vec<T>, token: impl FnOnce(&T) -> PageToken) -> (Vec<T>, PageToken) {
        if rows.len() <= self.get() {
            return (rows, PageToken::default());
        }
        rows.truncate(self.get());
        let next = rows.last().map(token).unwrap_or_default();
        (rows, next)
    }
}

/// The key of the last item of a page; opaque to callers. Empty: the first page, or no further one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageToken(String);

impl PageToken {
    /// After the item with this key.
    pub fn after(key: impl std::fmt::Display) -> Self {
        Self(key.to_string())
    }

    /// From a request's field: the key to go on after, which must read as a `T`.
    pub fn parse<T: std::str::FromStr>(text: &str) -> Result<Option<T>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        let message = "not a token that a page of this list gave";
        text.parse().map(Some).map_err(|_| Error::invalid_field("page_token", "page_token_invalid", message))
    }

    /// For the answer's field.
    pub fn into_field(self) -> String {
        self.0
    }
}
