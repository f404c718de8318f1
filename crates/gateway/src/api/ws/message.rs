//! What is said over a WebSocket, both ways: one JSON object in each text message, whose `type` says what it is.

use serde::{Deserialize, Serialize};

use crate::{
    api::events::Event,
    problem::Document,
    words::{ExecutionId, Name},
};

/// What a client says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Asked {
    /// Tell of an execution: of every event after `after`, and then of each as it happens. Said again it begins anew.
    Subscribe {
        execution_id: ExecutionId,
        /// The last event that is known; 0 for all.
        #[serde(default)]
        after: u64,
        /// Where that of the connection is not meant.
        namespace: Option<Name>,
    },
    /// Tell of it no more.
    Unsubscribe { execution_id: ExecutionId },
}

/// What the gateway says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Told<'a> {
    /// Events follow, from the one after `after` on.
    Subscribed { execution_id: &'a str, after: u64 },
    /// What has happened; its `sequence` is what to go on after.
    Event { execution_id: &'a str, event: &'a Event },
    /// It has ended, and all of its events were told.
    Ended { execution_id: &'a str },
    /// No more events of it follow.
    Unsubscribed { execution_id: &'a str },
    /// Something was refused, or went wrong. Where it is for an execution, no more events of it follow.
    Problem {
        #[serde(skip_serializing_if = "Option::is_none")]
        execution_id: Option<&'a str>,
        /// Seconds after which it may be said again.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        problem: Document<'a>,
    },
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// What is to be told cannot be written.
    Internal,
    /// The client has left, or cannot be reached.
    Left,
    /// The gateway stops; there may be another one.
    Restart,
    /// It has sent what is no WebSocket.
    Protocol,
    /// It has sent bytes, where texts are spoken.
    Binary,
    /// It has sent what is no UTF-8.
    Text,
    /// It has sent a frame or a message that is too large.
    TooLarge,
    /// It has sent too much that cannot be understood.
    Nonsense,
    /// Its credential is good no more.
    Credential,
    /// No answer to a ping came in time.
    Silent,
    /// It does not read what it is sent.
    Slow,
}

impl Close {
    /// The code (RFC 6455, 7.4), and why in words.
    pub(super) const fn told(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Left => None,
            Self::Internal => Some((1011, "the gateway has failed")),
            Self::Restart => Some((1012, "the gateway stops: come again")),
            Self::Protocol => Some((1002, "this is no WebSocket frame")),
            Self::Binary => Some((1003, "only text messages are understood")),
            Self::Text => Some((1007, "a text must be UTF-8")),
            Self::TooLarge => Some((1009, "the message is too large")),
            Self::Nonsense => Some((1008, "too many messages that cannot be understood")),
            Self::Credential => Some((4401, "the credential is good no more")),
            Self::Silent => Some((4408, "no pong in time")),
            Self::Slow => Some((4429, "the events are not read in time")),
        }
    }

    /// In metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Left => "left",
            Self::Restart => "restart",
            Self::Protocol => "protocol",
            Self::Binary => "binary",
            Self::Text => "text",
            Self::TooLarge => "too_large",
            Self::Nonsense => "nonsense",
            Self::Credential => "credential",
            Self::Silent => "silent",
            Self::Slow => "slow",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "exe_01jx4q3nd8e5r0cawm6n8gs3kt";

    fn parse(text: &str) -> Result<Asked, serde_json::Error> {
        serde_json::from_str(&text.replace("ID", ID))
    }

    #[test]
    fn what_is_said_is_understood_and_nothing_else() {
        let all = parse(r#"{"type":"subscribe","execution_id":"ID"}"#).unwrap();
        assert!(matches!(all, Asked::Subscribe { after: 0, namespace: None, .. }), "{all:?}");
        let rest = parse(r#"{"after":7,"execution_id":"ID","namespace":"blue","type":"subscribe"}"#).unwrap();
        assert!(matches!(rest, Asked::Subscribe { after: 7, namespace: Some(_), .. }), "{rest:?}");
        assert!(matches!(parse(r#"{"type":"unsubscribe","execution_id":"ID"}"#).unwrap(), Asked::Unsubscribe { .. }));
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"type":"subscribe"}"#,
            r#"{"type":"Subscribe","execution_id":"ID"}"#,
            r#"{"type":"subscribe","execution_id":"x"}"#,
            r#"{"type":"subscribe","execution_id":"ID","after":-1}"#,
            r#"{"type":"subscribe","execution_id":"ID","after":1.5}"#,
            r#"{"type":"subscribe","execution_id":"ID","more":1}"#,
            r#"{"type":"unsubscribe","execution_id":"ID","after":1}"#,
            r#"{"type":"subscribe","execution_id":"ID","execution_id":"ID"}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_reason_is_too_long_for_a_control_frame() {
        let all = [
            Close::Internal,
            Close::Left,
            Close::Restart,
            Close::Protocol,
            Close::Binary,
            Close::Text,
            Close::TooLarge,
            Close::Nonsense,
            Close::Credential,
            Close::Silent,
            Close::Slow,
        ];
        assert!(all.iter().filter_map(|close| close.told()).all(|(_, reason)| reason.len() <= 123));
    }

    /// What clients may say over a socket.
    mod fuzz {
        use proptest::prelude::*;
        use serde_json::{Value, json};
        use testkit::fuzz::{cases, damaged, json, mutated, text};

        use super::*;
        use crate::{fuzz::is_told, json as parser};

        fn subscribe() -> Value {
            json!({ "type": "subscribe", "execution_id": ID, "after": 7, "namespace": "blue" })
        }

        fn said() -> impl Strategy<Value = Vec<u8>> {
            let unsubscribe = json!({ "type": "unsubscribe", "execution_id": ID });
            prop_oneof![
                2 => mutated(subscribe()).prop_map(|said| said.to_string().into_bytes()),
                2 => mutated(unsubscribe).prop_map(|said| said.to_string().into_bytes()),
                2 => damaged(Just(subscribe().to_string().into_bytes())),
                1 => json().prop_map(|said| said.to_string().into_bytes()),
                1 => text().prop_map(String::into_bytes),
                1 => any::<Vec<u8>>(),
            ]
        }

        proptest! {
            #![proptest_config(cases(512))]

            #[test]
            fn what_is_understood_is_what_was_said_and_the_rest_is_told_where(said in said()) {
                match parser::parse::<Asked>(&said) {
                    Ok(asked) => {
                        let said: Value = serde_json::from_slice(&said).unwrap();
                        let (kind, id) = match &asked {
                            Asked::Subscribe { execution_id, after, namespace } => {
                                prop_assert_eq!(said.get("after").map_or(Some(0), Value::as_u64), Some(*after));
                                let named = said.get("namespace").and_then(Value::as_str).map(str::to_owned);
                                prop_assert_eq!(named, namespace.as_ref().map(ToString::to_string));
                                ("subscribe", execution_id)
                            }
                            Asked::Unsubscribe { execution_id } => ("unsubscribe", execution_id),
                        };
                        prop_assert_eq!((&said["type"], &said["execution_id"]), (&json!(kind), &json!(id.to_string())));
                    }
                    Err(problem) => is_told(&problem, serde_json::from_slice(&said).ok().as_ref())?,
                }
            }
        }
    }
}
