//! The services behind, as small fakes that remember what they were asked and answer as their contracts say.

mod agents;
mod letters;
mod topics;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use contracts::{
    Link,
    communication::v1 as communication,
    communication::v1::{
        dead_letter_service_server::DeadLetterServiceServer,
        message_service_server::{MessageService, MessageServiceServer},
        topic_service_server::TopicServiceServer,
    },
    orchestrator::v1 as orchestrator,
    orchestrator::v1::{
        execution_service_server::{ExecutionService, ExecutionServiceServer},
        workflow_service_server::{WorkflowService, WorkflowServiceServer},
    },
    registry::v1 as registry,
    registry::v1::registry_service_server::RegistryServiceServer,
};
use errors::{Code, Error, Violation};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, async_trait, service::Routes};

/// What the fakes hold.
#[derive(Default)]
pub(crate) struct State {
    /// Names of the calls, in order.
    pub(crate) calls: Vec<&'static str>,
    /// What the next calls are refused with, before anything is done.
    pub(crate) failures: Vec<Status>,
    /// What the next calls answer with after the work is done: the answer is lost on its way.
    pub(crate) lost_answers: usize,
    /// By id.
    pub(crate) agents: BTreeMap<String, registry::Agent>,
    /// By id, the definitions.
    pub(crate) workflows: BTreeMap<String, orchestrator::Workflow>,
    /// By id.
    pub(crate) executions: BTreeMap<String, orchestrator::Execution>,
    /// By id.
    pub(crate) messages: BTreeMap<String, communication::Message>,
    /// What was asked of lists of executions, in order.
    pub(crate) listings: Vec<orchestrator::ListExecutionsRequest>,
    /// Whom somebody wanted chosen, in order.
    pub(crate) selections: Vec<registry::SelectAgentsRequest>,
    /// By id, dead letters of tasks; every other is a message's.
    pub(crate) task_letters: BTreeMap<String, communication::DeadLetter>,
    /// What was published, in order.
    pub(crate) published: Vec<communication::PublishRequest>,
    /// So many of the next streams of events end after their first, as where a shard moves.
    pub(crate) early_ends: usize,
    /// Executions do not end: who follows one waits for more.
    pub(crate) is_live: bool,
    /// The metadata of the last call.
    pub(crate) metadata: tonic::metadata::MetadataMap,
}

/// All fakes, over one state.
#[derive(Clone, Default)]
pub(crate) struct Backend(Arc<Mutex<State>>);

impl Backend {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn link(&self) -> Link {
        let routes = Routes::new(RegistryServiceServer::new(self.clone()))
            .add_service(WorkflowServiceServer::new(self.clone()))
            .add_service(ExecutionServiceServer::new(self.clone()))
            .add_service(MessageServiceServer::new(self.clone()))
            .add_service(DeadLetterServiceServer::new(self.clone()))
            .add_service(TopicServiceServer::new(self.clone()));
        Link::new(routes)
    }

    /// Notes the call, or refuses it.
    fn called<T>(&self, name: &'static str, request: Request<T>) -> Result<T, Status> {
        let mut state = self.state();
        state.calls.push(name);
        state.metadata = request.metadata().clone();
        match state.failures.pop() {
            Some(failure) => Err(failure),
            None => Ok(request.into_inner()),
        }
    }

    fn answered<T>(&self, answer: T) -> Result<Response<T>, Status> {
        let mut state = self.state();
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(Response::new(answer))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "fields of messages are optional")]
pub(crate) fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn not_found(reason: &'static str) -> Status {
    Error::not_found(reason, "there is none").into()
}

fn unchanged(reason: &'static str, expected: i64, found: i64) -> Result<(), Status> {
    if expected == 0 || expected == found {
        return Ok(());
    }
    Err(Error::new(Code::Conflict, reason, "it was changed").into())
}

fn page<T: Clone>(
    items: &BTreeMap<String, T>,
    token: &str,
    size: u32,
    backwards: bool,
) -> Result<(Vec<T>, String), Status> {
    let size = if size == 0 { 50 } else { size as usize };
    if !token.is_empty() && !items.contains_key(token) {
        return Err(Error::invalid_field("page_token", "page_token_invalid", "not a token of this list").into());
    }
    let mut rest: Vec<_> = items.iter().collect();
    if backwards {
        rest.reverse();
    }
    rest.retain(|(id, _)| token.is_empty() || if backwards { id.as_str() < token } else { id.as_str() > token });
    rest.truncate(size + 1);
    let next = if rest.len() > size { rest[size - 1].0.clone() } else { String::new() };
    Ok((rest.into_iter().take(size).map(|(_, item)| item.clone()).collect(), next))
}

