//! Describing an agent, and connecting it.

use std::{collections::HashMap, fmt, future::Future, sync::Arc, time::Duration};

use contracts::{Link, communication::v1 as proto};
use futures::{FutureExt as _, future::BoxFuture};
use lifecycle::{OnExit, Shutdown, Tasks, on_signals};
use serde::Serialize;

use crate::{
    Context, Failure, IntoOutput, Message, Output, Refusal, Server, ServerError, Task,
    session::Session,
    tokens::{Source, Tokens},
};

type Action = Box<dyn Fn(Task) -> BoxFuture<'static, Result<Output, Failure>> + Send + Sync>;
type OnMessage = Box<dyn Fn(Context, Message) -> BoxFuture<'static, Result<(), Refusal>> + Send + Sync>;

/// Why an agent could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be connected to as it was described.
    #[error("the server cannot be connected to")]
    Server(#[from] ServerError),
    /// The configuration does not serialize.
    #[error("the configuration is no JSON object")]
    Config,
    /// The server refuses the session, and would do so again.
    #[error("the server refuses the session of agent {agent:?}")]
    Refused {
        /// The agent's name or id.
        agent: String,
        /// Why.
        #[source]
        source: Box<errors::Error>,
    },
    /// The process's signals cannot be watched.
    #[error("the process's signals cannot be watched: {0}")]
    Signals(String),
}

/// What an agent is and does; see [`Agent::builder`].
pub struct Agent {
    pub(crate) hello: proto::Hello,
    actions: HashMap<String, Action>,
    fallback: Option<Action>,
    pub(crate) on_message: Option<OnMessage>,
    pub(crate) answers_requests: bool,
}

impl Agent {
    /// An agent of a type. Without further words its name is its type.
    pub fn builder(agent_type: impl Into<String>) -> AgentBuilder {
        let agent_type = agent_type.into();
        let hello = proto::Hello { name: agent_type.clone(), agent_type, max_in_flight: 16, ..proto::Hello::default() };
        let agent = Self { hello, actions: HashMap::new(), fallback: None, on_message: None, answers_requests: true };
        AgentBuilder { agent, config_fault: false }
    }

    /// Does a task. What the action's own code does at once runs inside this future too, so that a panic in it is caught.
    pub(crate) async fn perform(&self, task: Task) -> Result<Output, Failure> {
        let Some(action) = self.actions.get(&task.action).or(self.fallback.as_ref()) else {
            let mut known: Vec<_> = self.actions.keys().map(String::as_str).collect();
            known.sort_unstable();
            let message = format!("there is no action `{}`; there are {}", task.action, known.join(", "));
            return Err(Failure::fatal("unknown_action", message));
        };
        action(task).await
    }

    pub(crate) fn label(&self) -> &str {
        if self.hello.agent_id.is_empty() { &self.hello.name } else { &self.hello.agent_id }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Agent").field("name", &self.label()).finish_non_exhaustive()
    }
}

/// Describes an agent step by step.
#[derive(Debug)]
#[must_use = "an agent does nothing until it is connected and run"]
pub struct AgentBuilder {
    agent: Agent,
    config_fault: bool,
}

