//! The registry as its callers see it: over its own gRPC service, in process, on a real database file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod replicas;

use std::{sync::Arc, time::Duration};

use contracts::Link;
use contracts::registry::v1::{
    Agent, AgentStatus, CapabilityList, DeleteAgentRequest, GetAgentRequest, HeartbeatRequest, ListAgentsRequest,
    RegisterAgentRequest, SelectAgentsRequest, SessionReport, UpdateAgentRequest, WatchAgentsRequest,
    registry_service_client::RegistryServiceClient, select_agents_request::Target, watch_agents_response::Change,
};
use domain::{ManualClock, Timestamp};
use errors::{Code, Error};
use lifecycle::{Shutdown, Tasks};
use registry::{Service, Settings};
use tempfile::TempDir;

/// A registry that can be started again on the same file.
struct World {
    directory: TempDir,
    clock: Arc<ManualClock>,
    tasks: Tasks,
    service: Service,
}

impl World {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let (tasks, service) = Self::open(&directory, &clock).await;
        Self { directory, clock, tasks, service }
    }

    async fn open(directory: &TempDir, clock: &Arc<ManualClock>) -> (Tasks, Service) {
        let mut settings = Settings::default();
        settings.database.path = directory.path().join("registry.db");
        let tasks = Tasks::new(Shutdown::new());
        let service =
            registry::start(settings, Arc::clone(clock) as _, &tasks, tasks.shutdown().clone()).await.unwrap();
        (tasks, service)
    }

    async fn restart(self) -> Self {
        let Self { directory, clock, tasks, service } = self;
        tasks.shutdown().drain();
        tasks.join(Duration::from_secs(5)).await.unwrap();
        service.close().await;
        let (tasks, service) = Self::open(&directory, &clock).await;
        Self { directory, clock, tasks, service }
    }

    fn client(&self) -> RegistryServiceClient<Link> {
        RegistryServiceClient::new(self.service.link().under(&access::ActingAs::service("test")))
    }

    async fn register(&self, agent: RegisterAgentRequest) -> Agent {
        self.client().register_agent(agent).await.unwrap().into_inner().agent.unwrap()
    }

    async fn refused(&self, agent: RegisterAgentRequest) -> Error {
        self.client().register_agent(agent).await.unwrap_err().into()
    }

    async fn hear(&self, agent: &Agent, in_flight: u32, capacity: u32) {
        let report = SessionReport {
            namespace: agent.namespace.clone(),
            agent_id: agent.id.clone(),
            session_id: format!("ses_of_{}", agent.id),
            in_flight,
            capacity,
            closed: false,
        };
        let unknown = self.client().heartbeat(HeartbeatRequest { reports: vec![report] }).await.unwrap().into_inner();
        assert!(unknown.unknown_agent_ids.is_empty());
    }

    async fn status(&self, agent: &Agent) -> AgentStatus {
        let request = GetAgentRequest { namespace: agent.namespace.clone(), agent_id: agent.id.clone() };
        self.client().get_agent(request).await.unwrap().into_inner().agent.unwrap().status()
    }

    async fn list(&self, request: ListAgentsRequest) -> (Vec<String>, String) {
        let page = self.client().list_agents(request).await.unwrap().into_inner();
        (page.agents.into_iter().map(|agent| agent.name).collect(), page.next_page_token)
    }
}

fn describe(name: &str, capabilities: &[&str]) -> RegisterAgentRequest {
    RegisterAgentRequest {
        agent_type: "underwriter".to_owned(),
        name: name.to_owned(),
        capabilities: capabilities.iter().map(|&capability| capability.to_owned()).collect(),
        config: r#"{"temper": "calm"}"#.into(),
        ..RegisterAgentRequest::default()
    }
}

#[tokio::test]
async fn what_is_registered_survives_a_restart() {
    let world = World::start().await;
    let registered = world.register(describe("ada", &["vote", "score", "vote"])).await;
    assert_eq!(registered.capabilities, ["score", "vote"]);
    assert_eq!(registered.status(), AgentStatus::Offline);
    let world = world.restart().await;
    let request = GetAgentRequest { namespace: String::new(), agent_id: registered.id.clone() };
    assert_eq!(world.client().get_agent(request).await.unwrap().into_inner().agent.unwrap(), registered);
}