#[async_trait]
impl WorkflowService for Backend {
    async fn create_workflow(
        &self,
        request: Request<orchestrator::CreateWorkflowRequest>,
    ) -> Result<Response<orchestrator::CreateWorkflowResponse>, Status> {
        let request = self.called("create_workflow", request)?;
        let definition: serde_json::Value = serde_json::from_slice(&request.definition).unwrap();
        let Some(name) = definition["name"].as_str() else {
            let fault = Violation::new("/name", "wrong_type", "must be a text");
            return Err(Error::invalid("definition_invalid", "1 fault", vec![fault]).into());
        };
        let workflow = orchestrator::Workflow {
            id: request.workflow_id.clone(),
            namespace: request.namespace,
            name: name.to_owned(),
            version: 1,
            status: orchestrator::WorkflowStatus::Active.into(),
            definition: request.definition,
            created_at: at(1),
            updated_at: at(1),
            step_count: 1,
            ..orchestrator::Workflow::default()
        };
        let workflow = self.state().workflows.entry(request.workflow_id).or_insert(workflow).clone();
        self.answered(orchestrator::CreateWorkflowResponse { workflow: Some(workflow) })
    }

    async fn update_workflow(
        &self,
        request: Request<orchestrator::UpdateWorkflowRequest>,
    ) -> Result<Response<orchestrator::UpdateWorkflowResponse>, Status> {
        let request = self.called("update_workflow", request)?;
        let mut state = self.state();
        let workflow = state.workflows.get_mut(&request.workflow_id).ok_or_else(|| not_found("workflow_not_found"))?;
        unchanged("workflow_changed", request.expected_version.into(), workflow.version.into())?;
        workflow.version += 1;
        workflow.definition = request.definition;
        Ok(Response::new(orchestrator::UpdateWorkflowResponse { workflow: Some(workflow.clone()) }))
    }

    async fn get_workflow(
        &self,
        request: Request<orchestrator::GetWorkflowRequest>,
    ) -> Result<Response<orchestrator::GetWorkflowResponse>, Status> {
        let request = self.called("get_workflow", request)?;
        let Some(orchestrator::get_workflow_request::Workflow::WorkflowId(id)) = request.workflow else {
            return Err(Status::invalid_argument("by id"));
        };
        let workflow = self.state().workflows.get(&id).cloned().ok_or_else(|| not_found("workflow_not_found"))?;
        Ok(Response::new(orchestrator::GetWorkflowResponse { workflow: Some(workflow) }))
    }

    async fn list_workflows(
        &self,
        request: Request<orchestrator::ListWorkflowsRequest>,
    ) -> Result<Response<orchestrator::ListWorkflowsResponse>, Status> {
        let request = self.called("list_workflows", request)?;
        let (workflows, next_page_token) =
            page(&self.state().workflows, &request.page_token, request.page_size, request.newest_first)?;
        let named = |workflow: &orchestrator::Workflow| request.name.is_empty() || workflow.name == request.name;
        let workflows = workflows.into_iter().filter(named).collect();
        Ok(Response::new(orchestrator::ListWorkflowsResponse { workflows, next_page_token }))
    }

    async fn archive_workflow(
        &self,
        request: Request<orchestrator::ArchiveWorkflowRequest>,
    ) -> Result<Response<orchestrator::ArchiveWorkflowResponse>, Status> {
        let request = self.called("archive_workflow", request)?;
        let mut state = self.state();
        let workflow = state.workflows.get_mut(&request.workflow_id).ok_or_else(|| not_found("workflow_not_found"))?;
        unchanged("workflow_changed", request.expected_version.into(), workflow.version.into())?;
        let archived = workflow.status == i32::from(orchestrator::WorkflowStatus::Active);
        workflow.status = orchestrator::WorkflowStatus::Archived.into();
        Ok(Response::new(orchestrator::ArchiveWorkflowResponse { archived }))
    }
}

