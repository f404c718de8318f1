//! One stream, from hello to its end.

use std::{sync::Arc, time::Duration};

use contracts::communication::v1::{
    self as proto, OpenSessionResponse, agent_event::Event, server_event::Event as ServerEvent,
};
use errors::Error;
use lifecycle::Shutdown;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tonic::Streaming;

use super::{
    Session,
    shared::Admission,
    wire::Wire,
    work::{run_message, run_task},
};
use crate::Message;

/// From opening a stream to its welcome.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
/// After a drain: how long results may wait for their acknowledgement once nothing runs any more.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the server may take to end its side.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);

/// How a stream ended.
pub(super) enum Ended {
    /// As we wished.
    Drained,
    /// Not as we wished.
    Lost {
        error: Error,
        /// Had the server accepted the session?
        welcomed: bool,
    },
}

/// Ends the way up together with the stream, also where that is dropped as it stands. The transport holds the other end, and
/// would wait for more: the server would take the session for alive until its lease passes, and hand over to it.
#[derive(Default)]
struct WayUp(Arc<Wire>);

impl Drop for WayUp {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Where a stream is on its way out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Working,
    /// We leave, or the server does: finish what runs, take nothing new.
    Draining {
        for_good: bool,
        deadline: Option<Instant>,
    },
}

impl Session {
    /// Opens a stream, and works over it until it ends.
    pub(super) async fn stream(&mut self, shutdown: &Shutdown) -> Ended {
        let way_up = WayUp::default();
        let wire = &way_up.0;
        let opened = timeout(WELCOME_DEADLINE, self.open(wire)).await;
        let opened =
            opened.unwrap_or_else(|_| Err(Error::unavailable("no_welcome", "no welcome from the server in time")));
        let (mut incoming, welcome, rest) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ended::Lost { error, welcomed: false },
        };
        let beat = Duration::from_millis(u64::from(welcome.heartbeat_interval_ms.max(100))) * 3 / 4;
        tracing::debug!(
            agent = self.agent.label(),
            session.id = welcome.session_id,
            agent.id = welcome.agent_id,
            "session open"
        );
        let tokens = Arc::clone(&self.tokens);
        let renewals = tokens.keep(self.client.clone(), welcome.session_id.clone());
        self.shared.connected(wire, welcome);
        let mut draining = Phase::Working;
        for event in rest {
            self.receive(event, wire, &mut draining);
        }
        // Both arms are cancel-safe as far as it matters: what ends here is the stream.
        let ended = tokio::select! {
            ended = self.work(&mut incoming, wire, beat, draining, shutdown) => ended,
            never = renewals => match never {},
        };
        self.shared.disconnected();
        wire.close();
        match ended {
            Ok(()) => {
                // What waits goes out before the stream is dropped.
                let goodbye = async { while let Ok(Some(_)) = incoming.message().await {} };
                let _ = timeout(GOODBYE_DEADLINE, goodbye).await;
                if shutdown.is_draining() {
                    Ended::Drained
                } else {
                    Ended::Lost { error: Error::unavailable("server_draining", "the server goes away"), welcomed: true }
                }
            }
            Err(error) => Ended::Lost { error, welcomed: true },
        }
    }

    /// The stream, the welcome, and the events that came with it.
    async fn open(
        &mut self,
        wire: &Arc<Wire>,
    ) -> Result<(Streaming<OpenSessionResponse>, proto::Welcome, Vec<ServerEvent>), Error> {
        self.tokens.ready().await?;
        let instance = self.shared.asker().map(|instance| instance.to_string()).unwrap_or_default();
        wire.push(Event::Hello(proto::Hello { instance, ..self.agent.hello.clone() }));
        let mut incoming = self.client.open_session(Arc::clone(wire).requests()).await?.into_inner();
        let first = incoming
            .message()
            .await?
            .ok_or_else(|| Error::unavailable("no_welcome", "the server ended the session at once"))?;
        let mut events = first.events.into_iter().filter_map(|event| event.event);
        match events.next() {
            Some(ServerEvent::Welcome(welcome)) => {
                self.tokens.welcomed();
                Ok((incoming, welcome, events.collect()))
            }
            Some(_) | None => Err(Error::unavailable("no_welcome", "the server's first word was no welcome")),
        }
    }

    async fn work(
        &mut self,
        incoming: &mut Streaming<OpenSessionResponse>,
        wire: &Arc<Wire>,
        beat: Duration,
        mut phase: Phase,
        shutdown: &Shutdown,
    ) -> Result<(), Error> {
        let mut beats = interval_at(Instant::now() + beat, beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Looks whether everything is settled; only while draining.
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let leaves = matches!(phase, Phase::Draining { for_good: true, .. });
            // All arms are cancel-safe: `message` keeps what it has read in the stream.
            tokio::select! {
                received = incoming.message() => {
                    let batch = received?.ok_or_else(|| Error::unavailable("session_closed", "the server closed the session"))?;
                    for event in batch.events.into_iter().filter_map(|event| event.event) {
                        self.receive(event, wire, &mut phase);
                    }
                }
                Some(_) = self.handlers.join_next() => {}
                _ = beats.tick() => {
                    let in_flight = u32::try_from(self.shared.in_flight()).unwrap_or(u32::MAX);
                    wire.push(Event::Ping(proto::Ping { in_flight }));
                }
                () = shutdown.draining(), if !leaves => {
                    wire.push(Event::Drain(proto::Drain { reason: "the agent stops".to_owned() }));
                    phase = Phase::Draining { for_good: true, deadline: None };
                }
                _ = looks.tick(), if phase != Phase::Working => {
                    if self.is_finished(&mut phase) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Is there nothing more to wait for?
    fn is_finished(&self, phase: &mut Phase) -> bool {
        let Phase::Draining { deadline, .. } = phase else { return false };
        if self.shared.is_settled() {
            return true;
        }
        if self.shared.in_flight() > 0 {
            *deadline = None;
            return false;
        }
        let now = Instant::now();
        now >= *deadline.get_or_insert(now + SETTLE_DEADLINE)
    }

    fn receive(&mut self, event: ServerEvent, wire: &Arc<Wire>, phase: &mut Phase) {
        match event {
            ServerEvent::Task(delivery) => {
                if let Some(task) = delivery.task {
                    self.take_task(task);
                }
            }
            ServerEvent::Message(delivery) => {
                if let Some(message) = delivery.message
                    && self.shared.admit_message(&message.id)
                {
                    let message = Message::from_proto(message, delivery.delivery);
                    self.handlers.spawn(run_message(Arc::clone(&self.agent), Arc::clone(&self.shared), message));
                }
            }
            ServerEvent::Cancel(cancel) => self.shared.withdraw(&cancel.task_id),
            ServerEvent::ResultAck(ack) => self.shared.acknowledged(&ack.task_id),
            ServerEvent::Receipt(receipt) => self.shared.receipt(receipt),
            ServerEvent::Drain(_) => {
                if *phase == Phase::Working {
                    wire.push(Event::Drain(proto::Drain { reason: "the server goes away".to_owned() }));
                    *phase = Phase::Draining { for_good: false, deadline: None };
                }
            }
            ServerEvent::Welcome(_) => tracing::debug!("a second welcome was ignored"),
        }
    }

    fn take_task(&mut self, task: proto::Task) {
        match self.shared.admit_task(&task.id) {
            Admission::Run(run, cancelled) => {
                let work = run_task(Arc::clone(&self.agent), Arc::clone(&self.shared), task, run, cancelled);
                self.handlers.spawn(work);
            }
            Admission::Known => {}
        }
    }
}
