//! Messages, each with the end that it must come to whatever happens to the processes meanwhile.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use testkit::{Api, eventually};

/// Hand-overs before a dead letter, where messages are sent that are given back for ever. Far more than connections break while
/// one message is dealt with, so that what is to be acknowledged never dies of them.
pub(crate) const DELIVERY_LIMIT: u32 = 8;

/// What a message says its agent is to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Acknowledge it.
    Ack,
    /// Give it back as often as this, and acknowledge it then.
    AckAfter(u32),
    /// Let the session die when it comes first, and acknowledge it when it comes again.
    AckAfterDeath,
    /// Reject it.
    Reject,
    /// Give it back for ever.
    GiveBack,
}

/// Each once.
pub(crate) const FATES: &[Fate] =
    &[Fate::Ack, Fate::AckAfter(1), Fate::AckAfter(2), Fate::AckAfterDeath, Fate::Reject, Fate::GiveBack];

/// An agent that messages are sent to, and what they say: one of each whenever it is its turn.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    pub(crate) agent: String,
    pub(crate) fates: &'static [Fate],
}

/// What became of messages.
#[derive(Debug, Default)]
pub(crate) struct Dealt {
    /// How many were acknowledged.
    pub(crate) acknowledged: usize,
    /// How many are dead letters, by reason.
    dead: BTreeMap<&'static str, usize>,
}

impl Dealt {
    /// How many are dead letters for a reason.
    pub(crate) fn dead(&self, reason: &str) -> usize {
        self.dead.get(reason).copied().unwrap_or_default()
    }
}

impl Fate {
    /// In the words of a message's payload.
    pub(crate) fn payload(self) -> Value {
        let place = FATES.iter().position(|fate| *fate == self);
        json!({ "fate": place })
    }

    /// What a message's payload says.
    pub(crate) fn of(payload: &Value) -> Option<Self> {
        FATES.get(usize::try_from(payload["fate"].as_u64()?).ok()?).copied()
    }

    /// Why it is a dead letter in the end; none where it is acknowledged.
    const fn dies_of(self) -> Option<&'static str> {
        match self {
            Self::Ack | Self::AckAfter(_) | Self::AckAfterDeath => None,
            Self::Reject => Some("rejected"),
            Self::GiveBack => Some("delivery_limit"),
        }
    }

    /// How many hand-overs its record has at least. One that came to nothing may be missing where communication was killed before
    /// it was recorded; the one after which it died is not.
    const fn hand_overs(self) -> u32 {
        match self {
            Self::Ack | Self::AckAfter(_) | Self::AckAfterDeath | Self::Reject => 1,
            Self::GiveBack => DELIVERY_LIMIT,
        }
    }
}

/// Each comes to its end, once, and its dead letter, if that is its end, is there once.
pub(crate) async fn check_messages(api: &Api, messages: &HashMap<String, Fate>) -> Dealt {
    /// Looked at together.
    const AT_ONCE: usize = 8;
    stream::iter(messages).for_each_concurrent(AT_ONCE, |(id, fate)| check_message(api, id, *fate)).await;

    let (mut letters, mut dealt) = (HashMap::<String, Vec<Value>>::new(), Dealt::default());
    for letter in api.all("/api/v1/dead-letters?kind=message&include_replayed=true&limit=500").await {
        let subject = letter["subject_id"].as_str().expect("a letter names its message").to_owned();
        letters.entry(subject).or_default().push(letter["reason"].clone());
    }
    for (id, fate) in messages {
        let reasons = letters.get(id).map_or(&[][..], Vec::as_slice);
        assert!(reasons.iter().eq(fate.dies_of().iter()), "the dead letters of {id}, {fate:?}: {reasons:?}");
        match fate.dies_of() {
            None => dealt.acknowledged += 1,
            Some(reason) => *dealt.dead.entry(reason).or_default() += 1,
        }
    }
    dealt
}

async fn check_message(api: &Api, id: &str, fate: Fate) {
    let is_end = |status: &Value| status == "acked" || status == "dead";
    let message = eventually("the message is dealt with", || async {
        let message = api.get(&format!("/api/v1/messages/{id}")).await.expect(200);
        if is_end(&message["status"]) { Ok(message) } else { Err(message) }
    })
    .await;
    let history = message["history"].as_array().expect("a message has a history");
    let ends: Vec<_> = history.iter().filter(|event| is_end(&event["status"])).collect();
    let [end] = ends[..] else { panic!("it ends once, {fate:?}: {message:#}") };
    assert_eq!(end["status"], message["status"], "{message:#}");
    match fate.dies_of() {
        None => assert_eq!(end["status"], "acked", "{fate:?}: {message:#}"),
        Some(reason) => {
            let why = end["detail"].as_str().unwrap_or_default();
            assert!(end["status"] == "dead" && why.starts_with(reason), "{fate:?}: {message:#}");
        }
    }
    let hand_overs = message["deliveries"].as_u64().expect("deliveries are counted");
    assert!(hand_overs >= fate.hand_overs().into(), "{fate:?}: {message:#}");
}

/// No message waits for anything.
pub(crate) async fn check_none_waits(api: &Api) {
    for status in ["accepted", "queued", "delivered"] {
        let left = api.all(&format!("/api/v1/messages?status={status}")).await;
        assert!(left.is_empty(), "{status}: {left:#?}");
    }
}
