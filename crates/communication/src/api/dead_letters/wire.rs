//! Dead letters between the contract's types and ours.

use std::{collections::BTreeSet, fmt, str::FromStr};

use contracts::communication::v1 as proto;
use domain::{Clock, DeadLetterId, IdError, Namespace};
use errors::Error;
use store::{PageSize, PageToken};

use crate::{
    api::wire::timestamp,
    app::{DeadLetter, DeadTask, HandOver, Kind},
    error::CommunicationError,
    store::LetterFilter,
};

/// Ids that one filter names.
const MOST_IDS: usize = PageSize::MOST as usize;

const fn kind(kind: Kind) -> proto::DeadLetterKind {
    match kind {
        Kind::Message => proto::DeadLetterKind::Message,
        Kind::Task => proto::DeadLetterKind::Task,
    }
}

/// Absent: any.
pub(super) fn wanted_kind(at: &str, field: i32) -> Result<Option<Kind>, CommunicationError> {
    match proto::DeadLetterKind::try_from(field) {
        Ok(proto::DeadLetterKind::Unspecified) => Ok(None),
        Ok(wanted) => Ok(Kind::ALL.into_iter().find(|one| kind(*one) == wanted)),
        Err(_) => Err(CommunicationError::field(at, "unknown_value", "is no kind of dead letter")),
    }
}

/// Absent: any.
pub(super) fn wanted(field: String) -> Option<String> {
    Some(field).filter(|text| !text.is_empty())
}

/// Many letters must be meant: a filter that names nothing says `all`.
pub(super) fn filter(
    namespace: Namespace,
    filter: Option<proto::DeadLetterFilter>,
) -> Result<LetterFilter, CommunicationError> {
    let filter = filter.unwrap_or_default();
    if filter.dead_letter_ids.len() > MOST_IDS {
        let message = format!("has more than {MOST_IDS} ids");
        return Err(CommunicationError::field("filter.dead_letter_ids", "too_large", message));
    }
    let invalid = |error| CommunicationError::field("filter.dead_letter_ids", "invalid_id", error);
    let ids: Result<BTreeSet<DeadLetterId>, _> = filter.dead_letter_ids.iter().map(|id| id.parse()).collect();
    let found = LetterFilter {
        namespace,
        kind: wanted_kind("filter.kind", filter.kind)?,
        reason: wanted(filter.reason),
        target: wanted(filter.target),
        ids: ids.map_err(invalid)?.into_iter().collect(),
        include_replayed: filter.include_replayed,
    };
    let is_narrow = found.kind.is_some() || found.reason.is_some() || found.target.is_some() || !found.ids.is_empty();
    if !is_narrow && !filter.all {
        let message = "names nothing: give a kind, a reason, a target or ids, or say `all`";
        return Err(CommunicationError::field("filter", "missing_field", message));
    }
    Ok(found)
}

/// How far a walk over many letters has come. What dies after its beginning is not part of it, so that it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) after: Option<DeadLetterId>,
    pub(super) until: DeadLetterId,
}

impl Walk {
    pub(super) fn begin_or_go_on(token: &str, clock: &dyn Clock) -> Result<Self, Error> {
        let begin = || {
            let millis = u64::try_from(clock.now().as_micros() / 1_000).unwrap_or_default();
            Self { after: None, until: DeadLetterId::from_parts(millis, u128::MAX) }
        };
        Ok(PageToken::parse(token)?.unwrap_or_else(begin))
    }

    /// The token of the part that comes after this letter.
    pub(super) fn next(self, last: Option<DeadLetterId>) -> String {
        last.map(|last| PageToken::after(Self { after: Some(last), ..self })).unwrap_or_default().into_field()
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(after) = self.after {
            write!(formatter, "{after}")?;
        }
        write!(formatter, ":{}", self.until)
    }
}

impl FromStr for Walk {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (after, until) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { after: Some(after).filter(|id| !id.is_empty()).map(str::parse).transpose()?, until: until.parse()? })
    }
}

pub(super) fn dead_letter(letter: DeadLetter) -> proto::DeadLetter {
    proto::DeadLetter {
        id: letter.id.to_string(),
        namespace: letter.namespace.to_string(),
        kind: kind(letter.kind).into(),
        subject_id: letter.subject_id,
        target: letter.target,
        reason: letter.reason,
        detail: letter.detail,
        deliveries: letter.deliveries,
        payload: letter.payload,
        created_at: Some(timestamp(letter.created_at)),
        replayed_at: letter.replayed_at.map(timestamp),
        task: letter.task.map(dead_task),
    }
}

fn dead_task(task: DeadTask) -> proto::DeadTask {
    let hand_over = |hand_over: HandOver| proto::HandOver {
        agent_id: hand_over.agent.to_string(),
        session_id: hand_over.session.to_string(),
        at: Some(timestamp(hand_over.at)),
        ended_at: Some(timestamp(hand_over.ended_at)),
        reason: hand_over.reason,
    };
    proto::DeadTask {
        execution_id: task.execution_id,
        step_id: task.step_id,
        index: task.index,
        attempt: task.attempt,
        action: task.action,
        hand_overs: task.hand_overs.into_iter().map(hand_over).collect(),
    }
}

pub(super) fn failure((id, error): (DeadLetterId, CommunicationError)) -> proto::DeadLetterFailure {
    let error = Error::from(error);
    proto::DeadLetterFailure { dead_letter_id: id.to_string(), code: error.reason.to_owned(), message: error.message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_reads_back_from_its_token() {
        let until = DeadLetterId::from_parts(7, u128::MAX);
        for after in [None, Some(DeadLetterId::from_parts(3, 1))] {
            let walk = Walk { after, until };
            assert_eq!(walk.to_string().parse::<Walk>().unwrap(), walk);
        }
        for wrong in ["", ":", "dlt_1", &DeadLetterId::from_parts(3, 1).to_string(), &format!("x:{until}")] {
            assert!(wrong.parse::<Walk>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_does_not_mean_everything() {
        let refused = filter(Namespace::default(), None).unwrap_err();
        assert!(matches!(refused, CommunicationError::Invalid(violation) if violation.field == "filter"));
        let all = proto::DeadLetterFilter { all: true, ..proto::DeadLetterFilter::default() };
        assert!(filter(Namespace::default(), Some(all)).is_ok());
    }
}
