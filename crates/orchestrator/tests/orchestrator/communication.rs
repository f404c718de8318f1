//! A communication service that the test plays: it notes what it is told, and answers tasks by itself or when asked to.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use contracts::{
    Link,
    communication::v1::{
        ExchangeTasksRequest, ExchangeTasksResponse, Serving, Task, TaskBegun, TaskFailure, TaskHandedOver, TaskResult,
        TaskUnknown, TaskUpdate,
        message_service_server::MessageServiceServer,
        orchestrator_event::Event,
        serving,
        task::Target,
        task_result::Outcome,
        task_service_server::{TaskService, TaskServiceServer},
        task_update::Update,
        topic_service_server::TopicServiceServer,
    },
};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use crate::mail::Mail;
use crate::world::{eventually, new_id};

type Frame = Result<ExchangeTasksResponse, Status>;

/// What the orchestrator said so far, and how tasks are answered.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Is every task answered at once with its own input?
    pub(crate) echoes: bool,
    pub(crate) attached: usize,
    pub(crate) dispatched: Vec<Task>,
    pub(crate) cancelled: Vec<String>,
    pub(crate) acknowledged: Vec<String>,
    pub(crate) located: Vec<String>,
    /// What is answered where one of these tasks is looked for; any other is unknown.
    known: HashMap<String, TaskUpdate>,
    /// Does it let nobody attach?
    is_away: bool,
    stream: Option<mpsc::UnboundedSender<Frame>>,
}

/// Cloning is cheap; all clones are one service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Communication {
    heard: Arc<Mutex<Heard>>,
    /// What it was given for others.
    pub(crate) mail: Mail,
}

