//! `ExecutionService`.

use std::{fmt, str::FromStr, time::Duration};

use contracts::orchestrator::v1::{
    CancelExecutionRequest, CancelExecutionResponse, CheckLivenessRequest, CheckLivenessResponse, Execution,
    ExplainExecutionRequest, ExplainExecutionResponse, GetExecutionRequest, GetExecutionResponse, ListEventsRequest,
    ListEventsResponse, ListExecutionsRequest, ListExecutionsResponse, PauseExecutionRequest, PauseExecutionResponse,
    ReportChildRequest, ReportChildResponse, ResumeExecutionRequest, ResumeExecutionResponse, RetryExecutionRequest,
    RetryExecutionResponse, ReviewLocksRequest, ReviewLocksResponse, SignalExecutionRequest, SignalExecutionResponse,
    StartExecutionRequest, StartExecutionResponse, VerifyExecutionRequest, VerifyExecutionResponse, WatchEventsRequest,
    execution_service_server::ExecutionService, report_child_request, start_execution_request::Workflow,
};
use domain::{ExecutionId, Payload, SignalId, Timestamp};
use errors::Error;
use futures::StreamExt as _;
use store::{PageSize, PageToken};
use tonic::{Request, Response, Status};
use workflow::Command;

use super::{
    Api,
    routed::{Answerer, Route, routed},
    watch_events, wire,
};
use crate::{
    app::{ChildReport, StartCall},
    store::{ExecutionFilter, Summary, WorkflowRef},
};

/// Events of a page: more than of other lists, since they are small.
const EVENTS_DEFAULT: u32 = 100;
const EVENTS_MOST: u32 = 1_000;
/// Ids tried for one in a shard of this replica: among eight replicas one in eight is, so that a hundred nearly always hold one.
const OWN_ID_TRIES: usize = 100;
/// Stuck executions that one answer names.
const STUCK_SHOWN: usize = 100;

impl Api {
    async fn command(&self, namespace: &str, id: &str, command: Command) -> Result<Option<Execution>, Status> {
        let (namespace, id) = wire::execution_of(namespace, id)?;
        let snapshot = self.app.command(namespace, id, command).await?;
        Ok(Some(wire::summary(&snapshot.summary)))
    }

    /// Where an execution is.
    async fn found(&self, namespace: &str, id: &str) -> Result<Summary, Status> {
        let (namespace, id) = wire::execution_of(namespace, id)?;
        Ok(self.app.summary(&namespace, id).await?)
    }

    /// `is_fresh`: the id was made for this call, and was not used yet.
    async fn start(
        &self,
        request: StartExecutionRequest,
        is_fresh: bool,
    ) -> Result<Response<StartExecutionResponse>, Status> {
        let workflow = match request.workflow {
            Some(Workflow::WorkflowId(id)) => WorkflowRef::Id(wire::workflow_id(&id)?),
            Some(Workflow::WorkflowName(name)) => WorkflowRef::Name(name),
            None => return Err(Error::invalid_field("workflow", "missing_field", "an id or a name is needed").into()),
        };
        let wait = request.wait.map(Duration::try_from).transpose();
        let (namespace, id) = wire::execution_of(&request.namespace, &request.execution_id)?;
        let call = StartCall {
            namespace,
            id,
            is_fresh,
            workflow,
            version: wire::non_zero(request.version),
            input: wire::payload("input", &request.input, Payload::empty_object)?,
            wait: wait.map_err(|error| Error::invalid_field("wait", "invalid_duration", error))?.unwrap_or_default(),
            traceparent: request.traceparent,
            parent: request.parent.map(wire::parent).transpose()?,
        };
        let snapshot = self.app.start(call).await?;
        Ok(Response::new(StartExecutionResponse { execution: Some(wire::execution(&snapshot)) }))
    }

    /// An id whose shard is written here, so that the call need not be passed on; any id where a few tries find none, as in a
    /// replica that holds no shard.
    fn fresh_id(&self) -> ExecutionId {
        let generate = || ExecutionId::generate(self.app.clock.as_ref());
        let holdings = &self.app.workers.shared().holdings;
        let mut tries = std::iter::repeat_with(generate).take(OWN_ID_TRIES);
        tries.find(|id| holdings.may_speak_of(*id).is_some()).unwrap_or_else(generate)
    }