#[tokio::test]
async fn a_name_means_one_agent_of_a_namespace() {
    let world = World::start().await;
    let ada = world.register(describe("ada", &[])).await;
    let error = world.refused(describe("ada", &[])).await;
    assert_eq!((error.code, error.reason), (Code::Exists, "agent_name_taken"));
    let elsewhere = RegisterAgentRequest { namespace: "other".to_owned(), ..describe("ada", &[]) };
    assert_ne!(world.register(elsewhere).await.id, ada.id);

    let attached = world.register(RegisterAgentRequest { attach: true, ..describe("ada", &["new"]) }).await;
    assert_eq!((&attached.id, attached.revision, &*attached.capabilities), (&ada.id, 2, &["new".to_owned()][..]));
    let other_type = RegisterAgentRequest { attach: true, agent_type: "clerk".to_owned(), ..describe("ada", &[]) };
    assert_eq!(world.refused(other_type).await.reason, "agent_name_taken");

    let delete =
        DeleteAgentRequest { namespace: String::new(), agent_id: ada.id.clone(), ..DeleteAgentRequest::default() };
    assert!(world.client().delete_agent(delete.clone()).await.unwrap().into_inner().deleted);
    assert!(!world.client().delete_agent(delete).await.unwrap().into_inner().deleted);
    assert_ne!(world.register(describe("ada", &[])).await.id, ada.id);
}

#[tokio::test]
async fn a_chosen_id_makes_a_registration_repeatable() {
    let world = World::start().await;
    let id = domain::AgentId::from_parts(1, 1).to_string();
    let chosen = RegisterAgentRequest { agent_id: id.clone(), ..describe("ada", &[]) };
    let first = world.client().register_agent(chosen.clone()).await.unwrap().into_inner();
    let second = world.client().register_agent(chosen.clone()).await.unwrap().into_inner();
    assert_eq!((first.created, second.created), (true, false));
    assert_eq!(first.agent, second.agent);
    let elsewhere = RegisterAgentRequest { namespace: "other".to_owned(), ..chosen };
    assert_eq!(world.refused(elsewhere).await.reason, "agent_id_taken");
}

#[tokio::test]
async fn every_fault_is_named_at_once() {
    let world = World::start().await;
    let faulty = RegisterAgentRequest {
        agent_type: "no spaces".to_owned(),
        name: " ".to_owned(),
        capabilities: vec!["fine".to_owned(), "not fine".to_owned()],
        config: "[]".into(),
        ..RegisterAgentRequest::default()
    };
    let error = world.refused(faulty).await;
    let fields: Vec<_> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(error.code, Code::Invalid);
    assert_eq!(fields, ["/agent_type", "/name", "/capabilities/1", "/config"]);
}

#[tokio::test]
async fn a_change_replaces_what_it_names_and_notices_another_one() {
    let world = World::start().await;
    let ada = world.register(describe("ada", &["vote"])).await;
    let change = UpdateAgentRequest {
        agent_id: ada.id.clone(),
        capabilities: Some(CapabilityList { values: Vec::new() }),
        expected_revision: 1,
        ..UpdateAgentRequest::default()
    };
    let changed = world.client().update_agent(change.clone()).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((changed.revision, changed.capabilities.len(), &changed.config), (2, 0, &ada.config));
    let error: Error = world.client().update_agent(change).await.unwrap_err().into();
    assert_eq!((error.code, error.reason), (Code::Conflict, "agent_changed"));
    let delete = DeleteAgentRequest { agent_id: ada.id.clone(), expected_revision: 1, ..DeleteAgentRequest::default() };
    let error: Error = world.client().delete_agent(delete.clone()).await.unwrap_err().into();
    assert_eq!((error.code, error.reason), (Code::Conflict, "agent_changed"));
    let seen = DeleteAgentRequest { expected_revision: 2, ..delete.clone() };
    assert!(world.client().delete_agent(seen).await.unwrap().into_inner().deleted);
    assert!(!world.client().delete_agent(delete).await.unwrap().into_inner().deleted, "what is gone has no revision");
}

#[tokio::test]
async fn lists_filter_and_page() {
    let world = World::start().await;
    for number in 0..5 {
        world.clock.advance(Duration::from_millis(1));
        world.register(describe(&format!("a{number}"), if number % 2 == 0 { &["even"] } else { &[] })).await;
    }
    let page = |token: String| ListAgentsRequest { page_size: 2, page_token: token, ..ListAgentsRequest::default() };
    let (first, token) = world.list(page(String::new())).await;
    let (second, token) = world.list(page(token)).await;
    let (third, token) = world.list(page(token)).await;
    assert_eq!([first, second, third].concat(), ["a0", "a1", "a2", "a3", "a4"]);
    assert_eq!(token, "");
    let back = |token: String| ListAgentsRequest { newest_first: true, ..page(token) };
    let (first, token) = world.list(back(String::new())).await;
    let (second, token) = world.list(back(token)).await;
    let (third, token) = world.list(back(token)).await;
    assert_eq!([first, second, third].concat(), ["a4", "a3", "a2", "a1", "a0"]);
    assert_eq!(token, "");
    let even = ListAgentsRequest { capability: "even".to_owned(), ..ListAgentsRequest::default() };
    assert_eq!(world.list(even).await.0, ["a0", "a2", "a4"]);
    let elsewhere = ListAgentsRequest { namespace: "other".to_owned(), ..ListAgentsRequest::default() };
    assert!(world.list(elsewhere).await.0.is_empty());
    assert!(world.client().list_agents(page("nonsense".to_owned())).await.is_err());
}

