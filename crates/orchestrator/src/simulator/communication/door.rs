//! The way into a replica of communication: streams that are late, and break.

use std::{pin::Pin, sync::Arc};

use contracts::communication::v1::{
    ExchangeTasksRequest, ExchangeTasksResponse, orchestrator_event::Event, task_service_server::TaskService,
};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::Communication;
use crate::simulator::ground::Ground;

pub(super) type Frame = Result<ExchangeTasksResponse, Status>;
pub(super) type Outgoing = mpsc::UnboundedSender<Frame>;

/// The way into one replica.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) communication: Arc<Communication>,
    pub(super) number: usize,
}

#[tonic::async_trait]
impl TaskService for Door {
    type ExchangeTasksStream = Pin<Box<dyn Stream<Item = Frame> + Send>>;

    async fn exchange_tasks(
        &self,
        request: Request<Streaming<ExchangeTasksRequest>>,
    ) -> Result<Response<Self::ExchangeTasksStream>, Status> {
        let (outgoing, told) = mpsc::unbounded_channel();
        let (door, requests) = (self.clone(), request.into_inner());
        #[expect(
            clippy::disallowed_methods,
            reason = "communication is not a part of the replica, and ends with the history"
        )]
        drop(tokio::spawn(async move { door.listen(requests, outgoing).await }));
        let ground = Arc::clone(&self.communication.ground);
        // In order, each as late as the network likes; what is under way when the stream breaks is lost.
        let told = stream::unfold((told, ground, false), |(mut told, ground, is_over)| async move {
            if is_over {
                return None;
            }
            let frame: Frame = told.recv().await?;
            late(&ground).await;
            let is_cut = frame.is_err() || ground.chance(ground.trouble().cut);
            let frame = if is_cut { Err(Status::unavailable("the stream broke")) } else { frame };
            Some((frame, (told, ground, is_cut)))
        });
        Ok(Response::new(told.boxed()))
    }
}

async fn late(ground: &Ground) {
    if ground.chance(ground.trouble().late) {
        let pause = if ground.chance(0.05) { ground.while_of(100..2_000) } else { ground.while_of(1..30) };
        tokio::time::sleep(pause).await;
    }
}

impl Door {
    async fn listen(&self, mut requests: Streaming<ExchangeTasksRequest>, outgoing: Outgoing) {
        let (communication, number) = (&self.communication, self.number);
        let Ok(Some(first)) = requests.message().await else { return };
        let mut events = first.events.into_iter();
        let Some(Event::Attach(attach)) = events.next().and_then(|event| event.event) else {
            return communication.ground.breach(|| "the first event of a stream is no attach".to_owned());
        };
        let replica = attach.replica_id;
        let life = communication.posts().posts[number].life;
        let stream = communication.attach(number, &replica, outgoing);
        if communication.hear(number, life, (&replica, stream), events.collect()) {
            while let Ok(Some(batch)) = requests.message().await {
                late(&communication.ground).await;
                if !communication.hear(number, life, (&replica, stream), batch.events) {
                    break;
                }
            }
        }
        communication.detach(number, life, &replica, stream);
    }
}
