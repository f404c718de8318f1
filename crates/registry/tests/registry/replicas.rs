//! Two registries on one database, each with an index of its own.

use std::{sync::Arc, time::Duration};

use contracts::{
    Link,
    registry::v1::{
        Agent, AgentStatus, CapabilityList, DeleteAgentRequest, GetAgentRequest, HeartbeatRequest, ListAgentsRequest,
        RegisterAgentRequest, RegisterAgentResponse, SessionReport, UpdateAgentRequest, WatchAgentsRequest,
        WatchAgentsResponse, registry_service_client::RegistryServiceClient, watch_agents_response::Change,
    },
};
use domain::SystemClock;
use errors::{Code, Error};
use futures::future::{join, join_all};
use lifecycle::{Shutdown, Tasks};
use registry::Settings;
use settings::Database;
use sqlx::{Connection as _, PgConnection};
use testkit::{Servers, eventually};
use tokio::time::timeout;
use tonic::Streaming;

use crate::describe;

/// Far more than anything here takes; only a failing test waits so long.
const DEADLINE: Duration = Duration::from_secs(30);

type Client = RegistryServiceClient<Link>;

/// Two replicas; they end with the test.
struct Pair {
    url: String,
    clients: [Client; 2],
    tasks: Tasks,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.tasks.shutdown().cut();
    }
}

impl Pair {
    async fn start() -> Self {
        Self::on(Servers::shared().database().await).await
    }

    async fn on(url: String) -> Self {
        let tasks = Tasks::new(Shutdown::new());
        let (a, b) = (client(&url, &tasks).await, client(&url, &tasks).await);
        Self { url, clients: [a, b], tasks }
    }

    fn a(&self) -> Client {
        self.clients[0].clone()
    }

    fn b(&self) -> Client {
        self.clients[1].clone()
    }

    async fn register(&self, name: &str) -> Agent {
        self.a().register_agent(describe(name, &[])).await.unwrap().into_inner().agent.unwrap()
    }

    /// As this replica's index has it, which a listing shows.
    async fn listed(&self, client: &Client, id: &str) -> Option<Agent> {
        let mut client = client.clone();
        let page = client.list_agents(ListAgentsRequest { page_size: 500, ..ListAgentsRequest::default() }).await;
        page.unwrap().into_inner().agents.into_iter().find(|agent| agent.id == id)
    }

    /// Cuts the connections on which the replicas are told of changes.
    async fn cut_listeners(&self) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        sqlx::query(cut).execute(&mut connection).await.unwrap();
    }
}

async fn client(url: &str, tasks: &Tasks) -> Client {
    let database = Database { acquire_timeout: Duration::from_secs(2), ..Database::postgres(url) };
    let settings = Settings { database, ..Settings::default() };
    let service = registry::start(settings, Arc::new(SystemClock), tasks, tasks.shutdown().clone()).await.unwrap();
    RegistryServiceClient::new(service.link().under(&access::ActingAs::service("test")))
}

async fn get(mut client: Client, id: &str) -> Result<Agent, Error> {
    let request = GetAgentRequest { namespace: String::new(), agent_id: id.to_owned() };
    Ok(client.get_agent(request).await.map_err(Error::from)?.into_inner().agent.unwrap())
}

async fn register(mut client: Client, request: RegisterAgentRequest) -> Result<RegisterAgentResponse, Error> {
    Ok(client.register_agent(request).await.map_err(Error::from)?.into_inner())
}

/// Gives the agent one capability.
async fn change(mut client: Client, id: &str, capability: &str, expected_revision: i64) -> Result<Agent, Error> {
    let capabilities = Some(CapabilityList { values: vec![capability.to_owned()] });
    let agent_id = id.to_owned();
    let request = UpdateAgentRequest { agent_id, capabilities, expected_revision, ..UpdateAgentRequest::default() };
    Ok(client.update_agent(request).await.map_err(Error::from)?.into_inner().agent.unwrap())
}

async fn delete(mut client: Client, id: &str) -> bool {
    let request =
        DeleteAgentRequest { namespace: String::new(), agent_id: id.to_owned(), ..DeleteAgentRequest::default() };
    client.delete_agent(request).await.unwrap().into_inner().deleted
}

