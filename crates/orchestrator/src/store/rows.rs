//! What both databases keep the same way.

use domain::ExecutionId;
use workflow::Counts;

/// An id as the tables of executions keep it.
pub(super) fn key(id: ExecutionId) -> Vec<u8> {
    id.to_bytes().to_vec()
}

/// The id that [`key`] was made of.
pub(super) fn id_of(key: &[u8]) -> sqlx::Result<ExecutionId> {
    const RANDOM_BITS: u32 = 80;
    let bits = key.try_into().map(u128::from_be_bytes).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(ExecutionId::from_parts((bits >> RANDOM_BITS) as u64, bits & ((1 << RANDOM_BITS) - 1)))
}

/// A text column that is something of ours.
pub(super) fn parsed<T>(text: &str) -> sqlx::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

pub(super) fn unreadable(column: &'static str) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: "not what this release writes".into() }
}

/// Counts as a list, in the order of the states.
pub(super) fn counts_list(counts: Counts) -> [u32; 10] {
    let Counts { pending, scheduled, running, retrying, waiting, completed, failed, skipped, cancelled, compensated } =
        counts;
    [pending, scheduled, running, retrying, waiting, completed, failed, skipped, cancelled, compensated]
}

/// The counts that [`counts_list`] was made of.
pub(super) fn counts_of(list: &[u32]) -> sqlx::Result<Counts> {
    let list: [u32; 10] = list.try_into().map_err(|_| unreadable("counts"))?;
    let [pending, scheduled, running, retrying, waiting, completed, failed, skipped, cancelled, compensated] = list;
    Ok(Counts { pending, scheduled, running, retrying, waiting, completed, failed, skipped, cancelled, compensated })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_keep_the_order() {
        let ids = [ExecutionId::from_parts(1, 2), ExecutionId::from_parts(1, 3), ExecutionId::from_parts(2, 0)];
        for pair in ids.windows(2) {
            assert!(key(pair[0]) < key(pair[1]));
        }
        for id in ids {
            assert_eq!(id_of(&key(id)).unwrap(), id);
        }
        assert!(id_of(b"short").is_err());
    }
}