    async fn get(&self, request: GetExecutionRequest) -> Result<Response<GetExecutionResponse>, Status> {
        let (namespace, id) = wire::execution_of(&request.namespace, &request.execution_id)?;
        let snapshot = self.app.get(&namespace, id, true).await?;
        Ok(Response::new(GetExecutionResponse { execution: Some(wire::execution(&snapshot)) }))
    }

    async fn cancel(&self, request: CancelExecutionRequest) -> Result<Response<CancelExecutionResponse>, Status> {
        let command = Command::Cancel { reason: request.reason };
        let execution = self.command(&request.namespace, &request.execution_id, command).await?;
        Ok(Response::new(CancelExecutionResponse { execution }))
    }

    async fn pause(&self, request: PauseExecutionRequest) -> Result<Response<PauseExecutionResponse>, Status> {
        let execution = self.command(&request.namespace, &request.execution_id, Command::Pause).await?;
        Ok(Response::new(PauseExecutionResponse { execution }))
    }

    async fn resume(&self, request: ResumeExecutionRequest) -> Result<Response<ResumeExecutionResponse>, Status> {
        let execution = self.command(&request.namespace, &request.execution_id, Command::Resume).await?;
        Ok(Response::new(ResumeExecutionResponse { execution }))
    }

    async fn retry(&self, request: RetryExecutionRequest) -> Result<Response<RetryExecutionResponse>, Status> {
        let lost = Some(request.task_id).filter(|task| !task.is_empty());
        let is_of = |task: &String| task.split('/').next() == Some(request.execution_id.as_str());
        if !lost.as_ref().is_none_or(is_of) {
            return Err(Error::invalid_field("task_id", "invalid_id", "is no task of this execution").into());
        }
        let execution = self.command(&request.namespace, &request.execution_id, Command::Retry { lost }).await?;
        Ok(Response::new(RetryExecutionResponse { execution }))
    }

    async fn signal(&self, request: SignalExecutionRequest) -> Result<Response<SignalExecutionResponse>, Status> {
        let invalid = |error| Error::invalid_field("signal_id", "invalid_id", error);
        let id = request.signal_id.parse().map_err(invalid)?;
        let payload = wire::payload("payload", &request.payload, Payload::null)?;
        let command = Command::Signal { id, name: request.name, payload, sender: request.sender };
        let execution = self.command(&request.namespace, &request.execution_id, command).await?;
        Ok(Response::new(SignalExecutionResponse { execution }))
    }

    async fn report_child(&self, request: ReportChildRequest) -> Result<Response<ReportChildResponse>, Status> {
        use report_child_request::Outcome;
        let outcome = match request.outcome {
            Some(Outcome::Output(output)) => Some(Ok(wire::payload("output", &output, Payload::null)?)),
            Some(Outcome::Failure(failure)) => Some(Err(wire::failure_of(failure)?)),
            None => None,
        };
        let (namespace, parent) = wire::execution_of(&request.namespace, &request.execution_id)?;
        let report = ChildReport { namespace, parent, task_id: request.task_id, outcome };
        let wanted = self.app.child_ended(report).await?;
        Ok(Response::new(ReportChildResponse { wanted }))
    }

    fn review_locks(&self, request: &ReviewLocksRequest) -> Result<Response<ReviewLocksResponse>, Status> {
        self.app.review_locks(wire::execution_of_any(&request.execution_id)?)?;
        Ok(Response::new(ReviewLocksResponse {}))
    }

    async fn explain(&self, request: ExplainExecutionRequest) -> Result<Response<ExplainExecutionResponse>, Status> {
        let (namespace, id) = wire::execution_of(&request.namespace, &request.execution_id)?;
        let (status, explanation) = self.app.explain(namespace, id).await?;
        Ok(Response::new(wire::explanation(status, explanation)))
    }

    async fn verify(&self, request: VerifyExecutionRequest) -> Result<Response<VerifyExecutionResponse>, Status> {
        let (namespace, id) = wire::execution_of(&request.namespace, &request.execution_id)?;
        let found = self.app.verify(&namespace, id).await?;
        Ok(Response::new(wire::verification(found)))
    }

