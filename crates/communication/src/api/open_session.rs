//! `OpenSession`: one agent session, from its hello to its end.
//!
//! The answer's stream is there at once; everything else happens in a task that reads what the agent says. The session is
//! closed however that task ends, also by a panic, so that what it held goes back to its queues.

mod events;

use std::{convert::Infallible, sync::Arc};

use access::Credential;
use contracts::communication::v1::{
    AgentEvent, OpenSessionRequest, OpenSessionResponse, RenewSessionRequest, RenewSessionResponse, agent_event::Event,
    agent_session_service_server::AgentSessionService,
};
use domain::{Clock, SessionId};
use errors::Error;
use futures::{StreamExt as _, stream::FuturesUnordered};
use lifecycle::OnExit;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, Span};

use self::events::Said;
use super::{Api, Context, credentials, outgoing::Outgoing, wire};
use crate::{
    app::{AgentInfo, Held, Hello, Hub, Mailbox, Opening, Outbox, Submitted, ToAgent},
    error::CommunicationError,
    metrics::Stream,
    spans,
};

/// Sends of one session that wait to be recorded; beyond, the session is not read until there are fewer.
const MOST_SENDS: usize = 1_024;

#[tonic::async_trait]
impl AgentSessionService for Api {
    type OpenSessionStream = Outgoing<ToAgent, OpenSessionResponse>;

    async fn open_session(
        &self,
        request: Request<Streaming<OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let limits = self.0.limits;
        let outbox = Outbox::new(limits.session_buffer);
        let millis = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let (beat, lease) = (millis(limits.heartbeat_interval), millis(limits.session_lease));
        let encode = move |batch: Vec<ToAgent>| {
            Stream::Agents.frame_out();
            OpenSessionResponse {
                events: batch.into_iter().map(|event| wire::server_event(event, beat, lease)).collect(),
            }
        };
        let outgoing = Outgoing::new(outbox.clone(), encode);
        let credential = request.extensions().get::<Credential>().cloned();
        let (context, requests) = (Arc::clone(&self.0), request.into_inner());
        let session = access::going_on(async move {
            let ended = Box::pin(run(&context, requests, credential, &outbox)).await;
            outbox.end(ended);
            Ok::<_, Infallible>(())
        });
        self.0.tasks.spawn("communication.session", OnExit::Continue, session);
        Ok(Response::new(outgoing))
    }

    async fn renew_session(
        &self,
        request: Request<RenewSessionRequest>,
    ) -> Result<Response<RenewSessionResponse>, Status> {
        credentials::renew(&self.0, request)
    }
}

/// Closes the session when the task that reads it ends, however it ends.
struct Open<'a> {
    hub: &'a Hub,
    id: SessionId,
    /// A label of [`crate::metrics::SESSIONS_ENDED`].
    reason: &'static str,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.hub.close(self.id, self.reason);
    }
}

async fn run(
    context: &Context,
    mut requests: Streaming<OpenSessionRequest>,
    credential: Option<Credential>,
    outbox: &Outbox<ToAgent>,
) -> Result<(), Error> {
    let deadline = Instant::now() + context.limits.session_lease;
    // Both arms are cancel-safe.
    let first = tokio::select! {
        first = timeout_at(deadline, requests.message()) => first.map_err(|_| CommunicationError::LeaseLost)??,
        () = context.tasks.shutdown().draining() => return Err(CommunicationError::Stopping.into()),
    };
    let Some(first) = first else { return Ok(()) };
    let mut events = first.events.into_iter();
    let hello = match events.next().and_then(|event| event.event) {
        Some(Event::Hello(hello)) => events::hello(hello, context.limits.max_credits)?,
        Some(_) | None => return Err(wire::missing("events[0].hello").into()),
    };
    access::fence_agent(access::current().as_deref(), &hello.namespace, hello.agent)?;
    let agent = context.directory.admit(&hello).await?;
    let session = SessionId::generate(&*context.clock);
    let hold = |credential| context.credentials.hold(session, &agent.mailbox, credential);
    let held = credential.map(hold).transpose()?;
    let mut open = Open { hub: &context.hub, id: session, reason: "closed" };
    context.hub.open(opening(session, &agent, &hello), outbox.clone());
    tracing::debug!(session.id = %session, agent.id = %agent.mailbox.agent, "session open");
    let reader = Reader { context, session, mailbox: &agent.mailbox, outbox, sends: FuturesUnordered::new() };
    // All arms are cancel-safe: a session that has been ended hears nothing more.
    let ended = tokio::select! {
        error = over(held, &*context.clock) => Err(error),
        ended = reader.read(events.collect(), requests) => ended,
        () = outbox.ended() => Ok(()),
    };
    open.reason = reason(ended.as_ref().err().map(|error| error.reason));
    if let Err(error) = &ended {
        tracing::info!(session.id = %session, agent.id = %agent.mailbox.agent, %error, "session lost");
    }
    // The error goes out; closing alone would end the stream as if all were well.
    outbox.end(ended.clone());
    ended
}

