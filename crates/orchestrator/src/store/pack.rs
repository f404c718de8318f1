//! Several events of one execution in one row: one insert, one key and one look-up for all of them.
//!
//! A pack is a protobuf message with one repeated field, so one pack appended to another is the pack of both.

use domain::{ExecutionId, Timestamp};
use futures::{TryStreamExt as _, stream::BoxStream};
use prost::Message as _;
use store::{PAGE_BYTES, Page};

use super::{EventRow, NewEvent, id_of, key, unreadable};

/// No pack grows beyond, unless one event does: whoever reads one event reads its whole pack.
const MOST_BYTES: usize = 64 << 10;

/// Successive events of one execution, as their table has them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Part {
    /// The execution's key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) execution: Vec<u8>,
    /// Of the first event.
    #[prost(int64, tag = "2")]
    pub(super) sequence: i64,
    /// Microseconds since the epoch, of the first event.
    #[prost(int64, tag = "3")]
    pub(super) at: i64,
    /// A pack, or the only event itself.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) data: Vec<u8>,
    /// Of the only event.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) hash: Vec<u8>,
    /// How many events the pack has. None: `data` is the only event itself, as earlier releases wrote it.
    #[prost(uint32, tag = "6")]
    pub(super) count: u32,
}

impl Part {
    /// How many events it has.
    pub(super) const fn events(&self) -> usize {
        if self.count == 0 { 1 } else { self.count as usize }
    }

    /// The next part: is it in this one now?
    pub(super) fn absorb(&mut self, next: &Self) -> bool {
        let is_pack = self.count > 0 && next.count > 0;
        let fits = self.data.len() + next.data.len() <= MOST_BYTES;
        let after = self.sequence.checked_add(i64::from(self.count));
        let follows = self.execution == next.execution && after == Some(next.sequence);
        let Some(count) = self.count.checked_add(next.count).filter(|_| is_pack && fits && follows) else {
            return false;
        };
        self.data.extend_from_slice(&next.data);
        self.count = count;
        true
    }

    /// Its last event.
    pub(super) fn into_last(self) -> sqlx::Result<EventRow> {
        self.unpack()?.pop().ok_or_else(|| unreadable("data"))
    }

