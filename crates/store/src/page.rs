//! Parts of lists that fit into an answer.

use futures::{TryStreamExt as _, stream::BoxStream};

use crate::PageToken;

/// Bytes of what the rows of a page carry: a quarter of the largest message, so that what the contract adds to each row fits
/// in the rest.
pub const PAGE_BYTES: usize = 16 << 20;

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In the list's order.
    pub rows: Vec<T>,
    /// Is there nothing after it?
    pub is_last: bool,
}

impl<T> Page<T> {
    /// Reads at most `limit` rows, and no more than fits an answer, which holds at least one row. `rows` has one row more
    /// than the limit where there is one; `size` is what a row carries, in bytes.
    pub async fn read<R>(
        mut rows: BoxStream<'_, sqlx::Result<R>>,
        limit: usize,
        decode: impl Fn(&R) -> sqlx::Result<T>,
        size: impl Fn(&T) -> usize,
    ) -> sqlx::Result<Self> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let row = decode(&row)?;
            bytes += size(&row);
            if found.len() == limit || (bytes > PAGE_BYTES && !found.is_empty()) {
                return Ok(Self { rows: found, is_last: false });
            }
            found.push(row);
        }
        Ok(Self { rows: found, is_last: true })
    }

    /// The token of the page after this one, made from its last row.
    pub fn next(&self, token: impl FnOnce(&T) -> PageToken) -> PageToken {
        if self.is_last { PageToken::default() } else { self.rows.last().map(token).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};

    use super::*;

    async fn page(sizes: &[usize], limit: usize) -> Page<usize> {
        let rows = stream::iter(sizes.to_vec()).map(Ok).boxed();
        Page::read(rows, limit, |size| Ok(*size), |size| *size).await.unwrap()
    }

    #[tokio::test]
    async fn a_page_ends_at_its_limit_or_where_an_answer_is_full_and_has_a_row_at_least() {
        assert_eq!(page(&[1, 2, 3], 3).await, Page { rows: vec![1, 2, 3], is_last: true });
        assert_eq!(page(&[1, 2, 3], 2).await, Page { rows: vec![1, 2], is_last: false });
        let large = PAGE_BYTES + 1;
        assert_eq!(page(&[large, 1], 2).await, Page { rows: vec![large], is_last: false });
        assert_eq!(page(&[1, large], 2).await, Page { rows: vec![1], is_last: false });
        assert_eq!(page(&[], 2).await, Page { rows: vec![], is_last: true });
    }

    #[tokio::test]
    async fn the_next_page_begins_after_the_last_row() {
        let token = |row: &usize| PageToken::after(row);
        assert_eq!(page(&[5, 6], 1).await.next(token), PageToken::after(5));
        assert_eq!(page(&[5], 1).await.next(token), PageToken::default());
    }
}
