//! Roles: sets of permissions with a name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Permission as P, Permissions};

/// What a key or a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Runs what others have defined.
    Operator,
    /// Defines.
    Developer,
    /// Everything that people can do.
    Admin,
    /// Works: bound to one agent.
    Agent,
}

/// A text that is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?}; there are viewer, operator, developer, admin and agent")]
pub struct UnknownRole(pub String);

const VIEWER: Permissions = Permissions::of(&[
    P::AgentsRead,
    P::MessagesRead,
    P::TopicsRead,
    P::WorkflowsRead,
    P::ExecutionsRead,
    P::DeadLettersRead,
    P::SystemRead,
    P::Own,
]);
const OPERATOR: Permissions = VIEWER.and(Permissions::of(&[
    P::MessagesSend,
    P::TopicsPublish,
    P::ExecutionsStart,
    P::ExecutionsControl,
    P::DeadLettersManage,
]));
const DEVELOPER: Permissions = OPERATOR.and(Permissions::of(&[P::AgentsWrite, P::WorkflowsWrite]));
const ADMIN: Permissions = DEVELOPER.and(Permissions::of(&[P::SessionsOpen, P::KeysManage, P::AuditRead]));
const AGENT: Permissions =
    Permissions::of(&[P::AgentsRead, P::MessagesSend, P::TopicsRead, P::TopicsPublish, P::SessionsOpen, P::Own]);

impl Role {
    /// Every role, the one with the fewest permissions first; `agent` last, which stands apart.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Developer, Self::Admin, Self::Agent];

    /// What comes with it.
    pub const fn permissions(self) -> Permissions {
        match self {
            Self::Viewer => VIEWER,
            Self::Operator => OPERATOR,
            Self::Developer => DEVELOPER,
            Self::Admin => ADMIN,
            Self::Agent => AGENT,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Developer => "developer",
            Self::Admin => "admin",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_of_people_has_what_the_one_before_it_has_and_none_has_what_services_have() {
        for pair in Role::ALL[..4].windows(2) {
            assert!(pair[0].permissions().is_within(pair[1].permissions()), "{pair:?}");
        }
        for role in Role::ALL {
            assert!(!role.permissions().contains(P::Internal));
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