    fn unpack(self) -> sqlx::Result<Vec<EventRow>> {
        // No log is so long that the numbers after it do not fit.
        let first = u64::try_from(self.sequence).map_err(|_| unreadable("sequence"))?;
        if self.count == 0 {
            let at = Timestamp::from_micros(self.at);
            return Ok(vec![EventRow { sequence: first, at, data: self.data, hash: self.hash }]);
        }
        let pack = Pack::decode(self.data.as_slice()).map_err(|_| unreadable("data"))?;
        if pack.events.len() != self.events() {
            return Err(unreadable("count"));
        }
        let row =
            |(sequence, Packed { at, data, hash })| EventRow { sequence, at: Timestamp::from_micros(at), data, hash };
        Ok((first..).zip(pack.events).map(row).collect())
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pack {
    #[prost(message, repeated, tag = "1")]
    events: Vec<Packed>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Packed {
    #[prost(int64, tag = "1")]
    at: i64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
}

impl From<&NewEvent> for Packed {
    fn from(event: &NewEvent) -> Self {
        Self { at: event.at.as_micros(), data: event.data.clone(), hash: event.hash.to_vec() }
    }
}

/// Events in the parts that they are written in.
pub(super) fn parts(events: &[NewEvent]) -> Vec<Part> {
    let mut parts = Vec::new();
    for events in events.chunk_by(|one, next| one.execution == next.execution && one.sequence + 1 == next.sequence) {
        let mut rest = events;
        while let Some(first) = rest.first() {
            let (pack, after) = rest.split_at(count_that_fits(rest));
            rest = after;
            parts.push(Part {
                execution: key(first.execution),
                sequence: first.sequence as i64,
                at: first.at.as_micros(),
                data: Pack { events: pack.iter().map(Packed::from).collect() }.encode_to_vec(),
                hash: Vec::new(),
                count: pack.len() as u32,
            });
        }
    }
    parts
}

/// How many of these go into one pack, one at least.
fn count_that_fits(events: &[NewEvent]) -> usize {
    let mut bytes = 0;
    let fits = |event: &&NewEvent| {
        bytes += event.data.len();
        bytes <= MOST_BYTES
    };
    events.iter().take_while(fits).count().max(1)
}

/// Reads at most `limit` of the events after `after`, and no more than fits an answer, which has one at least. No part is read
/// that is not wanted.
pub(super) async fn read<R>(
    mut rows: BoxStream<'_, sqlx::Result<R>>,
    after: u64,
    limit: usize,
    decode: impl Fn(&R) -> sqlx::Result<Part>,
) -> sqlx::Result<Page<EventRow>> {
    let (mut page, mut bytes) = (Page { rows: Vec::new(), is_last: true }, 0);
    while let Some(row) = rows.try_next().await? {
        for event in decode(&row)?.unpack()?.into_iter().filter(|event| event.sequence > after) {
            bytes += event.data.len();
            if page.rows.len() == limit || (bytes > PAGE_BYTES && !page.rows.is_empty()) {
                page.is_last = false;
                return Ok(page);
            }
            page.rows.push(event);
        }
    }
    Ok(page)
}

/// Reads the logs of several executions, whose parts come one log after the other, as many as fit an answer.
pub(super) async fn read_logs<R>(
    mut rows: BoxStream<'_, sqlx::Result<R>>,
    decode: impl Fn(&R) -> sqlx::Result<Part>,
) -> sqlx::Result<Vec<(ExecutionId, Vec<EventRow>)>> {
    let (mut logs, mut bytes) = (Vec::<(ExecutionId, Vec<EventRow>)>::new(), 0);
    let mut damaged = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let part = decode(&row)?;
        let id = id_of(&part.execution)?;
        bytes += part.data.len();
        if bytes > PAGE_BYTES {
            // The last one is not whole.
            logs.pop_if(|(last, _)| *last == id);
            break;
        }
        let Ok(events) = part.unpack() else {
            damaged.push(id);
            continue;
        };
        match logs.last_mut() {
            Some((last, log)) if *last == id => log.extend(events),
            _ => logs.push((id, events)),
        }
    }
    logs.retain(|(id, _)| !damaged.contains(id));
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{StreamExt as _, stream};

    use super::*;

    fn event(sequence: u64, bytes: usize) -> NewEvent {
        let at = Timestamp::from_micros(sequence.cast_signed());
        NewEvent { execution: ExecutionId::from_parts(1, 1), sequence, at, data: vec![b'1'; bytes], hash: [7; 32] }
    }

    fn read(sequence: u64, bytes: usize) -> EventRow {
        let NewEvent { sequence, at, data, hash, .. } = event(sequence, bytes);
        EventRow { sequence, at, data, hash: hash.to_vec() }
    }

    fn of_one(events: &[NewEvent]) -> Part {
        let parts: [Part; 1] = parts(events).try_into().unwrap();
        let [part] = parts;
        part
    }

    #[test]
    fn parts_read_back_also_where_one_has_absorbed_the_next() {
        let mut part = of_one(&[event(3, 5), event(4, 0)]);
        assert!(!part.absorb(&of_one(&[event(6, 9)])), "5 is between them");
        assert!(part.absorb(&of_one(&[event(5, 9)])));
        assert_eq!(part.clone().unpack().unwrap(), [read(3, 5), read(4, 0), read(5, 9)]);
        let longer = Part { count: 4, ..part.clone() };
        assert!(longer.unpack().is_err(), "one more is said to be there");
        part.data.pop();
        assert!(part.unpack().is_err(), "the end is missing");
    }

    #[test]
    fn what_earlier_releases_wrote_is_one_event() {
        let NewEvent { sequence, at, data, hash, execution } = event(1, 5);
        let (sequence, at, hash) = (sequence.cast_signed(), at.as_micros(), hash.to_vec());
        let mut part = Part { execution: key(execution), sequence, at, data, hash, count: 0 };
        assert!(!part.absorb(&of_one(&[event(2, 5)])));
        assert_eq!(part.unpack().unwrap(), [read(1, 5)]);
    }

    #[test]
    fn no_part_grows_beyond_its_bound_unless_one_event_does() {
        let sizes = [MOST_BYTES / 2, MOST_BYTES / 2, 1, MOST_BYTES + 1, 1];
        let events: Vec<_> = (1..).zip(sizes).map(|(sequence, bytes)| event(sequence, bytes)).collect();
        let mut parts = parts(&events);
        assert_eq!(parts.iter().map(Part::events).collect::<Vec<_>>(), [2, 1, 1, 1]);
        assert!(!parts[0].absorb(&of_one(&events[2..3])));
    }

    /// The numbers of the events, whether that is all, and how many parts were read.
    async fn read_of(parts: &[Part], after: u64, limit: usize) -> (Vec<u64>, bool, usize) {
        let taken = AtomicUsize::new(0);
        let rows = stream::iter(parts).inspect(|_| _ = taken.fetch_add(1, Ordering::Relaxed)).map(Ok).boxed();
        let page = super::read(rows, after, limit, |part| Ok((*part).clone())).await.unwrap();
        let sequences = page.rows.iter().map(|event| event.sequence).collect();
        (sequences, page.is_last, taken.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_page_has_what_is_wanted_of_its_parts_and_no_more_parts_are_read() {
        let of = |from: u64| of_one(&[event(from, 5), event(from + 1, 5), event(from + 2, 5)]);
        let parts = [of(1), of(4), of(7), of(10)];
        assert_eq!(read_of(&parts[..1], 1, 2).await, (vec![2, 3], true, 1));
        assert_eq!(read_of(&parts[..1], 0, 2).await, (vec![1, 2], false, 1));
        assert_eq!(read_of(&parts[..1], 3, 3).await, (vec![], true, 1));
        assert_eq!(read_of(&parts, 1, 3).await, (vec![2, 3, 4], false, 2));
        assert_eq!(read_of(&parts, 0, 3).await, (vec![1, 2, 3], false, 2));
        let large = [of_one(&[event(1, PAGE_BYTES + 1)]), of(2)];
        assert_eq!(read_of(&large, 0, 9).await, (vec![1], false, 2));
    }

    fn part_of(execution: u128, sequence: u64, bytes: usize) -> Part {
        of_one(&[NewEvent { execution: ExecutionId::from_parts(1, execution), ..event(sequence, bytes) }])
    }

    /// Of each log that was read, its number and how many events it has.
    async fn logs_of(parts: &[Part]) -> Vec<(u128, usize)> {
        let logs = read_logs(stream::iter(parts).map(Ok).boxed(), |part| Ok((*part).clone())).await.unwrap();
        let number = |id| (0..9).find(|number| ExecutionId::from_parts(1, *number) == id).unwrap();
        logs.into_iter().map(|(id, log)| (number(id), log.len())).collect()
    }

    #[tokio::test]
    async fn logs_are_whole_or_not_there() {
        let mut parts = vec![part_of(1, 1, 5), part_of(1, 2, 5), part_of(2, 1, 5), part_of(2, 2, 5), part_of(3, 1, 5)];
        assert_eq!(logs_of(&parts).await, [(1, 2), (2, 2), (3, 1)]);
        parts[3].data.pop();
        assert_eq!(logs_of(&parts).await, [(1, 2), (3, 1)], "one is damaged");
        parts[2] = part_of(2, 1, PAGE_BYTES / 2);
        parts[3] = part_of(2, 2, PAGE_BYTES / 2);
        assert_eq!(logs_of(&parts).await, [(1, 2)], "the second does not fit");
    }

    /// What a damaged database may hold.
    mod fuzz {
        use proptest::prelude::*;
        use testkit::fuzz::{cases, damaged};

        use super::*;

        fn any_part() -> impl Strategy<Value = Part> {
            let data = of_one(&[event(3, 5), event(4, 0), event(5, 200)]).data;
            let data = prop_oneof![any::<Vec<u8>>(), damaged(Just(data.clone())), Just(data)];
            let number = prop_oneof![any::<i64>(), -3..9_i64, Just(i64::MAX), Just(i64::MAX - 1)];
            let count = prop_oneof![any::<u32>(), 0..5_u32];
            (number, any::<i64>(), data, count).prop_map(|(sequence, at, data, count)| Part {
                execution: key(ExecutionId::from_parts(1, 1)),
                sequence,
                at,
                data,
                hash: Vec::new(),
                count,
            })
        }

        proptest! {
            #![proptest_config(cases(1_024))]

            #[test]
            fn a_damaged_part_is_an_error_or_so_many_events_in_a_row(part in any_part(), next in any_part()) {
                if let Ok(events) = part.clone().unpack() {
                    prop_assert_eq!(events.len(), part.events());
                    let is_next = |pair: &[EventRow]| pair[0].sequence + 1 == pair[1].sequence;
                    prop_assert!(events.windows(2).all(is_next));
                    prop_assert!(events.iter().map(|event| event.data.len()).sum::<usize>() <= part.data.len());
                }
                let mut both = part.clone();
                if !both.absorb(&next) {
                    prop_assert_eq!(both, part);
                }
            }
        }
    }
}