/// Waits until what the session is open with is good no more; for ever where it needs nothing.
async fn over(held: Option<Held<'_>>, clock: &dyn Clock) -> Error {
    match held {
        Some(mut held) => held.ended(clock).await,
        None => std::future::pending().await,
    }
}

fn opening(session: SessionId, agent: &AgentInfo, hello: &Hello) -> Opening {
    Opening {
        session,
        mailbox: agent.mailbox.clone(),
        instance: hello.instance,
        agent_type: agent.agent_type.clone(),
        capabilities: agent.capabilities.clone(),
        credits: hello.max_in_flight,
        config: agent.config.clone(),
    }
}

/// What a session's end counts as.
fn reason(error: Option<&'static str>) -> &'static str {
    match error {
        None => "closed",
        Some("session_lease_lost") => "lease_lost",
        Some("request_invalid") => "faulty",
        Some("token_expired" | "token_revoked") => "credential",
        Some(_) => "broken",
    }
}

/// Reads what an agent says, in order.
struct Reader<'a> {
    context: &'a Context,
    session: SessionId,
    mailbox: &'a Mailbox,
    outbox: &'a Outbox<ToAgent>,
    /// Receipts that are due when their messages are recorded.
    sends: FuturesUnordered<futures::future::BoxFuture<'static, ToAgent>>,
}

impl Reader<'_> {
    /// Until the agent leaves, falls silent for longer than its lease, or says something faulty.
    async fn read(mut self, first: Vec<AgentEvent>, mut requests: Streaming<OpenSessionRequest>) -> Result<(), Error> {
        self.hear(first, 1).await?;
        let lease = self.context.limits.session_lease;
        let mut deadline = Instant::now() + lease;
        loop {
            let is_full = self.sends.len() >= MOST_SENDS;
            // Both arms are cancel-safe: `message` keeps what it has read in the stream.
            tokio::select! {
                Some(receipt) = self.sends.next(), if !self.sends.is_empty() => {
                    self.context.hub.broker().pay(self.session, receipt);
                    // Not reading was our choice.
                    if is_full {
                        deadline = Instant::now() + lease;
                    }
                }
                heard = timeout_at(deadline, requests.message()), if !is_full => {
                    let Some(batch) = heard.map_err(|_| CommunicationError::LeaseLost)?? else { return Ok(()) };
                    Stream::Agents.frame_in();
                    self.hear(batch.events, 0).await?;
                    deadline = Instant::now() + lease;
                }
            }
        }
    }

    /// A batch: everything between two sends is one visit to the broker.
    async fn hear(&mut self, events: Vec<AgentEvent>, offset: usize) -> Result<(), Error> {
        let mut pending = Vec::with_capacity(events.len());
        for (index, event) in events.into_iter().enumerate() {
            match events::read(event, index + offset, self.mailbox) {
                Ok(Said::Send { reference, draft }) => {
                    self.apply(&mut pending);
                    self.send(reference, draft).await;
                }
                Ok(said) => pending.push(said),
                Err(error) => {
                    // What came before the fault was said in good order.
                    self.apply(&mut pending);
                    return Err(error.into());
                }
            }
        }
        self.apply(&mut pending);
        Ok(())
    }

    fn apply(&self, pending: &mut Vec<Said>) {
        if pending.is_empty() || !self.outbox.is_open() {
            pending.clear();
            return;
        }
        let mut broker = self.context.hub.broker();
        let progress = &self.context.progress;
        pending.drain(..).for_each(|said| events::apply(&mut broker, progress, self.session, said));
    }

    async fn send(&mut self, reference: u64, draft: Result<crate::app::Draft, CommunicationError>) {
        let is_question = draft.as_ref().is_ok_and(crate::app::Draft::is_question);
        let asker = draft.as_ref().ok().and_then(crate::app::Draft::asker);
        self.context.hub.broker().owe(self.session, is_question, asker);
        let (submitted, span) = match draft {
            Ok(mut draft) => {
                let span = spans::sent(&mut draft);
                (self.context.messages.submit(draft).instrument(span.clone()).await, span)
            }
            Err(error) => (Err(error), Span::none()),
        };
        match submitted {
            Ok(submitted) => self.sends.push(Box::pin(receipt(reference, submitted).instrument(span))),
            Err(error) => self.context.hub.broker().pay(self.session, refused(reference, error)),
        }
    }
}

async fn receipt(reference: u64, submitted: Submitted) -> ToAgent {
    match submitted.recorded().await {
        Ok((id, _)) => ToAgent::Receipt { reference, outcome: Ok(id) },
        Err(error) => refused(reference, error),
    }
}

/// A refusal as text: the stable reason first.
fn refused(reference: u64, error: CommunicationError) -> ToAgent {
    let error = Error::from(error);
    ToAgent::Receipt { reference, outcome: Err(format!("{}: {}", error.reason, error.message)) }
}