impl AgentBuilder {
    /// Unique in the namespace; an agent that starts again under its name is the same agent.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.agent.hello.name = name.into();
        self
    }

    /// The fence that the agent lives in; `default` unless said otherwise.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.agent.hello.namespace = namespace.into();
        self
    }

    /// Speaks for an agent that is registered already, instead of registering one by type and name.
    pub fn agent_id(mut self, id: impl Into<String>) -> Self {
        self.agent.hello.agent_id = id.into();
        self
    }

    /// Something it can do, besides what was said before.
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.agent.hello.capabilities.push(capability.into());
        self
    }

    /// The configuration to register with: a JSON object. Once registered, the registry's word counts: [`Context::config`].
    pub fn config(mut self, config: &impl Serialize) -> Self {
        match serde_json::to_vec(config) {
            Ok(json) if json.first() == Some(&b'{') => self.agent.hello.config = json.into(),
            Ok(_) | Err(_) => self.config_fault = true,
        }
        self
    }

    /// How many tasks and messages it takes at once; 16 unless said otherwise, at least 1. The server may allow fewer.
    pub fn max_in_flight(mut self, most: u32) -> Self {
        self.agent.hello.max_in_flight = most.max(1);
        self
    }

    /// What it does when asked for `name`. The handler may run several times at once, up to `max_in_flight`.
    ///
    /// Its future is dropped where it stands when the task is cancelled. A panic in it is a failure with the code `panic`.
    pub fn action<F, A, T>(mut self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Task) -> A + Send + Sync + 'static,
        A: Future<Output = Result<T, Failure>> + Send + 'static,
        T: IntoOutput,
    {
        self.agent.actions.insert(name.into(), boxed(handler));
        self
    }

    /// What it does when asked for an action that has no handler of its own; otherwise that is the failure `unknown_action`.
    pub fn any_action<F, A, T>(mut self, handler: F) -> Self
    where
        F: Fn(Task) -> A + Send + Sync + 'static,
        A: Future<Output = Result<T, Failure>> + Send + 'static,
        T: IntoOutput,
    {
        self.agent.fallback = Some(boxed(handler));
        self
    }

    /// What it does with a message. Messages of the type `request` whose payload is `{"action", "input"}` never get here: the
    /// action is done and its outcome sent back, unless [`AgentBuilder::take_requests`] says otherwise. Without a handler,
    /// other messages are rejected.
    pub fn on_message<F, A>(mut self, handler: F) -> Self
    where
        F: Fn(Context, Message) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        self.agent.on_message = Some(Box::new(move |context, message| handler(context, message).boxed()));
        self
    }

    /// Gives requests to the message handler too, instead of doing their action and sending the outcome back.
    pub fn take_requests(mut self) -> Self {
        self.agent.answers_requests = false;
        self
    }

    /// Connects to a Troupe, when it is run: at an address such as `http://127.0.0.1:50051`, or a [`Server`] that wants more.
    pub fn connect(self, server: impl Into<Server>) -> Connection {
        self.over(server.into().link().map_err(Error::from))
    }

    /// Works over a link, such as one into the same process.
    pub fn link(self, link: Link) -> Connection {
        self.over(Tokens::new(Source::Nowhere).map(|tokens| (link, tokens)).map_err(Error::from))
    }

    fn over(self, link: Result<(Link, Arc<Tokens>), Error>) -> Connection {
        let link = if self.config_fault { Err(Error::Config) } else { link };
        let shared = Arc::default();
        Connection { agent: Arc::new(self.agent), link, context: Context::new(Arc::clone(&shared)), shared }
    }
}

fn boxed<F, A, T>(handler: F) -> Action
where
    F: Fn(Task) -> A + Send + Sync + 'static,
    A: Future<Output = Result<T, Failure>> + Send + 'static,
    T: IntoOutput,
{
    Box::new(move |task| {
        let answer = handler(task);
        async move { answer.await?.into_output() }.boxed()
    })
}

/// An agent with the way to its server; [`Connection::run`] makes it work.
#[derive(Debug)]
#[must_use = "an agent does nothing until it is run"]
pub struct Connection {
    agent: Arc<Agent>,
    link: Result<(Link, Arc<Tokens>), Error>,
    context: Context,
    shared: Arc<crate::session::Shared>,
}

impl Connection {
    /// The agent as its handlers see it.
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Works until SIGINT or SIGTERM asks to stop; then finishes what it has begun. A second signal stops it at once.
    /// Lost connections are made again, for ever; only a server's refusal is an error.
    pub async fn run(self) -> Result<(), Error> {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("signals", OnExit::Continue, on_signals(shutdown.clone()));
        let ended = self.run_until(shutdown.clone()).await;
        shutdown.cut();
        tasks.join(Duration::ZERO).await.map_err(|failed| Error::Signals(failed.to_string()))?;
        ended
    }

    /// The same until `shutdown` drains; a cut ends it at once.
    pub async fn run_until(self, shutdown: Shutdown) -> Result<(), Error> {
        let (link, tokens) = self.link?;
        Session::new(self.agent, link, tokens, self.shared).run(&shutdown).await
    }
}
