//! Who asks.

use std::fmt;

use domain::{AgentId, Namespace, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Permission, Permissions, Role};

/// How somebody has shown who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nobody has to, on loopback.
    Anonymous,
    /// With an API key.
    Key,
    /// With a token of ours.
    Token,
    /// With a token of another issuer: whom that calls as it likes is not whom we call so.
    Issuer,
    /// One of our own processes.
    Service,
    /// With the secret that all processes share.
    Cluster,
}

impl Kind {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Key => "key",
            Self::Token => "token",
            Self::Issuer => "issuer",
            Self::Service => "service",
            Self::Cluster => "cluster",
        }
    }
}

/// Where somebody may do what they may.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// In every namespace, and beyond them.
    Everything,
    /// In this one.
    Namespace(Namespace),
}

/// Somebody who asks, and all that counts of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// How they have shown it.
    pub kind: Kind,
    /// Who it is: a key's id, a token's subject, a service's name.
    pub subject: String,
    /// Their role; services have none.
    pub role: Option<Role>,
    /// What they may do: what their role may, within their scopes.
    pub permissions: Permissions,
    /// Where.
    pub reach: Reach,
    /// The only agent that they may work as.
    pub agent: Option<AgentId>,
}

/// An agent's access token, by which what is begun with it ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credential {
    /// What it comes from: revoked, that takes all with it that comes of it.
    pub family: String,
    /// From then on it is taken nowhere.
    pub expires_at: Timestamp,
}

impl Principal {
    /// Whoever is at this machine, where nobody has to say who they are.
    pub fn anonymous() -> Self {
        Self::of_role(Kind::Anonymous, "loopback", Role::Admin, Reach::Everything)
    }

    /// Somebody with all that comes with a role.
    pub fn of_role(kind: Kind, subject: impl Into<String>, role: Role, reach: Reach) -> Self {
        let permissions = role.permissions();
        Self { kind, subject: subject.into(), role: Some(role), permissions, reach, agent: None }
    }

    /// One of our own processes.
    pub fn service(name: impl Into<String>) -> Self {
        let (kind, permissions) = (Kind::Service, Permissions::all());
        Self { kind, subject: name.into(), role: None, permissions, reach: Reach::Everything, agent: None }
    }

    /// Whoever presents the secret that all processes share: an operator, or an agent that was given it.
    pub fn cluster() -> Self {
        Self::of_role(Kind::Cluster, "cluster", Role::Admin, Reach::Everything)
    }

    /// Within scopes.
    #[must_use]
    pub fn scoped(self, scopes: Option<Permissions>) -> Self {
        let permissions = scopes.map_or(self.permissions, |scopes| self.permissions.only(scopes));
        Self { permissions, ..self }
    }

    /// May they do it?
    pub const fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(permission)
    }

    /// May they do it in this namespace?
    pub fn reaches(&self, namespace: &Namespace) -> bool {
        match &self.reach {
            Reach::Everything => true,
            Reach::Namespace(own) => own == namespace,
        }
    }

    /// The only namespace in which they may do anything.
    pub const fn namespace(&self) -> Option<&Namespace> {
        match &self.reach {
            Reach::Everything => None,
            Reach::Namespace(own) => Some(own),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.kind.as_str(), self.subject)
    }
}
