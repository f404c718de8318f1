//! `OpenSession`: an agent's stream, from hello to its end.

mod check;
mod sends;

use std::{convert::Infallible, pin::Pin, time::Duration};

use contracts::{
    communication::v1::{
        AgentEvent, Hello, OpenSessionRequest, OpenSessionResponse, ServerEvent, Welcome, agent_event::Event,
        agent_session_service_server::AgentSessionService, server_event,
    },
    registry::v1::{Agent, RegisterAgentRequest},
};
use domain::SessionId;
use errors::Error;
use futures::Stream;
use lifecycle::OnExit;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use crate::{
    app::{
        hub::{Identity, Presence},
        letters,
        outgoing::{Outgoing, channel},
    },
    error::CommunicationError,
};

/// From the opened stream to its hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Messages of one session that wait to be accepted; with more, the session is not read for a while.
const MOST_SENDS: usize = 1024;

pub(crate) type Responses = Pin<Box<dyn Stream<Item = Result<OpenSessionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AgentSessionService for Api {
    type OpenSessionStream = Responses;

    async fn open_session(
        &self,
        request: Request<Streaming<OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let incoming = request.into_inner();
        let (outgoing, frames) = channel(self.0.terms.stream_buffer);
        let api = self.clone();
        // Its own task, since the session must end in good order also where nobody reads the answer any more.
        self.0.tasks.spawn("communication.session", OnExit::Continue, async move {
            api.session(incoming, outgoing).await;
            Ok::<(), Infallible>(())
        });
        Ok(Response::new(Box::pin(frames.responses(size, |events| OpenSessionResponse { events }))))
    }
}

/// Roughly what an event takes in a frame.
fn size(event: &ServerEvent) -> usize {
    match &event.event {
        Some(server_event::Event::Task(delivery)) => delivery.task.as_ref().map_or(0, |task| task.input.len()),
        Some(server_event::Event::Message(delivery)) => {
            delivery.message.as_ref().map_or(0, |message| message.payload.len())
        }
        Some(server_event::Event::Welcome(welcome)) => welcome.config.len(),
        Some(
            server_event::Event::Cancel(_)
            | server_event::Event::ResultAck(_)
            | server_event::Event::Receipt(_)
            | server_event::Event::Drain(_),
        )
        | None => 0,
    }
}

/// A session that may begin.
struct Admitted {
    id: SessionId,
    identity: Identity,
    welcome: Welcome,
    rest: Vec<AgentEvent>,
}