    async fn watch(
        &self,
        request: WatchEventsRequest,
    ) -> Result<Response<<Self as ExecutionService>::WatchEventsStream>, Status> {
        let (namespace, id) = wire::execution_of(&request.namespace, &request.execution_id)?;
        let events = watch_events::watch(self, &namespace, id, request.after_sequence).await?;
        Ok(Response::new(events))
    }
}

#[tonic::async_trait]
impl ExecutionService for Api {
    async fn start_execution(
        &self,
        request: Request<StartExecutionRequest>,
    ) -> Result<Response<StartExecutionResponse>, Status> {
        let mut request = request;
        let mut is_fresh = request.get_ref().execution_id.is_empty();
        if is_fresh {
            request.get_mut().execution_id = self.fresh_id().to_string();
        }
        routed!(self, request, start_execution, |request| self.start(request, std::mem::take(&mut is_fresh)))
    }

    async fn get_execution(
        &self,
        request: Request<GetExecutionRequest>,
    ) -> Result<Response<GetExecutionResponse>, Status> {
        routed!(self, request, get_execution, |request| self.get(request))
    }

    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        let request = request.into_inner();
        let size = PageSize::from_field(request.page_size);
        let after = PageToken::parse::<Place>(&request.page_token)?;
        let statuses: Result<Vec<_>, Error> = request.statuses.iter().map(|field| wire::status_of(*field)).collect();
        let filter = ExecutionFilter {
            namespace: wire::namespace(&request.namespace)?,
            workflow_id: wire::non_empty(&request.workflow_id).map(wire::workflow_id).transpose()?,
            workflow_name: wire::non_empty(&request.workflow_name).map(str::to_owned),
            statuses: statuses?,
            created_after: wire::time("created_after", request.created_after)?,
            created_before: wire::time("created_before", request.created_before)?,
            after: after.map(|Place(at, id)| (at, id)),
            oldest_first: request.oldest_first,
            limit: size.limit(),
        };
        let rows = self.app.list(&filter).await?;
        let (rows, next) = size.cut(rows, |last| PageToken::after(Place(last.created_at, last.id)));
        let executions = rows.iter().map(wire::summary).collect();
        Ok(Response::new(ListExecutionsResponse { executions, next_page_token: next.into_field() }))
    }

    async fn cancel_execution(
        &self,
        request: Request<CancelExecutionRequest>,
    ) -> Result<Response<CancelExecutionResponse>, Status> {
        routed!(
            self,
            request,
            cancel_execution,
            |request| self.cancel(request),
            async |route: &Route, request: CancelExecutionRequest, answer| {
                if !route.is_own_doing(&answer, "execution_ended") {
                    return answer;
                }
                let found = self.found(&request.namespace, &request.execution_id).await?;
                if found.status != workflow::Status::Cancelled {
                    return answer;
                }
                Ok(Response::new(CancelExecutionResponse { execution: Some(wire::summary(&found)) }))
            }
        )
    }

    async fn pause_execution(
        &self,
        request: Request<PauseExecutionRequest>,
    ) -> Result<Response<PauseExecutionResponse>, Status> {
        routed!(self, request, pause_execution, |request| self.pause(request))
    }

    async fn resume_execution(
        &self,
        request: Request<ResumeExecutionRequest>,
    ) -> Result<Response<ResumeExecutionResponse>, Status> {
        routed!(self, request, resume_execution, |request| self.resume(request))
    }

    async fn retry_execution(
        &self,
        request: Request<RetryExecutionRequest>,
    ) -> Result<Response<RetryExecutionResponse>, Status> {
        routed!(
            self,
            request,
            retry_execution,
            |request| self.retry(request),
            async |route: &Route, request: RetryExecutionRequest, answer| {
                if !route.is_own_doing(&answer, "execution_not_failed") {
                    return answer;
                }
                let found = self.found(&request.namespace, &request.execution_id).await?;
                Ok(Response::new(RetryExecutionResponse { execution: Some(wire::summary(&found)) }))
            }
        )
    }

    async fn signal_execution(
        &self,
        request: Request<SignalExecutionRequest>,
    ) -> Result<Response<SignalExecutionResponse>, Status> {
        // Given here, so that a repetition is the same signal.
        let mut request = request;
        if request.get_ref().signal_id.is_empty() {
            request.get_mut().signal_id = SignalId::generate(self.app.clock.as_ref()).to_string();
        }
        routed!(self, request, signal_execution, |request| self.signal(request))
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let request = request.into_inner();
        let (namespace, id) = wire::execution_of(&request.namespace, &request.execution_id)?;
        let size = if request.page_size == 0 { EVENTS_DEFAULT } else { request.page_size.min(EVENTS_MOST) };
        let summary = self.app.summary(&namespace, id).await?;
        let compiled = self.app.plans.compiled(&namespace, summary.workflow_id, summary.workflow_version).await?;
        let page = self.app.events(id, request.after_sequence, size as usize).await?;
        let has_more = !page.is_last;
        let events = page.rows.into_iter().map(|row| wire::event(row, &compiled.plan)).collect();
        Ok(Response::new(ListEventsResponse { events, has_more }))
    }

    type WatchEventsStream = watch_events::Events;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (route, message) = self.route(request);
        let (_, id) = wire::execution_of(&message.namespace, &message.execution_id)?;
        match self.answerer(&route, id).await? {
            Answerer::Here => self.watch(message).await,
            // The watcher asks again when the stream ends early, from where it is.
            Answerer::There(mut client) => {
                let events = client.watch_events(route.request(message)).await?;
                let edge = self.app.edge.clone();
                let stop = Box::pin(async move { edge.draining().await });
                Ok(events.map(|events| -> Self::WatchEventsStream { Box::pin(events.take_until(stop)) }))
            }
        }
    }

    async fn explain_execution(
        &self,
        request: Request<ExplainExecutionRequest>,
    ) -> Result<Response<ExplainExecutionResponse>, Status> {
        routed!(self, request, explain_execution, |request| self.explain(request))
    }

    async fn verify_execution(
        &self,
        request: Request<VerifyExecutionRequest>,
    ) -> Result<Response<VerifyExecutionResponse>, Status> {
        routed!(self, request, verify_execution, |request| self.verify(request))
    }

    async fn report_child(
        &self,
        request: Request<ReportChildRequest>,
    ) -> Result<Response<ReportChildResponse>, Status> {
        routed!(self, request, report_child, |request| self.report_child(request))
    }

    async fn review_locks(
        &self,
        request: Request<ReviewLocksRequest>,
    ) -> Result<Response<ReviewLocksResponse>, Status> {
        let id = wire::execution_of_any(&request.get_ref().execution_id)?;
        routed!(
            @ self,
            request,
            review_locks,
            id,
            async |request| self.review_locks(&request),
            async |_, _, answer| answer
        )
    }

    async fn check_liveness(
        &self,
        request: Request<CheckLivenessRequest>,
    ) -> Result<Response<CheckLivenessResponse>, Status> {
        let (route, message) = self.route(request);
        let found = self.app.liveness().await?;
        let mut total = CheckLivenessResponse {
            live: found.live as u64,
            stuck: found.stuck.len() as u64,
            repaired: found.repaired,
            stuck_execution_ids: found.stuck.iter().take(STUCK_SHOWN).map(ToString::to_string).collect(),
        };
        for mut client in self.others(&route).await? {
            let other = client.check_liveness(route.request(message)).await?.into_inner();
            total.live += other.live;
            total.stuck += other.stuck;
            total.repaired += other.repaired;
            total.stuck_execution_ids.extend(other.stuck_execution_ids);
        }
        total.stuck_execution_ids.truncate(STUCK_SHOWN);
        Ok(Response::new(total))
    }
}

/// A place in the list of executions: the time first, since ids that callers choose may have any order.
#[derive(Clone, Copy, Debug)]
struct Place(Timestamp, ExecutionId);

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.0.as_micros(), self.1)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, id) = text.split_once('-').ok_or(())?;
        let at = at.parse().map_err(|_| ())?;
        Ok(Self(Timestamp::from_micros(at), id.parse().map_err(|_| ())?))
    }
}