impl Communication {
    pub(crate) fn link(&self) -> Link {
        let tasks = TaskServiceServer::new(self.clone()).max_decoding_message_size(contracts::MAX_MESSAGE_BYTES);
        let routes = Routes::new(tasks)
            .add_service(MessageServiceServer::new(self.mail.clone()))
            .add_service(TopicServiceServer::new(self.mail.clone()));
        Link::new(routes.prepare())
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    pub(crate) fn echo(&self) {
        self.heard().echoes = true;
    }

    /// The ids of what was dispatched so far, each time it was.
    pub(crate) fn task_ids(&self) -> Vec<String> {
        self.heard().dispatched.iter().map(|task| task.id.clone()).collect()
    }

    /// Waits until so many tasks were dispatched in all; answers with the last.
    pub(crate) async fn dispatched(&self, count: usize) -> Task {
        eventually("a dispatch", async || self.heard().dispatched.get(count - 1).cloned()).await
    }

    pub(crate) async fn attached(&self, count: usize) {
        eventually("a stream", async || (self.heard().attached >= count).then_some(())).await;
    }

    pub(crate) async fn acknowledged(&self, task_id: &str, times: usize) {
        let is_so = |heard: &Heard| heard.acknowledged.iter().filter(|id| *id == task_id).count() >= times;
        eventually("an acknowledgement", async || is_so(&self.heard()).then_some(())).await;
    }

    pub(crate) async fn cancelled(&self, task_id: &str) {
        let is_so = |heard: &Heard| heard.cancelled.iter().any(|id| id == task_id);
        eventually("a withdrawal", async || is_so(&self.heard()).then_some(())).await;
    }

    /// Tells the orchestrator something about a task.
    pub(crate) fn tell(&self, task: &Task, update: Update) {
        self.send(Ok(ExchangeTasksResponse { updates: vec![said("default", task, update)], ..Default::default() }));
    }

    /// The same, from an agent of another namespace.
    pub(crate) fn complete_from(&self, namespace: &str, task: &Task, output: &str) {
        let update = result(task, Outcome::Output(output.to_owned().into()));
        self.send(Ok(ExchangeTasksResponse { updates: vec![said(namespace, task, update)], ..Default::default() }));
    }

    pub(crate) fn hand_over(&self, task: &Task) {
        self.tell(task, Update::HandedOver(TaskHandedOver { session_id: "ses_1".to_owned(), delivery: 1 }));
        self.tell(task, Update::Begun(TaskBegun {}));
    }

    pub(crate) fn complete(&self, task: &Task, output: &str) {
        self.tell(task, result(task, Outcome::Output(output.to_owned().into())));
    }

    pub(crate) fn fail(&self, task: &Task, code: &str, retryable: bool) {
        let failure =
            TaskFailure { code: code.to_owned(), message: "as asked".to_owned(), retryable, ..TaskFailure::default() };
        self.tell(task, result(task, Outcome::Failure(failure)));
    }

    /// Breaks the stream.
    pub(crate) fn hang_up(&self) {
        self.send(Err(Status::unavailable("hung up")));
    }

    /// Breaks the stream, and cannot be reached any more.
    pub(crate) fn go_away(&self) {
        self.heard().is_away = true;
        self.hang_up();
    }

    /// Says how many tasks of agents of this type it can hand over, and waits until that was heard.
    pub(crate) async fn serve(&self, agent_type: &str, capacity: u32) {
        let target = Some(serving::Target::AgentType(agent_type.to_owned()));
        let serving = Serving { namespace: "default".to_owned(), target, capacity };
        self.send(Ok(ExchangeTasksResponse { serving: vec![serving], ..Default::default() }));
        // What comes after it is answered after it.
        let stale = Task { id: format!("{}/none/1", new_id()), ..Task::default() };
        self.complete(&stale, "null");
        self.acknowledged(&stale.id, 1).await;
    }

    /// Says from now on, when it is asked where a task is, that a session holds it.
    pub(crate) fn hold(&self, task: &Task) {
        let update = Update::HandedOver(TaskHandedOver { session_id: "ses_1".to_owned(), delivery: 1 });
        self.heard().known.insert(task.id.clone(), said("default", task, update));
    }

    /// Waits until it was asked so often where a task is.
    pub(crate) async fn located(&self, task_id: &str, times: usize) {
        let is_so = |heard: &Heard| heard.located.iter().filter(|id| *id == task_id).count() >= times;
        eventually("a question", async || is_so(&self.heard()).then_some(())).await;
    }

    fn send(&self, frame: Frame) {
        // A stream that is gone hears nothing.
        let _ = self.heard().stream.as_ref().expect("the orchestrator has attached").send(frame);
    }

    fn hear(&self, frame: ExchangeTasksRequest) -> ExchangeTasksResponse {
        let mut heard = self.heard();
        let mut updates = Vec::new();
        for event in frame.events {
            match event.event.unwrap() {
                Event::Attach(_) => heard.attached += 1,
                Event::Dispatch(task) => {
                    if heard.echoes {
                        updates.push(said("default", &task, result(&task, Outcome::Output(task.input.clone()))));
                    }
                    heard.dispatched.push(task);
                }
                Event::Cancel(cancel) => heard.cancelled.push(cancel.task_id),
                Event::Ack(ack) => heard.acknowledged.push(ack.task_id),
                // There is nobody else here who could be told.
                Event::Disown(_) => {}
                Event::Locate(locate) => {
                    let update = Some(Update::Unknown(TaskUnknown {}));
                    let unknown = TaskUpdate { task_id: locate.task_id.clone(), update, ..Default::default() };
                    updates.push(heard.known.get(&locate.task_id).cloned().unwrap_or(unknown));
                    heard.located.push(locate.task_id);
                }
            }
        }
        ExchangeTasksResponse { updates, ..Default::default() }
    }
}

/// An agent's id.
pub(crate) fn agent(number: u128) -> domain::AgentId {
    domain::AgentId::from_parts(1, number)
}

/// What the agent that was asked says, or the first one, as one of a namespace.
fn said(namespace: &str, task: &Task, update: Update) -> TaskUpdate {
    let agent_id = match &task.target {
        Some(Target::AgentId(asked)) => asked.clone(),
        Some(Target::AgentType(_) | Target::Capability(_)) | None => agent(1).to_string(),
    };
    TaskUpdate { task_id: task.id.clone(), agent_id, namespace: namespace.to_owned(), update: Some(update) }
}

fn result(task: &Task, outcome: Outcome) -> Update {
    Update::Result(TaskResult { task_id: task.id.clone(), outcome: Some(outcome), ..TaskResult::default() })
}

#[tonic::async_trait]
impl TaskService for Communication {
    type ExchangeTasksStream = Pin<Box<dyn Stream<Item = Frame> + Send>>;

    async fn exchange_tasks(
        &self,
        request: Request<Streaming<ExchangeTasksRequest>>,
    ) -> Result<Response<Self::ExchangeTasksStream>, Status> {
        if self.heard().is_away {
            return Err(Status::unavailable("away"));
        }
        let (sender, told) = mpsc::unbounded_channel();
        self.heard().stream = Some(sender);
        let service = self.clone();
        let answered = request.into_inner().filter_map(move |frame| {
            let answer = frame.map(|frame| service.hear(frame));
            std::future::ready(
                Some(answer).filter(|answer| answer.as_ref().is_ok_and(|answer| !answer.updates.is_empty())),
            )
        });
        // An error ends the whole stream, as it does on a wire.
        Ok(Response::new(stream::select(answered, UnboundedReceiverStream::new(told)).boxed()))
    }
}