impl Api {
    async fn session(&self, mut incoming: Streaming<OpenSessionRequest>, outgoing: Outgoing<ServerEvent>) {
        let gone = outgoing.gone();
        let shutdown = self.0.tasks.shutdown();
        // Nothing has begun yet, so every arm may be dropped.
        let admitted = tokio::select! {
            admitted = self.admit(&mut incoming) => admitted,
            () = gone.cancelled() => return,
            () = shutdown.draining() => Err(CommunicationError::Stopping.into()),
        };
        let Admitted { id, identity, welcome, rest } = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return outgoing.fail(error),
        };
        tracing::debug!(session.id = %id, agent.id = &*identity.agent_id, "session open");
        let (sends, waiting) = mpsc::channel(MOST_SENDS);
        let sender = self.clone();
        let (namespace, agent_id) = (identity.namespace.to_string(), identity.agent_id.to_string());
        // The queue is empty, so the welcome fits.
        let _ = outgoing.push(ServerEvent { event: Some(server_event::Event::Welcome(welcome)) });
        if !self.0.hub.open(id, identity, outgoing) {
            return;
        }
        self.0.tasks.spawn("communication.sends", OnExit::Continue, async move {
            sender.accept_sends(id, namespace, agent_id, waiting).await;
            Ok::<(), Infallible>(())
        });
        let ended = self.listen(id, &mut incoming, rest, &sends, &gone).await;
        self.0.hub.close(id, ended.err().map(CommunicationError::Invalid));
        tracing::debug!(session.id = %id, "session closed");
    }

    /// Hears the agent until either side ends.
    async fn listen(
        &self,
        id: SessionId,
        incoming: &mut Streaming<OpenSessionRequest>,
        rest: Vec<AgentEvent>,
        sends: &mpsc::Sender<contracts::communication::v1::Send>,
        gone: &CancellationToken,
    ) -> Result<(), Error> {
        if !rest.is_empty() {
            self.take(id, rest, sends, gone).await?;
        }
        loop {
            // Both arms are cancel-safe: `message` keeps what it has read in the stream.
            let received = tokio::select! {
                received = incoming.message() => received,
                () = gone.cancelled() => return Ok(()),
            };
            match received {
                Ok(Some(request)) => self.take(id, check::filled(request.events)?, sends, gone).await?,
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::debug!(session.id = %id, %status, "session lost");
                    return Ok(());
                }
            }
        }
    }

    async fn take(
        &self,
        id: SessionId,
        events: Vec<AgentEvent>,
        sends: &mpsc::Sender<contracts::communication::v1::Send>,
        gone: &CancellationToken,
    ) -> Result<(), Error> {
        let (mut heard, mut sent) = (Vec::with_capacity(events.len()), Vec::new());
        for (index, event) in events.into_iter().enumerate() {
            match check::event(index, event)? {
                Event::Send(send) => sent.push(send),
                other => heard.push(other),
            }
        }
        self.0.hub.hear(id, heard);
        for send in sent {
            // What is not taken any more gets no receipt, and the agent sends it again.
            tokio::select! {
                _ = sends.send(send) => {}
                () = gone.cancelled() => return Ok(()),
            }
        }
        Ok(())
    }

    /// Reads the hello, finds or registers the agent, and tells the registry that it lives.
    async fn admit(&self, incoming: &mut Streaming<OpenSessionRequest>) -> Result<Admitted, Error> {
        let missing = || Error::invalid_field("events[0].hello", "missing_field", "the first event must be `hello`");
        let first = tokio::time::timeout(HELLO_DEADLINE, incoming.message()).await.map_err(|_| missing())??;
        let mut events = first.ok_or_else(missing)?.events.into_iter();
        let Some(AgentEvent { event: Some(Event::Hello(hello)) }) = events.next() else { return Err(missing()) };
        check::hello(&hello)?;
        let namespace = letters::namespace(&hello.namespace)?.to_string();
        let credits = hello.max_in_flight.clamp(1, self.0.terms.max_credits);
        let agent = self.agent(namespace, hello).await?;
        let id = SessionId::generate(&*self.0.clock);
        let identity = Identity {
            namespace: agent.namespace.into(),
            agent_id: agent.id.as_str().into(),
            agent_type: agent.agent_type.into(),
            capabilities: agent.capabilities.into_iter().map(Into::into).collect(),
            credits,
        };
        let presence = Presence { session: id, identity: identity.clone(), in_flight: 0, closed: false };
        match self.0.agents.report(&[presence]).await {
            Ok(unknown) if !unknown.is_empty() => return Err(CommunicationError::AgentNotFound(agent.id).into()),
            Ok(_) => {}
            // It is reported again with all the others.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot report a session"),
        }
        let terms = self.0.terms;
        let welcome = Welcome {
            session_id: id.to_string(),
            agent_id: agent.id,
            credits,
            heartbeat_interval_ms: terms.heartbeat_interval_ms,
            lease_ms: terms.lease_ms,
            config: agent.config,
        };
        Ok(Admitted { id, identity, welcome, rest: events.collect() })
    }

    async fn agent(&self, namespace: String, hello: Hello) -> Result<Agent, Error> {
        if !hello.agent_id.is_empty() {
            return Ok(self.0.agents.find(&namespace, &hello.agent_id).await?);
        }
        let request = RegisterAgentRequest {
            namespace,
            agent_id: String::new(),
            agent_type: hello.agent_type,
            name: hello.name,
            capabilities: hello.capabilities,
            config: hello.config,
            attach: true,
        };
        Ok(self.0.agents.register(request).await?)
    }
}
