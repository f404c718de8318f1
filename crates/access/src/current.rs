//! For whom the task at hand works.
//!
//! Whoever lets somebody in, lets what is done for them run in [`acting_as`]; the one place of each service that reads a
//! namespace from a request asks [`fence`]. Work that nobody asked for (workers, timers) has no principal, and no fence.

use std::{future::Future, sync::Arc};

use domain::{AgentId, Namespace};
use errors::{Code, Error};
use tokio::task::futures::TaskLocalFuture;

use crate::{Principal, Reach};

tokio::task_local! {
    static CURRENT: Arc<Principal>;
}

/// For whom this task works; nothing where it works by itself.
pub fn current() -> Option<Arc<Principal>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Works for somebody.
pub async fn acting_as<F: Future>(principal: Arc<Principal>, work: F) -> F::Output {
    CURRENT.scope(principal, work).await
}

/// Makes a call and works on its answer for somebody.
pub(crate) fn scoped<F: Future>(
    principal: &Arc<Principal>,
    call: impl FnOnce() -> F,
) -> TaskLocalFuture<Arc<Principal>, F> {
    // What a service does before its future is polled counts too.
    let answer = CURRENT.sync_scope(Arc::clone(principal), call);
    CURRENT.scope(Arc::clone(principal), answer)
}

/// Refuses a namespace that is not theirs for whom this task works.
pub fn fence(namespace: &Namespace) -> Result<(), Error> {
    let is_theirs = CURRENT.try_with(|principal| principal.reaches(namespace)).unwrap_or(true);
    if is_theirs { Ok(()) } else { Err(forbidden_namespace()) }
}

/// Refuses what concerns more than one namespace to whoever is bound to one.
pub fn fence_everything() -> Result<(), Error> {
    let is_theirs = CURRENT.try_with(|principal| principal.reach == Reach::Everything).unwrap_or(true);
    if is_theirs { Ok(()) } else { Err(forbidden_namespace()) }
}

/// Refuses to work as another agent than the one that somebody is bound to; `agent` is nothing where it is yet to be found.
pub fn fence_agent(principal: Option<&Principal>, namespace: &Namespace, agent: Option<AgentId>) -> Result<(), Error> {
    let Some(principal) = principal else { return Ok(()) };
    if !principal.reaches(namespace) {
        return Err(forbidden_namespace());
    }
    if principal.agent.is_none_or(|own| Some(own) == agent) {
        return Ok(());
    }
    let message = "this credential is another agent's: say its `agent_id` in the hello";
    Err(Error::new(Code::Forbidden, "agent_forbidden", message))
}

/// Whom something comes from: an agent speaks for itself alone, and is named where it does not say so.
pub fn speaking_as(agent: Option<AgentId>) -> Result<Option<AgentId>, Error> {
    let own = current().and_then(|principal| principal.agent);
    match (own, agent) {
        (Some(own), Some(agent)) if own != agent => {
            let message = "this credential is another agent's: an agent speaks for itself alone";
            Err(Error::new(Code::Forbidden, "agent_forbidden", message))
        }
        (own, agent) => Ok(own.or(agent)),
    }
}

fn forbidden_namespace() -> Error {
    let message = "this credential is bound to another namespace";
    Error::new(Code::Forbidden, "namespace_forbidden", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Role};

    fn namespace(text: &str) -> Namespace {
        Namespace::from_field(text).unwrap()
    }

    #[tokio::test]
    async fn nobody_crosses_the_fence_but_those_who_reach_everything() {
        let bound = Reach::Namespace(namespace("blue"));
        let stranger = Arc::new(Principal::of_role(Kind::Key, "key_1", Role::Admin, bound));
        assert!(fence(&namespace("red")).is_ok() && fence_everything().is_ok(), "nobody asked");
        let tried = async { (fence(&namespace("blue")), fence(&namespace("red")), fence_everything()) };
        let (own, other, all) = acting_as(stranger, tried).await;
        assert!(own.is_ok());
        assert_eq!(other.unwrap_err().reason, "namespace_forbidden");
        assert_eq!(all.unwrap_err().code, Code::Forbidden);
        let everybody = Arc::new(Principal::anonymous());
        acting_as(everybody, async { fence(&namespace("red")).and(fence_everything()) }).await.unwrap();
    }

    #[test]
    fn an_agent_works_as_itself_alone() {
        let (own, other) = (AgentId::from_parts(1, 1), AgentId::from_parts(1, 2));
        let reach = Reach::Namespace(namespace("blue"));
        let agent = Principal { agent: Some(own), ..Principal::of_role(Kind::Key, "key_1", Role::Agent, reach) };
        let as_agent =
            |namespace: &Namespace, id| fence_agent(Some(&agent), namespace, id).map_err(|error| error.reason);
        assert_eq!(as_agent(&namespace("blue"), Some(own)), Ok(()));
        assert_eq!(as_agent(&namespace("blue"), Some(other)), Err("agent_forbidden"));
        assert_eq!(as_agent(&namespace("blue"), None), Err("agent_forbidden"));
        assert_eq!(as_agent(&namespace("red"), Some(own)), Err("namespace_forbidden"));
        assert!(fence_agent(None, &namespace("red"), None).is_ok());
    }

    #[tokio::test]
    async fn an_agent_speaks_for_itself_alone() {
        let (own, other) = (AgentId::from_parts(1, 1), AgentId::from_parts(1, 2));
        let agent =
            Principal { agent: Some(own), ..Principal::of_role(Kind::Key, "key_1", Role::Agent, Reach::Everything) };
        let tried =
            async { [None, Some(own), Some(other)].map(|agent| speaking_as(agent).map_err(|error| error.reason)) };
        let tried = acting_as(Arc::new(agent), tried).await;
        assert_eq!(tried, [Ok(Some(own)), Ok(Some(own)), Err("agent_forbidden")]);
        assert_eq!(speaking_as(Some(other)).unwrap(), Some(other), "nobody asked");
    }
}
