//! One open WebSocket: what it is told, and when it ends.
//!
//! Events are read from the orchestrator only as fast as the client takes them, so that a client that is slow costs no more than
//! one event of each of its subscriptions; one that takes nothing for [`SEND_WITHIN`] is cut off. What it asks is done one after
//! the other, so that it cannot ask for more at once than a client with one connection.

use std::{sync::Arc, time::Duration};

use access::{Principal, acting_as};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use domain::Namespace;
use futures::{SinkExt as _, StreamExt as _, stream::BoxStream};
use http::StatusCode;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_stream::StreamMap;
use tokio_tungstenite::tungstenite;

use super::{
    message::{Asked, Close, Told},
    subscription::{self, Step},
};
use crate::{
    api::lasting::Lasting,
    app::App,
    context::{self, Context},
    json,
    middleware::Denials,
    problem::Problem,
    rate::{Caller, Class},
    words::{ExecutionId, Name},
};

/// How long one message may take until the client's side has it.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take to close its side.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Executions that one socket follows.
const MOST: usize = 64;
/// Messages that are not understood, until nobody listens any more.
const MOST_NONSENSE: usize = 16;

/// Sockets that are open.
const OPEN: &str = "gateway_websockets";
/// Sockets that have ended, by `reason`.
const CLOSED: &str = "gateway_websockets_closed_total";

/// Who has opened a socket, and with which request.
pub(super) struct Whose {
    pub(super) principal: Arc<Principal>,
    /// As who they are counted.
    pub(super) caller: Caller,
    pub(super) context: Context,
    pub(super) lasting: Lasting,
    pub(super) denials: Denials,
}

/// A socket that is to be served.
pub(super) struct Session {
    app: Arc<App>,
    whose: Whose,
}

/// A socket that is counted for as long as this is there.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!(OPEN).increment(1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(OPEN).decrement(1);
    }
}

impl Session {
    pub(super) fn new(app: Arc<App>, whose: Whose) -> Self {
        Self { app, whose }
    }

    /// Speaks until either side ends it.
    pub(super) async fn run(self, mut socket: WebSocket) {
        let Self { app, whose } = self;
        let counted = Counted::new();
        let mut talk = Talk { app: &app, whose: &whose, socket: &mut socket, open: StreamMap::new(), nonsense: 0 };
        // All arms are cancel-safe: a message is in the socket's buffer whole, or not at all.
        let close = tokio::select! {
            biased;
            _ = whose.lasting.clone().ended() => Close::Credential,
            () = app.shutdown.draining() => Close::Restart,
            close = acting_as(Arc::clone(&whose.principal), talk.go_on()) => close,
        };
        // Whatever is open ends before the client is told, and gives back its room.
        drop(talk);
        finish(socket, close).await;
        drop(counted);
        metrics::counter!(CLOSED, "reason" => close.label()).increment(1);
        tracing::debug!(request = &*whose.lasting.request_id(), reason = close.label(), "a websocket has ended");
    }
}

/// Tells the client why, or answers that it has closed its side, and waits for a while until it has heard.
async fn finish(mut socket: WebSocket, close: Close) {
    let heard = async {
        if let Some((code, reason)) = close.told() {
            let frame = CloseFrame { code, reason: reason.into() };
            if socket.send(Message::Close(Some(frame))).await.is_err() {
                return;
            }
        }
        while let Some(Ok(_)) = socket.recv().await {}
    };
    // Who does not hear it in time finds the connection closed.
    let _: Result<(), _> = timeout(CLOSE_WITHIN, heard).await;
}

/// A socket in use.
struct Talk<'a> {
    app: &'a Arc<App>,
    whose: &'a Whose,
    socket: &'a mut WebSocket,
    /// What each subscription tells, by its execution.
    open: StreamMap<Arc<str>, BoxStream<'static, Step>>,
    nonsense: usize,
}