/// Reports a session; answers with the agents that are not known.
async fn hear(mut client: Client, id: &str) -> Vec<String> {
    let report = SessionReport {
        namespace: "default".to_owned(),
        agent_id: id.to_owned(),
        session_id: "ses_1".to_owned(),
        capacity: 1,
        ..SessionReport::default()
    };
    client.heartbeat(HeartbeatRequest { reports: vec![report] }).await.unwrap().into_inner().unknown_agent_ids
}

/// Watches, from the end of the first listing on.
async fn watch(mut client: Client) -> Streaming<WatchAgentsResponse> {
    let mut changes = client.watch_agents(WatchAgentsRequest::default()).await.unwrap().into_inner();
    while !matches!(next(&mut changes).await, Change::Synced(_)) {}
    changes
}

async fn next(changes: &mut Streaming<WatchAgentsResponse>) -> Change {
    timeout(DEADLINE, changes.message())
        .await
        .expect("there should have been a change")
        .unwrap()
        .unwrap()
        .change
        .unwrap()
}

#[tokio::test]
async fn what_one_replica_has_answered_the_other_knows_at_once() {
    let pair = Pair::start().await;
    for round in 0..20 {
        let agent = pair.register(&format!("a{round}")).await;
        assert_eq!(get(pair.b(), &agent.id).await.unwrap(), agent);
        assert!(hear(pair.b(), &agent.id).await.is_empty());
        assert_eq!(change(pair.b(), &agent.id, "new", 1).await.unwrap().revision, 2);
        assert!(delete(pair.a(), &agent.id).await);
        assert!(!delete(pair.b(), &agent.id).await);
        assert_eq!(change(pair.b(), &agent.id, "newer", 0).await.unwrap_err().reason, "agent_not_found");
    }
}

#[tokio::test]
async fn agents_that_nobody_knows_are_named_and_those_on_their_way_are_not() {
    let pair = Pair::start().await;
    let never = domain::AgentId::from_parts(1, 1).to_string();
    assert_eq!(hear(pair.a(), &never).await, std::slice::from_ref(&never));
    assert_eq!(get(pair.a(), &never).await.unwrap_err().reason, "agent_not_found");
    let agent = pair.register("ada").await;
    assert!(hear(pair.b(), &agent.id).await.is_empty());
    assert_eq!(get(pair.b(), &agent.id).await.unwrap().status(), AgentStatus::Idle);
    delete(pair.a(), &agent.id).await;
    eventually("the other replica to hear of the end", async || match hear(pair.b(), &agent.id).await {
        unknown if unknown == [agent.id.clone()] => Ok(()),
        unknown => Err(unknown),
    })
    .await;
}

#[tokio::test]
async fn nobody_is_sent_away_while_the_database_cannot_be_asked() {
    let servers = Servers::private(&["postgres"]);
    let pair = Pair::on(servers.database().await).await;
    servers.control("kill", "postgres");
    let on_its_way = domain::AgentId::from_parts(1, 1).to_string();
    assert!(hear(pair.a(), &on_its_way).await.is_empty());
    assert_eq!(get(pair.a(), &on_its_way).await.unwrap_err().code, Code::Unavailable);
    servers.control("start", "postgres");
    eventually("the database to be asked again", async || match hear(pair.a(), &on_its_way).await {
        unknown if unknown == [on_its_way.clone()] => Ok(()),
        unknown => Err(unknown),
    })
    .await;
    let agent = eventually("a registration", async || register(pair.a(), describe("ada", &[])).await).await;
    let agent = agent.agent.unwrap();
    eventually("the other replica to follow again", async || {
        pair.listed(&pair.clients[1], &agent.id).await.ok_or("not there")
    })
    .await;
}

#[tokio::test]
async fn of_changes_that_expect_the_same_revision_one_is_made_whoever_is_asked() {
    let pair = Pair::start().await;
    let agent = pair.register("ada").await;
    for revision in 1..=20 {
        let change = |number: usize| {
            let client = pair.clients[number % 2].clone();
            let (id, capability) = (agent.id.clone(), format!("r{revision}.{number}"));
            async move { change(client, &id, &capability, revision).await }
        };
        let (made, refused): (Vec<_>, Vec<_>) = join_all((0..6).map(change)).await.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 1, "at revision {revision}");
        assert!(refused.into_iter().all(|error| error.unwrap_err().reason == "agent_changed"));
        let made = made.into_iter().next().unwrap().unwrap();
        assert_eq!(made.revision, revision + 1);
    }
}