impl Backend {
    fn execution(&self, id: &str) -> Result<orchestrator::Execution, Status> {
        let state = self.state();
        let mut execution = state.executions.get(id).cloned().ok_or_else(|| not_found("execution_not_found"))?;
        execution.last_sequence = EVENTS;
        execution.ended_at = at(2).filter(|_| !state.is_live);
        Ok(execution)
    }

    fn event(sequence: u64) -> orchestrator::Event {
        orchestrator::Event {
            sequence,
            r#type: "step_completed".to_owned(),
            at: at(1),
            data: r#"{"step": "a"}"#.into(),
            hash: vec![0xab; 2].into(),
        }
    }
}

/// Events that every execution of the fake has.
pub(crate) const EVENTS: u64 = 5;

macro_rules! change {
    ($($method:ident($request:ident) -> $response:ident;)*) => {
        #[async_trait]
        impl ExecutionService for Backend {
            type WatchEventsStream =
                Pin<Box<dyn Stream<Item = Result<orchestrator::WatchEventsResponse, Status>> + Send>>;

            $(async fn $method(
                &self,
                request: Request<orchestrator::$request>,
            ) -> Result<Response<orchestrator::$response>, Status> {
                let request = self.called(stringify!($method), request)?;
                let execution = Some(self.execution(&request.execution_id)?);
                self.answered(orchestrator::$response { execution })
            })*

            async fn start_execution(
                &self,
                request: Request<orchestrator::StartExecutionRequest>,
            ) -> Result<Response<orchestrator::StartExecutionResponse>, Status> {
                let mut request = self.called("start_execution", request)?;
                if request.execution_id.is_empty() {
                    request.execution_id = domain::ExecutionId::generate(&domain::SystemClock).to_string();
                }
                let Some(orchestrator::start_execution_request::Workflow::WorkflowId(workflow_id)) = request.workflow else {
                    return Err(Status::invalid_argument("by id"));
                };
                if !self.state().workflows.contains_key(&workflow_id) {
                    return Err(not_found("workflow_not_found"));
                }
                if request.input == "7" {
                    let fault = Violation::new("", "type", "must be an object");
                    return Err(Error::invalid("input_invalid", "1 fault", vec![fault]).into());
                }
                let wait = request.wait.and_then(|wait| std::time::Duration::try_from(wait).ok()).unwrap_or_default();
                let is_endless = request.input == r#""endless""#;
                if is_endless {
                    tokio::time::sleep(wait).await;
                }
                let waited = !wait.is_zero() && !is_endless;
                let status = if waited {
                    orchestrator::ExecutionStatus::Completed
                } else {
                    orchestrator::ExecutionStatus::Running
                };
                let execution = orchestrator::Execution {
                    id: request.execution_id.clone(),
                    workflow_id,
                    status: status.into(),
                    output: if waited { request.input.clone() } else { Default::default() },
                    input: request.input,
                    created_at: at(1),
                    ..orchestrator::Execution::default()
                };
                let execution = self.state().executions.entry(request.execution_id).or_insert(execution).clone();
                self.answered(orchestrator::StartExecutionResponse { execution: Some(execution) })
            }

            async fn list_executions(
                &self,
                request: Request<orchestrator::ListExecutionsRequest>,
            ) -> Result<Response<orchestrator::ListExecutionsResponse>, Status> {
                let request = self.called("list_executions", request)?;
                let mut state = self.state();
                state.listings.push(request.clone());
                let (executions, next_page_token) = page(&state.executions, &request.page_token, request.page_size, !request.oldest_first)?;
                Ok(Response::new(orchestrator::ListExecutionsResponse { executions, next_page_token }))
            }

            async fn list_events(
                &self,
                request: Request<orchestrator::ListEventsRequest>,
            ) -> Result<Response<orchestrator::ListEventsResponse>, Status> {
                let request = self.called("list_events", request)?;
                self.execution(&request.execution_id)?;
                let last = EVENTS.min(request.after_sequence + u64::from(request.page_size));
                let events = (request.after_sequence + 1..=last).map(Self::event).collect();
                Ok(Response::new(orchestrator::ListEventsResponse { events, has_more: last < EVENTS }))
            }

            async fn watch_events(
                &self,
                request: Request<orchestrator::WatchEventsRequest>,
            ) -> Result<Response<Self::WatchEventsStream>, Status> {
                let request = self.called("watch_events", request)?;
                self.execution(&request.execution_id)?;
                let events = (request.after_sequence + 1..=EVENTS)
                    .map(|sequence| Ok(orchestrator::WatchEventsResponse { event: Some(Self::event(sequence)) }));
                let events = futures::stream::iter(events.collect::<Vec<_>>());
                let mut state = self.state();
                if state.early_ends > 0 {
                    state.early_ends -= 1;
                    return Ok(Response::new(Box::pin(events.take(1))));
                }
                if state.is_live {
                    return Ok(Response::new(Box::pin(events.chain(futures::stream::pending()))));
                }
                Ok(Response::new(Box::pin(events)))
            }

            async fn explain_execution(
                &self,
                request: Request<orchestrator::ExplainExecutionRequest>,
            ) -> Result<Response<orchestrator::ExplainExecutionResponse>, Status> {
                let request = self.called("explain_execution", request)?;
                let status = self.execution(&request.execution_id)?.status;
                let summary = "it waits for nothing".to_owned();
                Ok(Response::new(orchestrator::ExplainExecutionResponse { status, summary, waits: Vec::new() }))
            }

            async fn verify_execution(
                &self,
                request: Request<orchestrator::VerifyExecutionRequest>,
            ) -> Result<Response<orchestrator::VerifyExecutionResponse>, Status> {
                let request = self.called("verify_execution", request)?;
                self.execution(&request.execution_id)?;
                Ok(Response::new(orchestrator::VerifyExecutionResponse { events: EVENTS, faults: Vec::new() }))
            }

            async fn check_liveness(
                &self,
                request: Request<orchestrator::CheckLivenessRequest>,
            ) -> Result<Response<orchestrator::CheckLivenessResponse>, Status> {
                self.called("check_liveness", request)?;
                Ok(Response::new(orchestrator::CheckLivenessResponse::default()))
            }

            async fn report_child(
                &self,
                _: Request<orchestrator::ReportChildRequest>,
            ) -> Result<Response<orchestrator::ReportChildResponse>, Status> {
                Err(Status::unimplemented("the gateway does not call this"))
            }

            async fn review_locks(
                &self,
                _: Request<orchestrator::ReviewLocksRequest>,
            ) -> Result<Response<orchestrator::ReviewLocksResponse>, Status> {
                Err(Status::unimplemented("the gateway does not call this"))
            }
        }
    };
}

