//! For whom the task at hand works.
//!
//! Whoever lets somebody in, lets what is done for them run in [`acting_as`]; the one place of each service that reads a
//! namespace from a request asks [`fence`]. Where it was forgotten for whom a task works, all of it is refused.

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

/// Work for a task of its own, for whoever this one works for: a new task knows nothing of that.
pub fn going_on<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let principal = current();
    async move {
        match principal {
            Some(principal) => acting_as(principal, work).await,
            // Whatever asks for whom it is will be refused.
            None => work.await,
        }
    }
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
    let is_theirs = CURRENT.try_with(|principal| principal.reaches(namespace)).map_err(|_| nobody())?;
    if is_theirs { Ok(()) } else { Err(forbidden_namespace()) }
}

/// Refuses what concerns more than one namespace to whoever is bound to one.
pub fn fence_everything() -> Result<(), Error> {
    let is_theirs = CURRENT.try_with(|principal| principal.reach == Reach::Everything).map_err(|_| nobody())?;
    if is_theirs { Ok(()) } else { Err(forbidden_namespace()) }
}

/// Refuses to work as another agent than the one that somebody is bound to; `agent` is nothing where it is yet to be found.
pub fn fence_agent(principal: Option<&Principal>, namespace: &Namespace, agent: Option<AgentId>) -> Result<(), Error> {
    let principal = principal.ok_or_else(nobody)?;
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
    let own = current().ok_or_else(nobody)?.agent;
    match (own, agent) {
        (Some(own), Some(agent)) if own != agent => {
            let message = "this credential is another agent's: an agent speaks for itself alone";
            Err(Error::new(Code::Forbidden, "agent_forbidden", message))
        }
        (own, agent) => Ok(own.or(agent)),
    }
}

/// For where it was forgotten who asks.
pub(crate) fn nobody() -> Error {
    Error::new(Code::Unauthenticated, "unauthenticated", "it is not said for whom this is asked")
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
        let nobody = [fence(&namespace("red")), fence_everything(), speaking_as(None).map(drop)];
        assert!(nobody.iter().all(|refused| refused.as_ref().is_err_and(|error| error.code == Code::Unauthenticated)));
        let tried = async { (fence(&namespace("blue")), fence(&namespace("red")), fence_everything()) };
        let (own, other, all) = acting_as(Arc::clone(&stranger), tried).await;
        assert!(own.is_ok());
        assert_eq!(other.unwrap_err().reason, "namespace_forbidden");
        assert_eq!(all.unwrap_err().code, Code::Forbidden);
        // A task of its own goes on for them, and for nobody where nobody has asked.
        let work = || going_on(async { fence(&namespace("red")) });
        let elsewhere = CURRENT.sync_scope(Arc::clone(&stranger), work);
        assert_eq!(elsewhere.await.unwrap_err().reason, "namespace_forbidden");
        assert_eq!(work().await.unwrap_err().code, Code::Unauthenticated);
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
        assert_eq!(fence_agent(None, &namespace("red"), None).unwrap_err().code, Code::Unauthenticated);
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
        let service = async { speaking_as(Some(other)).unwrap() };
        assert_eq!(acting_as(Arc::new(Principal::service("orchestrator")), service).await, Some(other));
    }
}
