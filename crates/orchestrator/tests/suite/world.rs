//! A database in a folder, the fakes around it, and orchestrators on it.

use std::{sync::Arc, time::Duration};

use contracts::{
    Link,
    orchestrator::v1::{
        CheckLivenessRequest, CreateWorkflowRequest, Event, Execution, ExecutionStatus, GetExecutionRequest,
        ListEventsRequest, SignalExecutionRequest, StartExecutionRequest, VerifyExecutionRequest, Workflow,
        execution_service_client::ExecutionServiceClient, start_execution_request,
        workflow_service_client::WorkflowServiceClient,
    },
};
use domain::SystemClock;
use lifecycle::{Shutdown, Tasks};
use orchestrator::{Peers, Service, Settings};
use serde_json::Value;
use tonic::Status;

use super::fakes::{Communication, Registry, eventually};

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) communication: Communication,
    pub(crate) registry: Registry,
}

/// One orchestrator.
pub(crate) struct Node {
    pub(crate) tasks: Tasks,
    pub(crate) service: Service,
    pub(crate) executions: ExecutionServiceClient<Link>,
    pub(crate) workflows: WorkflowServiceClient<Link>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            communication: Communication::new(),
            registry: Registry::default(),
        }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("orchestrator.db")
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings {
            sweep_interval: Duration::from_millis(50),
            voter_grace: Duration::from_millis(50),
            ..Settings::default()
        };
        settings.database.path = self.path();
        settings
    }

    pub(crate) async fn start(&self) -> Node {
        let tasks = Tasks::new(Shutdown::new());
        let peers = Peers { registry: self.registry.link(), communication: self.communication.link() };
        let service = orchestrator::start(self.settings(), peers, Arc::new(SystemClock), &tasks).await.unwrap();
        let executions = ExecutionServiceClient::new(service.link());
        let workflows = WorkflowServiceClient::new(service.link());
        Node { tasks, service, executions, workflows }
    }

    /// Runs SQL behind the orchestrator's back.
    pub(crate) async fn sql(&self, sql: &'static str) {
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(self.path()).busy_timeout(Duration::from_secs(5));
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::query(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

impl Node {
    /// As `kill -9` does: everything is dropped where it stands.
    pub(crate) async fn kill(self) {
        self.tasks.shutdown().cut();
        self.tasks.clone().join(Duration::ZERO).await.unwrap();
        drop(self.service);
    }

    pub(crate) async fn stop(self) {
        self.tasks.shutdown().drain();
        self.tasks.clone().join(Duration::from_secs(10)).await.unwrap();
        self.service.close().await;
    }

    pub(crate) async fn define(&self, definition: Value) -> Result<Workflow, Status> {
        let definition = definition.to_string().into_bytes().into();
        let request = CreateWorkflowRequest { definition, ..CreateWorkflowRequest::default() };
        self.workflows.clone().create_workflow(request).await.map(|response| response.into_inner().workflow.unwrap())
    }

    /// Defines steps of agents, one after the other, with the given actions and more fields.
    pub(crate) async fn chain(&self, steps: Value) -> String {
        let mut definition = serde_json::json!({"name": "chain", "steps": steps, "dependencies": {}});
        let ids: Vec<String> =
            steps.as_array().unwrap().iter().map(|step| step["id"].as_str().unwrap().to_owned()).collect();
        for pair in ids.windows(2) {
            definition["dependencies"][&pair[1]] = serde_json::json!([pair[0]]);
        }
        self.define(definition).await.unwrap().id
    }

    pub(crate) async fn try_run(&self, workflow: &str, id: &str, wait: Duration) -> Result<Execution, Status> {
        let request = StartExecutionRequest {
            execution_id: id.to_owned(),
            workflow: Some(start_execution_request::Workflow::WorkflowId(workflow.to_owned())),
            input: br#"{"n": 7}"#.to_vec().into(),
            wait: Some(wait.try_into().unwrap()),
            ..StartExecutionRequest::default()
        };
        let response = self.executions.clone().start_execution(request).await?;
        Ok(response.into_inner().execution.unwrap())
    }

    /// Starts, and waits for the end.
    pub(crate) async fn run(&self, workflow: &str) -> Execution {
        self.try_run(workflow, "", Duration::from_secs(20)).await.unwrap()
    }

    pub(crate) async fn begin(&self, workflow: &str) -> String {
        self.try_run(workflow, "", Duration::ZERO).await.unwrap().id
    }

    pub(crate) async fn get(&self, id: &str) -> Execution {
        let request = GetExecutionRequest { execution_id: id.to_owned(), ..GetExecutionRequest::default() };
        self.executions.clone().get_execution(request).await.unwrap().into_inner().execution.unwrap()
    }

    pub(crate) async fn ends_as(&self, id: &str, status: ExecutionStatus) -> Execution {
        eventually(&format!("{id} ends as {status:?}"), async || self.get(id).await.status() == status).await;
        self.get(id).await
    }

    pub(crate) async fn signal(&self, id: &str, name: &str, signal_id: &str) -> Result<Execution, Status> {
        let request = SignalExecutionRequest {
            execution_id: id.to_owned(),
            name: name.to_owned(),
            signal_id: signal_id.to_owned(),
            payload: br#"{"approved": true}"#.to_vec().into(),
            ..SignalExecutionRequest::default()
        };
        Ok(self.executions.clone().signal_execution(request).await?.into_inner().execution.unwrap())
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<Event> {
        let request =
            ListEventsRequest { execution_id: id.to_owned(), page_size: 1_000, ..ListEventsRequest::default() };
        self.executions.clone().list_events(request).await.unwrap().into_inner().events
    }

    pub(crate) async fn kinds(&self, id: &str, kind: &str) -> usize {
        self.events(id).await.iter().filter(|event| event.r#type == kind).count()
    }

    pub(crate) async fn faults(&self, id: &str) -> Vec<String> {
        let request = VerifyExecutionRequest { execution_id: id.to_owned(), ..VerifyExecutionRequest::default() };
        self.executions.clone().verify_execution(request).await.unwrap().into_inner().faults
    }

    /// How many are live, and how many of those are stuck.
    pub(crate) async fn liveness(&self) -> (u64, u64) {
        let found = self.executions.clone().check_liveness(CheckLivenessRequest {}).await.unwrap().into_inner();
        (found.live, found.stuck)
    }
}

/// The stable reason of a refusal.
pub(crate) fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> &'static str {
    errors::Error::from(answer.unwrap_err()).reason
}
