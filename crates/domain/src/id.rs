//! Ids: a prefix that tells the kind, and a ULID that orders them by time (<https://github.com/ulid/spec>).

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ulid::Ulid;

use crate::Clock;

/// A text that is not an id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an id like {prefix}_01jx4q3nd8e5r0cawm6n8gs3kt, not {found:?}")]
pub struct IdError {
    /// The kind's prefix.
    pub prefix: &'static str,
    /// What was found, shortened.
    pub found: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// What every id of this kind starts with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, later in order than those of earlier milliseconds.
            pub fn generate(clock: &dyn Clock) -> Self {
                let since_epoch = Duration::from_micros(clock.now().as_micros().max(0).unsigned_abs());
                Self(Ulid::from_datetime(std::time::UNIX_EPOCH + since_epoch))
            }

            /// An id made of its parts; for tests and for ids derived from others.
            pub const fn from_parts(millis: u64, random: u128) -> Self {
                Self(Ulid::from_parts(millis, random))
            }

            /// The id's 128 bits.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                let text = self.0.array_to_str(&mut buffer);
                text.make_ascii_lowercase();
                write!(formatter, concat!($prefix, "_{}"), text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = || IdError { prefix: $prefix, found: text.chars().take(64).collect() };
                let encoded = text.strip_prefix(concat!($prefix, "_")).ok_or_else(error)?;
                // One spelling per id, so that texts can be compared: lower case only.
                if encoded.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(error());
                }
                let id = Self(Ulid::from_string(encoded).map_err(|_| error())?);
                // The ULID decoder also takes `i`, `l` and `o` for digits; a second spelling would be a second key.
                if id.to_string() == text { Ok(id) } else { Err(error()) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// An agent, `agt_…`.
    AgentId = "agt";
    /// An API key, `key_…`.
    ApiKeyId = "key";
    /// A dead letter, `dlt_…`.
    DeadLetterId = "dlt";
    /// An execution, `exe_…`.
    ExecutionId = "exe";
    /// One process that works as an agent, over one session after another, `ins_…`.
    InstanceId = "ins";
    /// A message, `msg_…`.
    MessageId = "msg";
    /// One process of a service, `rep_…`; new at every start.
    ReplicaId = "rep";
    /// An agent session, `ses_…`.
    SessionId = "ses";
    /// A signal, `sig_…`.
    SignalId = "sig";
    /// A workflow, `wf_…`.
    WorkflowId = "wf";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ManualClock, Timestamp};

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = ExecutionId::generate(&ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("exe_"));
    }

    #[test]
    fn ids_of_later_times_sort_later_as_texts_too() {
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        let earlier = AgentId::generate(&clock);
        clock.advance(Duration::from_millis(1));
        let later = AgentId::generate(&clock);
        assert!(earlier < later);
        assert!(earlier.to_string() < later.to_string());
    }

    #[test]
    fn other_prefixes_and_spellings_are_refused() {
        let id = AgentId::from_parts(1, 1).to_string();
        for wrong in [id.to_uppercase(), id.replace("agt_", "exe_"), id.replace('0', "o"), "agt_".into(), String::new()]
        {
            assert!(wrong.parse::<AgentId>().is_err(), "{wrong}");
        }
    }
}
