//! The stream to communication: tasks down, news of them up.
//!
//! It is opened again whenever it ends, with a growing pause, and then the workers dispatch everything that is out anew:
//! communication drops what it has already (I3). While it is down nothing is kept for it here. A replica is silent too while
//! its lease has ended, and opens the stream anew when the lease is back: what it had to say meanwhile is said then.

mod wire;

use std::{convert::Infallible, time::Duration};

use contracts::{
    Link,
    communication::v1::{
        Attach, ExchangeTasksRequest, OrchestratorEvent, orchestrator_event::Event,
        task_service_client::TaskServiceClient,
    },
};
use domain::{AgentId, ExecutionId, Payload};
use lifecycle::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use workflow::{Failure, TaskOrder};

use crate::{
    metrics,
    workers::{Input, Workers},
};

/// What workers tell communication.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    Dispatch {
        task_id: String,
        execution: ExecutionId,
        namespace: String,
        step_id: String,
        traceparent: String,
        order: TaskOrder,
    },
    Cancel {
        task_id: String,
        reason: &'static str,
    },
    Ack {
        task_id: String,
    },
}

impl Outgoing {
    /// About how many bytes it takes in a frame.
    pub(crate) fn size(&self) -> usize {
        const FIXED: usize = 256;
        match self {
            Self::Dispatch { order, .. } => FIXED + order.input.as_bytes().len(),
            Self::Cancel { .. } | Self::Ack { .. } => FIXED,
        }
    }
}

/// The same with the epoch under which the shard of the execution is held.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) epoch: i64,
    pub(crate) outgoing: Outgoing,
}

/// One hand-over of a task: the same again says nothing new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) session_id: String,
    /// 1 for the first.
    pub(crate) number: u32,
}

/// News of a task.
#[derive(Clone, Debug)]
pub(crate) struct TaskUpdate {
    pub(crate) execution: ExecutionId,
    pub(crate) task_id: String,
    pub(crate) agent_id: Option<AgentId>,
    /// The agent's; empty where there is none.
    pub(crate) namespace: String,
    pub(crate) news: News,
    /// Will it come again until it is acknowledged?
    pub(crate) needs_ack: bool,
    /// Of a result, what it goes on with; may be empty.
    pub(crate) traceparent: String,
}

/// News that makes no sense.
#[derive(Debug)]
struct Unreadable {
    /// The task whose result it would be: without an acknowledgement it would come for ever.
    result_of: Option<String>,
}

/// What happened to a task.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// No live agent fits.
    Waiting,
    /// A session has it.
    HandedOver(Delivery),
    Begun,
    Alive,
    Shown(Payload),
    Requeued,
    /// The queue is full.
    Refused,
    Ended(Result<Payload, Failure>),
}

type Client = TaskServiceClient<Link>;

/// Keeps the stream open until the service ends.
pub(crate) async fn run(
    workers: Workers,
    communication: Link,
    mut outgoing: mpsc::Receiver<Vec<Said>>,
    replica_id: String,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    const SHORTEST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);
    let mut client = TaskServiceClient::new(communication)
        .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
    let mut pause = SHORTEST;
    loop {
        let stream = async {
            let stream = open(&mut client, &replica_id).await?;
            pause = SHORTEST;
            carry(&workers, stream, &mut outgoing).await
        };
        // All arms are cancel-safe: what a stream loses is dispatched again.
        let ended = tokio::select! {
            ended = stream => ended,
            () = shutdown.draining() => return Ok(()),
        };
        if !shutdown.is_draining() {
            let status = ended.err().unwrap_or_else(|| Status::unavailable("closed"));
            tracing::warn!(%status, "the stream to communication has ended");
        }
        // What was meant for the old stream is of no use to the next.
        let lost = async {
            while outgoing.recv().await.is_some() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = async { workers.tell_all(|| Input::Detached).await; tokio::time::sleep(pause).await } => {}
            () = lost => {}
            () = shutdown.draining() => return Ok(()),
        }
        pause = (pause * 2).min(LONGEST);
    }
}

struct Stream {
    down: mpsc::Sender<ExchangeTasksRequest>,
    up: Streaming<contracts::communication::v1::ExchangeTasksResponse>,
}

async fn open(client: &mut Client, replica_id: &str) -> Result<Stream, Status> {
    /// Frames under way.
    const FRAMES: usize = 16;
    const TIMEOUT: Duration = Duration::from_secs(10);
    let (down, frames) = mpsc::channel(FRAMES);
    let attach = Event::Attach(Attach { replica_id: replica_id.to_owned() });
    let attach = ExchangeTasksRequest { events: vec![OrchestratorEvent { event: Some(attach), epoch: 0 }] };
    down.try_send(attach).map_err(|_| Status::internal("the new stream is full"))?;
    let call = client.exchange_tasks(ReceiverStream::new(frames));
    let up = tokio::time::timeout(TIMEOUT, call).await.map_err(|_| Status::deadline_exceeded("no answer"))??;
    metrics::exchange_opened();
    Ok(Stream { down, up: up.into_inner() })
}

/// Both directions at once: neither waits for the other, so that two full buffers cannot hold each other up.
async fn carry(workers: &Workers, mut stream: Stream, outgoing: &mut mpsc::Receiver<Vec<Said>>) -> Result<(), Status> {
    let acks = stream.down.clone();
    let down = async {
        while let Some(frame) = outgoing.recv().await {
            let events = frame.into_iter().map(wire::event).collect();
            if stream.down.send(ExchangeTasksRequest { events }).await.is_err() {
                return Err(Status::unavailable("communication has closed the stream"));
            }
        }
        Ok(())
    };
    let up = async {
        workers.tell_all(|| Input::Attached).await;
        while let Some(response) = stream.up.message().await? {
            let mut refused = Vec::new();
            for update in response.updates {
                match wire::update(update) {
                    Ok(update) => workers.tell(update.execution, Input::Update(update)).await,
                    Err(Unreadable { result_of: Some(task_id) }) => {
                        // It is nobody's, whatever the epoch.
                        refused.push(wire::event(Said { epoch: i64::MAX, outgoing: Outgoing::Ack { task_id } }));
                    }
                    Err(Unreadable { result_of: None }) => {}
                }
            }
            if !refused.is_empty() && acks.send(ExchangeTasksRequest { events: refused }).await.is_err() {
                return Err(Status::unavailable("communication has closed the stream"));
            }
        }
        Ok(())
    };
    // Dropping the other direction is what the end of a stream means.
    tokio::select! {
        ended = down => ended,
        ended = up => ended,
        () = workers.shared().holdings.regained.notified() => Err(Status::aborted("the lease of the shards had ended")),
    }
}
