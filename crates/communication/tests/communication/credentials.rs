//! Sessions that end with the token that they were opened with.

use std::{sync::Arc, time::Duration};

use access::{Credential, Kind, Principal, Reach, Role, acting_as};
use contracts::communication::v1::{
    Hello, ListCredentialsRequest, RenewSessionRequest, RevokeCredentialsRequest,
    credential_service_client::CredentialServiceClient,
};
use domain::{Clock as _, Namespace, SystemClock};
use errors::{Code, Error};
use tonic::Request;

use crate::world::{Agent, World, of_type};

/// What the door finds out of a token.
struct Bearer {
    principal: Arc<Principal>,
    credential: Credential,
}

impl Bearer {
    fn of(agent: &str, namespace: &str, family: &str, seconds: u64) -> Self {
        let reach = Reach::Namespace(Namespace::from_field(namespace).unwrap());
        let own = Some(agent.parse().unwrap());
        let principal = Principal { agent: own, ..Principal::of_role(Kind::Token, agent, Role::Agent, reach) };
        let expires_at = SystemClock.now() + Duration::from_secs(seconds);
        Self { principal: Arc::new(principal), credential: Credential { family: family.to_owned(), expires_at } }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(self.credential.clone());
        request
    }

    /// A session, and its id.
    async fn opens(&self, world: &World) -> (Agent, String) {
        let agent_id = self.principal.agent.unwrap().to_string();
        let hello = Hello { agent_id, max_in_flight: 1, ..Hello::default() };
        let opening = world.open_with(hello, |requests| self.request(requests));
        let mut agent = acting_as(Arc::clone(&self.principal), opening).await;
        let session = agent.welcome().await.session_id;
        (agent, session)
    }

    async fn renews(&self, world: &World, session: &str) -> Result<(), &'static str> {
        let request = self.request(RenewSessionRequest { session_id: session.to_owned() });
        let renewed = acting_as(Arc::clone(&self.principal), async { world.sessions().renew_session(request).await });
        renewed.await.map(drop).map_err(|status| Error::from(status).reason)
    }
}

async fn in_use(world: &World, after: &str) -> Vec<String> {
    let request = ListCredentialsRequest { after_session_id: after.to_owned() };
    let told = CredentialServiceClient::new(world.link()).list_credentials(request).await.unwrap().into_inner();
    told.credentials.into_iter().map(|in_use| in_use.family).collect()
}

async fn revoke(world: &World, families: &[&str]) -> Result<(), Error> {
    let families = families.iter().map(|&family| family.to_owned()).collect();
    let request = RevokeCredentialsRequest { families };
    Ok(CredentialServiceClient::new(world.link()).revoke_credentials(request).await.map(drop)?)
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_gives_back_what_it_held_unless_it_is_renewed() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let (mut renewed, session) = Bearer::of(&id, "default", "fam_1", 3).opens(&world).await;
    let next = Bearer::of(&id, "default", "fam_2", 600);
    assert_eq!(next.renews(&world, &session).await, Ok(()));
    let orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("clerk")).await;
    assert_eq!(renewed.task().await, ("e/a/1".to_owned(), 1));

    let (mut expiring, _) = Bearer::of(&id, "default", "fam_3", 4).opens(&world).await;
    orchestrator.dispatch("e/b/1", of_type("clerk")).await;
    assert_eq!(expiring.task().await, ("e/b/1".to_owned(), 1));
    let error = expiring.error().await;
    assert_eq!((error.code, error.reason), (Code::Unauthenticated, "token_expired"));
    let (mut other, _) = next.opens(&world).await;
    assert_eq!(other.task().await, ("e/b/1".to_owned(), 2), "it went back");
    assert_eq!(in_use(&world, "").await, ["fam_2", "fam_2"], "the first goes on with the next");
}

#[tokio::test]
async fn nobody_renews_a_session_of_another_agent_or_namespace() {
    let world = World::start().await;
    let (id, other) = (world.registry.add("clerk", &[]), world.registry.add("clerk", &[]));
    let (_agent, session) = Bearer::of(&id, "default", "fam_1", 600).opens(&world).await;
    let stranger = Bearer::of(&id, "blue", "fam_2", 600);
    assert_eq!(stranger.renews(&world, &session).await, Err("session_not_found"), "as if there were none");
    let colleague = Bearer::of(&other, "default", "fam_3", 600);
    assert_eq!(colleague.renews(&world, &session).await, Err("agent_forbidden"));
    assert_eq!(colleague.renews(&world, "nonsense").await, Err("request_invalid"));
    assert_eq!(in_use(&world, "").await, ["fam_1"]);
}

#[tokio::test]
async fn what_is_revoked_ends_its_sessions_alone_and_opens_and_renews_no_other() {
    let world = World::start().await;
    let id = world.registry.add("clerk", &[]);
    let (thief, owner) = (Bearer::of(&id, "default", "fam_1", 600), Bearer::of(&id, "default", "fam_2", 600));
    let (mut first, _) = thief.opens(&world).await;
    let (mut second, _) = thief.opens(&world).await;
    // Sessions of one millisecond are in no order.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let (_agent, session) = owner.opens(&world).await;
    assert_eq!(in_use(&world, "").await, ["fam_2", "fam_1", "fam_1"], "the newest first");
    assert_eq!(in_use(&world, &session).await, ["fam_1", "fam_1"]);
    assert_eq!(revoke(&world, &["fam_9"; 501]).await.unwrap_err().reason, "request_invalid");
    revoke(&world, &["fam_1", "fam_9"]).await.unwrap();
    for session in [&mut first, &mut second] {
        let error = session.error().await;
        assert_eq!((error.code, error.reason), (Code::Unauthenticated, "token_revoked"));
    }
    assert_eq!(in_use(&world, "").await, ["fam_2"]);
    let hello = Hello { agent_id: id.clone(), ..Hello::default() };
    let again = acting_as(Arc::clone(&thief.principal), world.open_with(hello, |requests| thief.request(requests)));
    assert_eq!(again.await.error().await.reason, "token_revoked");
    assert_eq!(thief.renews(&world, &session).await, Err("token_revoked"));
    assert_eq!(in_use(&world, "").await, ["fam_2"], "it goes on");
}