impl Talk<'_> {
    async fn go_on(&mut self) -> Close {
        match self.until_closed().await {
            Ok(never) => match never {},
            Err(close) => close,
        }
    }

    async fn until_closed(&mut self) -> Result<std::convert::Infallible, Close> {
        let every = self.app.settings.keep_alive;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pings = 0_u64;
        let mut awaited = None;
        loop {
            // All arms are cancel-safe: what has not come whole is still there the next time. What has come is heard first: a
            // pong that lies there is one in time, however long something else has taken.
            tokio::select! {
                biased;
                message = self.socket.recv() => match message {
                    None | Some(Ok(Message::Close(_))) => return Err(Close::Left),
                    Some(Err(error)) => return Err(fault(error)),
                    Some(Ok(Message::Text(text))) => self.heard(text.as_bytes()).await?,
                    Some(Ok(Message::Binary(_))) => return Err(Close::Binary),
                    Some(Ok(Message::Pong(pong))) => awaited = awaited.filter(|awaited| *awaited != pong),
                    // The protocol itself has answered: whoever does not read that is not listened to either.
                    Some(Ok(Message::Ping(_))) => in_time(self.socket.flush()).await?,
                },
                _ = ticks.tick() => {
                    if awaited.is_some() {
                        return Err(Close::Silent);
                    }
                    pings += 1;
                    let ping = Bytes::copy_from_slice(&pings.to_be_bytes());
                    awaited = Some(ping.clone());
                    self.send(Message::Ping(ping)).await?;
                }
                Some((execution, step)) = self.open.next(), if !self.open.is_empty() => {
                    self.step(&execution, step).await?;
                }
            }
        }
    }

    /// What a client says is done before the next is heard.
    async fn heard(&mut self, text: &[u8]) -> Result<(), Close> {
        match json::parse::<Asked>(text) {
            Ok(Asked::Subscribe { execution_id, after, namespace }) => {
                match Box::pin(self.subscribe(&execution_id, after, namespace)).await {
                    Ok(()) => Ok(()),
                    Err(Refused::Closed(close)) => Err(close),
                    Err(Refused::Problem(problem)) => self.problem(Some(&execution_id.to_string()), &problem).await,
                }
            }
            Ok(Asked::Unsubscribe { execution_id }) => {
                let execution_id = execution_id.to_string();
                self.forget(&execution_id);
                self.tell(&Told::Unsubscribed { execution_id: &execution_id }).await
            }
            Err(problem) => {
                self.nonsense += 1;
                self.problem(None, &problem).await?;
                if self.nonsense == MOST_NONSENSE { Err(Close::Nonsense) } else { Ok(()) }
            }
        }
    }

    async fn subscribe(&mut self, id: &ExecutionId, after: u64, namespace: Option<Name>) -> Result<(), Refused> {
        let execution: Arc<str> = id.to_string().into();
        self.forget(&execution);
        let verdict = self.app.limiter.take(Class::Read, &self.whose.caller).await;
        if let Some(refused) = verdict.filter(|verdict| !verdict.is_admitted) {
            return Err(Problem::rate_limited(refused.wait()).into());
        }
        // Revoked elsewhere, it is good a little longer than here: nothing new is told by then.
        self.whose.lasting.check().await?;
        let context = self.within(namespace, &execution)?;
        if self.open.len() == MOST {
            let detail = format!("one connection follows {MOST} executions at the most");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_subscriptions", detail).into());
        }
        let namespace = context.namespace.clone();
        let (app, principal) = (Arc::clone(self.app), Arc::clone(&self.whose.principal));
        let opened = subscription::open(app, principal, context, id.clone(), after).await;
        let denied = |problem: &Problem| self.whose.denials.note(&self.app.audit, &execution, &namespace, problem);
        let steps = opened.inspect_err(denied)?;
        self.tell(&Told::Subscribed { execution_id: &execution, after }).await?;
        self.open.insert(execution, steps);
        Ok(())
    }

    /// In the namespace that is named, where the credential reaches it.
    fn within(&self, namespace: Option<Name>, execution: &str) -> Result<Context, Problem> {
        let Some(name) = namespace else { return Ok(self.whose.context.clone()) };
        let wrong = |error| Problem::field("/namespace", "invalid_value", error);
        let namespace = Namespace::from_field(&name.0).map_err(wrong)?;
        if let Err(problem) = context::reach(&self.whose.principal, &namespace) {
            self.whose.denials.note(&self.app.audit, execution, namespace.as_str(), &problem);
            return Err(problem);
        }
        Ok(Context { namespace: namespace.to_string(), ..self.whose.context.clone() })
    }

    /// Ends a subscription, where there is one, and gives back its room.
    fn forget(&mut self, execution: &str) {
        drop(self.open.remove(execution));
    }

    async fn step(&mut self, execution: &str, step: Step) -> Result<(), Close> {
        match step {
            Step::Event(event) => self.tell(&Told::Event { execution_id: execution, event: &event }).await,
            Step::Broken(problem) => {
                self.forget(execution);
                self.problem(Some(execution), &problem).await
            }
            Step::Ended => {
                self.forget(execution);
                self.tell(&Told::Ended { execution_id: execution }).await
            }
        }
    }

    async fn problem(&mut self, execution_id: Option<&str>, problem: &Problem) -> Result<(), Close> {
        let request_id = self.whose.lasting.request_id();
        let retry_after = problem.retry_after();
        self.tell(&Told::Problem { execution_id, retry_after, problem: problem.document(&request_id) }).await
    }

    async fn tell(&mut self, told: &Told<'_>) -> Result<(), Close> {
        let text = serde_json::to_string(told).map_err(|error| {
            tracing::error!(error = errors::chain(&error), "an event cannot be told");
            Close::Internal
        })?;
        self.send(Message::text(text)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Close> {
        in_time(self.socket.send(message)).await
    }
}

/// Sends, unless the client does not take it.
async fn in_time(sending: impl Future<Output = Result<(), axum::Error>>) -> Result<(), Close> {
    match timeout(SEND_WITHIN, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(fault(error)),
        Err(_) => Err(Close::Slow),
    }
}

/// Why a subscription is not there.
enum Refused {
    Problem(Problem),
    Closed(Close),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Close> for Refused {
    fn from(close: Close) -> Self {
        Self::Closed(close)
    }
}

fn fault(error: axum::Error) -> Close {
    use tungstenite::Error;
    match error.into_inner().downcast::<Error>().as_deref() {
        Ok(Error::Capacity(_)) => Close::TooLarge,
        Ok(Error::Protocol(_)) => Close::Protocol,
        Ok(Error::Utf8(_)) => Close::Text,
        Ok(_) | Err(_) => Close::Left,
    }
}
