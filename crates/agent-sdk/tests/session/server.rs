//! The server's side, by hand.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use contracts::{
    Link,
    communication::v1::{
        self as proto, AgentEvent, OpenSessionRequest, OpenSessionResponse, RenewSessionRequest, RenewSessionResponse,
        agent_event::Event,
        agent_session_service_server::{AgentSessionService, AgentSessionServiceServer},
        server_event::Event as ServerEvent,
        task_result::Outcome,
    },
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(10);

type Down = ReceiverStream<Result<OpenSessionResponse, Status>>;
type Opened = (Streaming<OpenSessionRequest>, oneshot::Sender<Result<Down, Status>>);

struct Service {
    streams: mpsc::Sender<Opened>,
    /// With what streams were opened, and sessions renewed.
    opened: mpsc::UnboundedSender<String>,
    renewed: mpsc::UnboundedSender<String>,
    /// Renewals that fail.
    failing: Arc<AtomicUsize>,
}

fn shown<T>(request: &Request<T>) -> String {
    request.metadata().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

#[tonic::async_trait]
impl AgentSessionService for Service {
    type OpenSessionStream = Down;

    async fn open_session(&self, request: Request<Streaming<OpenSessionRequest>>) -> Result<Response<Down>, Status> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Status::unavailable("the test is over");
        let _ = self.opened.send(shown(&request));
        self.streams.send((request.into_inner(), answer)).await.map_err(|_| Status::unavailable("the test is over"))?;
        answered.await.map_err(gone)?.map(Response::new)
    }

    async fn renew_session(
        &self,
        request: Request<RenewSessionRequest>,
    ) -> Result<Response<RenewSessionResponse>, Status> {
        let _ = self.renewed.send(shown(&request));
        assert_eq!(request.into_inner().session_id, "ses_1");
        if self.failing.load(Ordering::SeqCst) == usize::MAX {
            return Err(errors::Error::not_found("session_not_found", "another replica has it").into());
        }
        if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Status::unavailable("not now"));
        }
        Ok(Response::new(RenewSessionResponse {}))
    }
}