#[tokio::test]
async fn changes_that_expect_nothing_are_all_made() {
    let pair = Pair::start().await;
    let agent = pair.register("ada").await;
    let changes = (0..20).map(|number| {
        let (client, id) = (pair.clients[number % 2].clone(), agent.id.clone());
        async move { change(client, &id, &format!("c{number}"), 0).await.unwrap().revision }
    });
    let mut revisions = join_all(changes).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=21).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_registrations_at_once_make_one_agent() {
    let pair = Pair::start().await;
    for round in 0..20 {
        let attach = RegisterAgentRequest { attach: true, ..describe(&format!("attached-{round}"), &["same"]) };
        let (a, b) = join(register(pair.a(), attach.clone()), register(pair.b(), attach)).await;
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.agent, b.agent);
        assert!(a.created ^ b.created);

        let named = describe(&format!("named-{round}"), &[]);
        let both = join(register(pair.a(), named.clone()), register(pair.b(), named)).await;
        let refused = match both {
            (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
            other => panic!("one of both is to be refused: {other:?}"),
        };
        assert_eq!(refused.reason, "agent_name_taken");

        let agent_id = domain::AgentId::from_parts(1, round).to_string();
        let chosen = RegisterAgentRequest { agent_id, ..describe(&format!("chosen-{round}"), &[]) };
        let (a, b) = join(register(pair.a(), chosen.clone()), register(pair.b(), chosen)).await;
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.agent, b.agent);
        assert!(a.created ^ b.created);
    }
}

#[tokio::test]
async fn watchers_of_every_replica_see_an_agent_go_forward_only() {
    const CHANGES: i64 = 60;
    let pair = Pair::start().await;
    let agent = pair.register("ada").await;
    let (mut at_a, mut at_b) = (watch(pair.a()).await, watch(pair.b()).await);
    let write = async {
        for number in 0..CHANGES {
            let client = pair.clients[usize::from(number % 3 == 0)].clone();
            change(client, &agent.id, &format!("c{number}"), 0).await.unwrap();
        }
        assert!(delete(pair.b(), &agent.id).await);
    };
    let see = async |changes: &mut Streaming<WatchAgentsResponse>| {
        let mut revision = 0;
        loop {
            match next(changes).await {
                Change::Upserted(seen) if seen.id == agent.id => {
                    assert!(seen.revision >= revision, "{} after {revision}", seen.revision);
                    revision = seen.revision;
                }
                Change::Deleted(deleted) if deleted.agent_id == agent.id => return revision,
                other => panic!("unexpected {other:?}"),
            }
        }
    };
    let ((), (last_at_a, last_at_b)) = join(write, join(see(&mut at_a), see(&mut at_b))).await;
    // The last change and the end may be told as one; what was answered here was shown here.
    assert!(last_at_a >= CHANGES - 2 && last_at_b >= CHANGES - 2, "{last_at_a} {last_at_b}");
}

#[tokio::test]
async fn no_change_is_lost_where_the_connection_is() {
    let pair = Pair::start().await;
    for round in 0..10 {
        let agent = pair.register(&format!("a{round}")).await;
        let gone = pair.register(&format!("gone-{round}")).await;
        eventually("both replicas to know it", async || {
            pair.listed(&pair.clients[1], &gone.id).await.ok_or("not there")
        })
        .await;
        // While nobody listens, and while listening begins again.
        let write = async {
            change(pair.a(), &agent.id, "changed", 1).await.unwrap();
            delete(pair.a(), &gone.id).await;
            register(pair.a(), describe(&format!("b{round}"), &[])).await.unwrap().agent.unwrap()
        };
        let ((), new) = join(pair.cut_listeners(), write).await;
        eventually("the other replica to see all that was missed", async || {
            let other = &pair.clients[1];
            let changed = pair.listed(other, &agent.id).await.map(|agent| agent.revision);
            let is_gone = pair.listed(other, &gone.id).await.is_none();
            match (changed, is_gone, pair.listed(other, &new.id).await) {
                (Some(2), true, Some(_)) => Ok(()),
                seen => Err(seen),
            }
        })
        .await;
    }
}