#[tokio::test]
async fn sessions_make_an_agent_alive_until_their_lease_ends() {
    let world = World::start().await;
    let ada = world.register(describe("ada", &["vote"])).await;
    world.hear(&ada, 0, 2).await;
    assert_eq!(world.status(&ada).await, AgentStatus::Idle);
    world.hear(&ada, 2, 2).await;
    assert_eq!(world.status(&ada).await, AgentStatus::Busy);
    world.clock.advance(Duration::from_secs(20));
    assert_eq!(world.status(&ada).await, AgentStatus::Degraded);
    world.clock.advance(Duration::from_secs(20));
    assert_eq!(world.status(&ada).await, AgentStatus::Offline);
}

#[tokio::test]
async fn only_live_agents_of_the_namespace_are_chosen_each_once() {
    let world = World::start().await;
    let mut alive = Vec::new();
    for name in ["ada", "ben", "cyd"] {
        let agent = world.register(describe(name, &["vote"])).await;
        world.hear(&agent, 0, 1).await;
        alive.push(agent.id);
    }
    world.register(describe("asleep", &["vote"])).await;
    let elsewhere = RegisterAgentRequest { namespace: "other".to_owned(), ..describe("ada", &["vote"]) };
    let elsewhere = world.register(elsewhere).await;
    world.hear(&elsewhere, 0, 1).await;
    let select = SelectAgentsRequest {
        target: Some(Target::Capability("vote".to_owned())),
        count: 9,
        ..SelectAgentsRequest::default()
    };
    let chosen = world.client().select_agents(select).await.unwrap().into_inner();
    let mut chosen: Vec<_> = chosen.agents.into_iter().map(|agent| agent.id).collect();
    chosen.sort();
    alive.sort();
    assert_eq!(chosen, alive);
}

#[tokio::test]
async fn a_watcher_sees_what_is_there_and_then_every_change_in_order() {
    let world = World::start().await;
    let ada = world.register(describe("ada", &[])).await;
    let mut changes = world.client().watch_agents(WatchAgentsRequest::default()).await.unwrap().into_inner();
    let mut next = async || changes.message().await.unwrap().unwrap().change.unwrap();
    assert!(matches!(next().await, Change::Upserted(agent) if agent.id == ada.id));
    assert!(matches!(next().await, Change::Synced(_)));
    world.hear(&ada, 0, 1).await;
    assert!(matches!(next().await, Change::Upserted(agent) if agent.status() == AgentStatus::Idle));
    let elsewhere = RegisterAgentRequest { namespace: "other".to_owned(), ..describe("ben", &[]) };
    world.register(elsewhere).await;
    let delete =
        DeleteAgentRequest { namespace: String::new(), agent_id: ada.id.clone(), ..DeleteAgentRequest::default() };
    world.client().delete_agent(delete).await.unwrap();
    assert!(matches!(next().await, Change::Deleted(deleted) if deleted.agent_id == ada.id));
}

/// Whoever is bound to another namespace is refused by the registry itself, whatever a gateway has let through.
#[tokio::test]
async fn a_stranger_of_another_namespace_is_refused_by_every_rpc() {
    let world = World::start().await;
    let agent = world.register(describe("s-1", &[])).await;
    let namespace = agent.namespace.clone();
    let reach = access::Reach::Namespace("elsewhere".parse().unwrap());
    let stranger = Arc::new(access::Principal::of_role(access::Kind::Key, "key_1", access::Role::Admin, reach));
    let client = RegistryServiceClient::new(world.service.link().under(&access::Authorize));
    let tried = async move {
        let mut client = client;
        let id = agent.id.clone();
        let (of, one) = (|| namespace.clone(), || id.clone());
        let get = GetAgentRequest { namespace: of(), agent_id: one() };
        let delete = DeleteAgentRequest { namespace: of(), agent_id: one(), ..DeleteAgentRequest::default() };
        let update = UpdateAgentRequest { namespace: of(), agent_id: one(), ..Default::default() };
        let list = ListAgentsRequest { namespace: of(), ..Default::default() };
        let select = SelectAgentsRequest { namespace: of(), ..Default::default() };
        let register = describe("s-2", &[]);
        let watch = WatchAgentsRequest { namespace: of(), ..Default::default() };
        let everywhere = WatchAgentsRequest { all_namespaces: true, ..Default::default() };
        [
            client.get_agent(get).await.err(),
            client.delete_agent(delete).await.err(),
            client.update_agent(update).await.err(),
            client.list_agents(list).await.err(),
            client.select_agents(select).await.err(),
            client.register_agent(register).await.err(),
            client.watch_agents(watch).await.err(),
            client.watch_agents(everywhere).await.err(),
            client.heartbeat(HeartbeatRequest::default()).await.err(),
        ]
        .map(|refused| refused.map(|status| status.code()))
    };
    let refusals = access::acting_as(stranger, tried).await;
    assert_eq!(refusals, [Some(tonic::Code::PermissionDenied); 9]);
}