/// A server that gives every opened stream to the test.
pub(crate) struct Server {
    link: Link,
    address: String,
    streams: mpsc::Receiver<Opened>,
    opened: mpsc::UnboundedReceiver<String>,
    renewed: mpsc::UnboundedReceiver<String>,
    failing: Arc<AtomicUsize>,
    serving: JoinSet<()>,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::with(|_| ()).0
    }

    /// One that is reached over the network.
    pub(crate) async fn listening() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = format!("http://{}", listener.local_addr().expect("it has one"));
        let (mut server, service) = Self::with(Clone::clone);
        server.address = address;
        server.serving.spawn(async move {
            let serving = tonic::transport::Server::builder().add_service(service);
            serving.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("it serves");
        });
        server
    }

    fn with<T>(take: impl FnOnce(&AgentSessionServiceServer<Service>) -> T) -> (Self, T) {
        let (stream, streams) = mpsc::channel(8);
        let ((open, opened), (renew, renewed)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let failing = Arc::<AtomicUsize>::default();
        let service = Service { streams: stream, opened: open, renewed: renew, failing: Arc::clone(&failing) };
        let service = AgentSessionServiceServer::new(service);
        let taken = take(&service);
        let (link, address, serving) = (Link::new(service), String::new(), JoinSet::new());
        (Self { link, address, streams, opened, renewed, failing, serving }, taken)
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// The next renewals fail.
    pub(crate) fn fail_renewals(&self, count: usize) {
        self.failing.store(count, Ordering::SeqCst);
    }

    /// It has no session that can be renewed.
    pub(crate) fn know_no_session(&self) {
        self.failing.store(usize::MAX, Ordering::SeqCst);
    }

    /// What the next stream was opened with.
    pub(crate) async fn opened_with(&mut self) -> String {
        tokio::time::timeout(DEADLINE, self.opened.recv()).await.expect("a stream is opened").expect("it serves")
    }

    /// What a session is renewed with next.
    pub(crate) async fn renewed_with(&mut self) -> String {
        tokio::time::timeout(DEADLINE, self.renewed.recv()).await.expect("a session is renewed").expect("it serves")
    }

    pub(crate) fn was_renewed(&mut self) -> bool {
        self.renewed.try_recv().is_ok()
    }

    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    async fn opened(&mut self) -> Opened {
        tokio::time::timeout(DEADLINE, self.streams.recv()).await.expect("a stream is opened").expect("the agent runs")
    }

    /// The next stream, welcomed.
    pub(crate) async fn session(&mut self) -> Session {
        let (mut up, answer) = self.opened().await;
        let (down, stream) = mpsc::channel(64);
        answer.send(Ok(ReceiverStream::new(stream))).expect("the call waits");
        let first = up.message().await.expect("the stream lives").expect("it begins with a hello");
        let mut waiting: VecDeque<_> = first.events.into();
        let Some(AgentEvent { event: Some(Event::Hello(hello)) }) = waiting.pop_front() else { panic!("no hello") };
        let session = Session { hello, up, down, waiting };
        let welcome = proto::Welcome {
            session_id: "ses_1".into(),
            agent_id: "agt_1".into(),
            credits: 16,
            heartbeat_interval_ms: 1000,
            lease_ms: 5000,
            config: "{}".into(),
        };
        session.send([ServerEvent::Welcome(welcome)]).await;
        session
    }

    /// Refuses the next stream.
    pub(crate) async fn refuse(&mut self, status: Status) {
        let (_, answer) = self.opened().await;
        answer.send(Err(status)).expect("the call waits");
    }
}

/// One stream.
pub(crate) struct Session {
    pub(crate) hello: proto::Hello,
    up: Streaming<OpenSessionRequest>,
    down: mpsc::Sender<Result<OpenSessionResponse, Status>>,
    waiting: VecDeque<AgentEvent>,
}

impl Session {
    pub(crate) async fn send(&self, events: impl IntoIterator<Item = ServerEvent>) {
        let events = events.into_iter().map(|event| proto::ServerEvent { event: Some(event) }).collect();
        self.down.send(Ok(OpenSessionResponse { events })).await.expect("the agent listens");
    }

    /// Ends it.
    pub(crate) async fn end(self, how: Status) {
        self.down.send(Err(how)).await.expect("the agent listens");
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return event.event;
            }
            let batch = tokio::time::timeout(DEADLINE, self.up.message()).await.expect("the agent says something");
            self.waiting.extend(batch.ok()??.events);
        }
    }

    /// The next event that fits; others are dropped.
    pub(crate) async fn until(&mut self, fits: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().await.expect("the stream lives");
            if fits(&event) {
                return event;
            }
        }
    }

    pub(crate) async fn next_result(&mut self) -> proto::TaskResult {
        match self.until(|event| matches!(event, Event::Result(_))).await {
            Event::Result(result) => result,
            other => unreachable!("{other:?} is no result"),
        }
    }

    pub(crate) async fn result(&mut self, task_id: &str) -> proto::TaskResult {
        loop {
            let result = self.next_result().await;
            if result.task_id == task_id {
                return result;
            }
        }
    }

    /// The next message that the agent sends, accepted.
    pub(crate) async fn sent(&mut self) -> proto::Message {
        let Event::Send(send) = self.until(|event| matches!(event, Event::Send(_))).await else {
            unreachable!("filtered")
        };
        let receipt = proto::Receipt { r#ref: send.r#ref, message_id: "msg_0".into(), error: String::new() };
        self.send([ServerEvent::Receipt(receipt)]).await;
        send.message.expect("a send has a message")
    }

    /// Waits until the agent has ended its side.
    pub(crate) async fn ended(mut self) {
        while self.next().await.is_some() {}
    }
}

/// The trace that tasks come in.
pub(crate) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(crate) fn task(id: &str, action: &str, input: &Value) -> ServerEvent {
    let task = proto::Task {
        id: id.into(),
        action: action.into(),
        input: input.to_string().into(),
        attempt: 1,
        traceparent: TRACEPARENT.into(),
        ..proto::Task::default()
    };
    ServerEvent::Task(proto::TaskDelivery { task: Some(task), delivery: 1 })
}

pub(crate) fn message(id: &str, message: proto::Message) -> ServerEvent {
    let message = proto::Message { id: id.into(), ..message };
    ServerEvent::Message(proto::MessageDelivery { message: Some(message), delivery: 1 })
}

pub(crate) fn output(result: &proto::TaskResult) -> Value {
    match &result.outcome {
        Some(Outcome::Output(output)) => serde_json::from_slice(output).expect("an output is JSON"),
        other => panic!("no output but {other:?}"),
    }
}
