//! Where the members of large values are, remembered for a transition: hundreds of instances of a `for_each` may read the
//! same few fields of one large output.

use std::{cell::RefCell, collections::HashMap, ops::Range};

use domain::Payload;
use serde_json::value::RawValue;

use super::Segment;

/// From how many bytes on a value is worth an outline.
pub(super) const LARGE: usize = 16 << 10;
/// How many are remembered: of the input, of an output or two, of a list in it.
const REMEMBERED: usize = 4;

/// The members of the object or list at `place` in `whole`, each with its place in it.
struct Outline {
    /// Kept, so that no other payload can have its address.
    whole: Payload,
    place: Range<usize>,
    members: Members,
}

enum Members {
    Fields(HashMap<String, Range<usize>>),
    Elements(Vec<Range<usize>>),
}

thread_local! {
    static OUTLINES: RefCell<Vec<Outline>> = const { RefCell::new(Vec::new()) };
}

/// Forgets them, at the end of a transition.
pub(crate) fn forget() {
    OUTLINES.with_borrow_mut(Vec::clear);
}

/// The place of `segment` in the value at `place` in `whole`; absent where it has none, an error where it is of another kind.
pub(super) fn find(
    whole: &Payload,
    place: Range<usize>,
    segment: &Segment,
) -> Result<Option<Range<usize>>, serde_json::Error> {
    OUTLINES.with_borrow_mut(|outlines| {
        let known = outlines.iter().position(|outline| {
            outline.place == place
                && std::ptr::eq(outline.whole.as_str(), whole.as_str())
                && outline.members.has_kind_of(segment)
        });
        let members = match known {
            Some(known) => &outlines[known].members,
            None => {
                let members = Members::read(whole.as_str(), &place, segment)?;
                outlines.truncate(REMEMBERED - 1);
                outlines.insert(0, Outline { whole: whole.clone(), place, members });
                &outlines[0].members
            }
        };
        Ok(members.get(segment))
    })
}

impl Members {
    fn read(whole: &str, place: &Range<usize>, segment: &Segment) -> Result<Self, serde_json::Error> {
        let text = &whole[place.clone()];
        let begin = whole.as_ptr().addr();
        let place_of = |raw: &RawValue| {
            let at = raw.get().as_ptr().addr() - begin;
            at..at + raw.get().len()
        };
        Ok(match segment {
            Segment::Field(_) => {
                // Of equal keys the last, as everywhere: a map keeps that one.
                let fields: HashMap<String, &RawValue> = serde_json::from_str(text)?;
                Self::Fields(fields.into_iter().map(|(name, raw)| (name, place_of(raw))).collect())
            }
            Segment::Element(_) | Segment::Index => {
                let elements: Vec<&RawValue> = serde_json::from_str(text)?;
                Self::Elements(elements.into_iter().map(place_of).collect())
            }
        })
    }

    fn has_kind_of(&self, segment: &Segment) -> bool {
        matches!(self, Self::Fields(_)) == matches!(segment, Segment::Field(_))
    }

    fn get(&self, segment: &Segment) -> Option<Range<usize>> {
        match (self, segment) {
            (Self::Fields(fields), Segment::Field(name)) => fields.get(name).cloned(),
            (Self::Elements(elements), Segment::Element(index)) => elements.get(*index).cloned(),
            (Self::Fields(_) | Self::Elements(_), _) => None,
        }
    }
}