change! {
    get_execution(GetExecutionRequest) -> GetExecutionResponse;
    cancel_execution(CancelExecutionRequest) -> CancelExecutionResponse;
    pause_execution(PauseExecutionRequest) -> PauseExecutionResponse;
    resume_execution(ResumeExecutionRequest) -> ResumeExecutionResponse;
    retry_execution(RetryExecutionRequest) -> RetryExecutionResponse;
    signal_execution(SignalExecutionRequest) -> SignalExecutionResponse;
}

#[async_trait]
impl MessageService for Backend {
    async fn send_message(
        &self,
        request: Request<communication::SendMessageRequest>,
    ) -> Result<Response<communication::SendMessageResponse>, Status> {
        let message = self.called("send_message", request)?.message.unwrap();
        let message_id = message.id.clone();
        self.state().messages.entry(message_id.clone()).or_insert(message);
        let status = communication::MessageStatus::Accepted.into();
        self.answered(communication::SendMessageResponse { message_id, status })
    }

    async fn get_message(
        &self,
        request: Request<communication::GetMessageRequest>,
    ) -> Result<Response<communication::GetMessageResponse>, Status> {
        let request = self.called("get_message", request)?;
        let message = self.state().messages.get(&request.message_id).cloned();
        let mut message = message.ok_or_else(|| not_found("message_not_found"))?;
        message.created_at = at(1);
        let record = communication::MessageRecord {
            message: Some(message),
            status: communication::MessageStatus::Accepted.into(),
            ..communication::MessageRecord::default()
        };
        Ok(Response::new(communication::GetMessageResponse { record: Some(record) }))
    }

    async fn list_messages(
        &self,
        request: Request<communication::ListMessagesRequest>,
    ) -> Result<Response<communication::ListMessagesResponse>, Status> {
        self.called("list_messages", request)?;
        Ok(Response::new(communication::ListMessagesResponse::default()))
    }
}
