//! The agent's side of the session: one bidirectional stream at a time, and what outlives it.
//!
//! Invariants:
//! - A task is never run twice at once, nor again while its result is kept.
//! - A result is kept, and sent again over every new stream, until `result_ack` has come.
//! - Handlers outlive a stream: losing it neither stops nor restarts them.
//! - Everything that can pile up is bounded: the outbox by the deliveries in hand (hints are dropped when it is congested),
//!   kept results by [`shared::MOST_KEPT`], sends by [`shared::MOST_SENDS`].
//!
//! Modules: [`shared`] is the state and its rules, without I/O; [`wire`] batches what goes up; [`stream`] drives one
//! stream; [`work`] runs handlers, within their [`spans`]; this one connects again and again.

mod shared;
mod spans;
mod stream;
mod wire;
mod work;

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use contracts::{Link, communication::v1::agent_session_service_client::AgentSessionServiceClient};
use errors::Code;
use lifecycle::Shutdown;
use tokio::{task::JoinSet, time::Instant};

pub(crate) use self::shared::{Reply, Shared};
use self::stream::Ended;
use crate::{Agent, Error, tokens::Tokens};

/// How long a stop goes on connecting while results wait for their acknowledgement.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// The longest pause between two streams meanwhile.
const DRAIN_RECONNECT: Duration = Duration::from_millis(250);

/// A session of one agent, over as many streams as it takes.
pub(crate) struct Session {
    agent: Arc<Agent>,
    client: AgentSessionServiceClient<Link>,
    tokens: Arc<Tokens>,
    shared: Arc<Shared>,
    handlers: JoinSet<()>,
}

impl Session {
    pub(crate) fn new(agent: Arc<Agent>, link: Link, tokens: Arc<Tokens>, shared: Arc<Shared>) -> Self {
        let client = AgentSessionServiceClient::new(link)
            .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES);
        Self { agent, client, tokens, shared, handlers: JoinSet::new() }
    }

    /// Works until `shutdown` drains and everything is finished, or the server refuses.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Result<(), Error> {
        let ended = self.reconnecting(shutdown).await;
        self.shared.close();
        self.handlers.shutdown().await;
        ended
    }

    async fn reconnecting(&mut self, shutdown: &Shutdown) -> Result<(), Error> {
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(5))
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        let mut next = delays.build();
        let mut give_up = None;
        loop {
            if shutdown.is_draining() {
                // What was done has to be told; but the server may be gone for good.
                let deadline = *give_up.get_or_insert_with(|| Instant::now() + DRAIN_DEADLINE);
                if self.shared.is_settled() || Instant::now() >= deadline {
                    return Ok(());
                }
            }
            // A cut may drop the stream wherever it stands.
            let ended = tokio::select! {
                ended = self.stream(shutdown) => ended,
                () = shutdown.cutting() => return Ok(()),
            };
            match ended {
                Ended::Drained => return Ok(()),
                Ended::Lost { error, welcomed } => {
                    if !self.tokens.replace(&error) && is_permanent(&error) {
                        let agent = self.agent.label().to_owned();
                        return Err(Error::Refused { agent, source: Box::new(error) });
                    }
                    if welcomed {
                        next = delays.build();
                    }
                    let delay = next.next().unwrap_or(Duration::from_secs(5));
                    tracing::info!(
                        agent = self.agent.label(),
                        error = errors::chain(&error),
                        ?delay,
                        "session lost, opening another"
                    );
                    let is_draining = shutdown.is_draining();
                    let delay = if is_draining { delay.min(DRAIN_RECONNECT) } else { delay };
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = shutdown.draining(), if !is_draining => {}
                        () = shutdown.cutting() => return Ok(()),
                    }
                }
            }
        }
    }
}

/// Would the server say the same again? Names what only a person can mend.
fn is_permanent(error: &errors::Error) -> bool {
    match error.code {
        Code::Invalid | Code::Unauthenticated | Code::Forbidden | Code::NotFound | Code::Exists => true,
        Code::Conflict | Code::WrongState | Code::Exhausted | Code::Unavailable | Code::Timeout | Code::Internal => {
            false
        }
    }
}
