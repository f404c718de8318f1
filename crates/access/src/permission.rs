//! What can be done.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is no permission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no permission {0:?}")]
pub struct UnknownPermission(pub String);

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One thing that can be done; its text is what scopes name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Permission {
            $($(#[$doc])* $name,)*
        }

        impl Permission {
            /// Every one, in the order of the documents.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

permissions! {
    /// Look at agents.
    AgentsRead = "agents:read",
    /// Register, change and remove agents.
    AgentsWrite = "agents:write",
    /// Look at messages.
    MessagesRead = "messages:read",
    /// Send messages to agents.
    MessagesSend = "messages:send",
    /// Hear what is published.
    TopicsRead = "topics:read",
    /// Publish.
    TopicsPublish = "topics:publish",
    /// Look at definitions.
    WorkflowsRead = "workflows:read",
    /// Create, change and archive definitions.
    WorkflowsWrite = "workflows:write",
    /// Look at executions and their events.
    ExecutionsRead = "executions:read",
    /// Start executions.
    ExecutionsStart = "executions:start",
    /// Cancel, pause, resume, retry and signal executions.
    ExecutionsControl = "executions:control",
    /// Look at dead letters.
    DeadLettersRead = "dead_letters:read",
    /// Replay and purge dead letters.
    DeadLettersManage = "dead_letters:manage",
    /// Work as an agent.
    SessionsOpen = "sessions:open",
    /// See oneself, and exchange a key for a token.
    Own = "auth:own",
    /// Create, look at, rotate and revoke API keys.
    KeysManage = "keys:manage",
    /// Read the audit log.
    AuditRead = "audit:read",
    /// Metrics and counts of the whole installation.
    SystemRead = "system:read",
    /// What services tell each other; no role has it.
    Internal = "internal",
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        let found = Self::ALL.iter().find(|permission| permission.as_str() == text);
        found.copied().ok_or_else(|| UnknownPermission(text.to_owned()))
    }
}

/// A set of permissions; as text with spaces between them, as the scopes of OAuth are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Permissions(u32);

impl Permissions {
    /// None.
    pub const NONE: Self = Self(0);

    /// These.
    pub const fn of(permissions: &[Permission]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < permissions.len() {
            bits |= 1 << permissions[at] as u32;
            at += 1;
        }
        Self(bits)
    }

    /// Every one, those of services among them.
    pub const fn all() -> Self {
        Self::of(Permission::ALL)
    }

    /// Both.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn only(self, scopes: Self) -> Self {
        Self(self.0 & scopes.0)
    }

    /// Is it one of them?
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u32) != 0
    }

    /// Are all of them in `other`?
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Is there none?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |permission| self.contains(*permission))
    }

    /// Reads a text, and leaves out what is not known: a newer process may know more, and what is not known is not granted.
    #[must_use]
    pub fn known_of(text: &str) -> Self {
        text.split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .fold(Self::NONE, |all, permission| all.and(Self::of(&[permission])))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<T: IntoIterator<Item = Permission>>(permissions: T) -> Self {
        permissions.into_iter().fold(Self::NONE, |all, permission| all.and(Self::of(&[permission])))
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, permission) in self.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(formatter, "{space}{permission}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{{{self}}}")
    }
}

impl FromStr for Permissions {
    type Err = UnknownPermission;

    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        text.split_ascii_whitespace().map(str::parse).collect()
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_reads_as_it_is_written() {
        for set in [Permissions::NONE, Permissions::all(), Permissions::of(&[Permission::Own, Permission::AgentsRead])]
        {
            assert_eq!(set.to_string().parse(), Ok(set));
        }
        assert!("agents:read agents:fly".parse::<Permissions>().is_err());
        assert_eq!(Permissions::known_of("agents:fly agents:read"), Permissions::of(&[Permission::AgentsRead]));
    }

    #[test]
    fn a_set_is_within_what_has_all_of_it() {
        let (read, write) = (Permissions::of(&[Permission::AgentsRead]), Permissions::of(&[Permission::AgentsWrite]));
        assert!(read.is_within(read.and(write)) && !read.and(write).is_within(read));
        assert_eq!(read.and(write).only(read), read);
        assert!(read.only(write).is_empty());
    }
}
