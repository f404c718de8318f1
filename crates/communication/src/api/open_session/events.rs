//! What an agent says: read, checked, and carried out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use contracts::communication::v1::{self as proto, agent_event::Event};
use domain::{MessageId, SessionId};

use crate::{
    api::wire,
    app::{Broker, Draft, Hello, Mailbox, Outcome, Progress},
    error::CommunicationError,
    spans,
};

/// The largest progress that is shown, in bytes; a larger one is a sign of life only.
const MAX_PROGRESS: usize = 64 * 1024;
/// What a nack waits at least, so that a task that nobody takes does not use up its deliveries in a moment; and at most.
const SHORTEST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_hours(1);

/// One event, checked.
pub(super) enum Said {
    Started(String),
    Alive(String),
    Progress {
        task: String,
        detail: Bytes,
    },
    Result {
        task: String,
        outcome: Outcome,
        traceparent: String,
    },
    Nack {
        delivery: String,
        reason: String,
        not_before: Option<Instant>,
    },
    Reject {
        delivery: String,
        reason: String,
    },
    MessageAck(MessageId),
    /// A faulty message is refused in its receipt: it is of no concern to the session's deliveries.
    Send {
        reference: u64,
        draft: Result<Draft, CommunicationError>,
    },
    Ping,
    Drain,
}

/// Reads a hello; what it leaves out has its default.
pub(super) fn hello(hello: proto::Hello, max_credits: u32) -> Result<Hello, CommunicationError> {
    let at = |name| wire::At::event(0, "hello").field(name);
    let agent = wire::optional_agent_id(at("agent_id"), &hello.agent_id)?;
    if agent.is_none() {
        wire::text(at("agent_type"), &hello.agent_type)?;
        wire::text(at("name"), &hello.name)?;
    }
    Ok(Hello {
        namespace: wire::namespace(at("namespace"), &hello.namespace)?,
        agent,
        agent_type: hello.agent_type,
        name: hello.name,
        capabilities: hello.capabilities,
        config: hello.config,
        max_in_flight: hello.max_in_flight.clamp(1, max_credits),
        instance: wire::optional_instance_id(at("instance"), &hello.instance)?,
    })
}

/// Reads any later event; `index` is its place in its batch, for the names of faulty fields.
pub(super) fn read(event: proto::AgentEvent, index: usize, mailbox: &Mailbox) -> Result<Said, CommunicationError> {
    let at = |path| wire::At::event(index, path);
    Ok(match event.event.ok_or_else(|| wire::missing(at("event")))? {
        Event::Hello(_) => {
            return Err(CommunicationError::field(at("hello"), "unexpected", "only the first event is a hello"));
        }
        Event::Started(started) => Said::Started(named(at("started.task_id"), started.task_id)?),
        Event::Heartbeat(heartbeat) => Said::Alive(named(at("heartbeat.task_id"), heartbeat.task_id)?),
        Event::Progress(progress) => {
            let task = named(at("progress.task_id"), progress.task_id)?;
            if progress.detail.len() > MAX_PROGRESS {
                Said::Alive(task)
            } else {
                Said::Progress { task, detail: progress.detail }
            }
        }
        Event::Result(result) => {
            let task = named(at("result.task_id"), result.task_id)?;
            let outcome = wire::outcome(at("result"), result.outcome)?;
            Said::Result { task, outcome, traceparent: wire::traceparent(result.traceparent) }
        }
        Event::Nack(nack) => {
            let delay = Duration::from_millis(u64::from(nack.delay_ms)).clamp(SHORTEST_DELAY, LONGEST_DELAY);
            let not_before = if nack.delay_ms == 0 { None } else { Instant::now().checked_add(delay) };
            let delivery = named(at("nack.delivery_id"), nack.delivery_id)?;
            Said::Nack { delivery, reason: wire::reason(&nack.reason), not_before }
        }
        Event::Reject(reject) => {
            let delivery = named(at("reject.delivery_id"), reject.delivery_id)?;
            Said::Reject { delivery, reason: wire::reason(&reject.reason) }
        }
        Event::MessageAck(ack) => {
            let id = ack.message_id.parse();
            let fault = |error| CommunicationError::field(at("message_ack.message_id"), "invalid_id", error);
            Said::MessageAck(id.map_err(fault)?)
        }
        Event::Send(send) => {
            let message = send.message.ok_or_else(|| wire::missing(at("send.message")))?;
            let draft = wire::draft(
                wire::At::part("message"),
                proto::Message {
                    namespace: mailbox.namespace.to_string(),
                    sender: mailbox.agent.to_string(),
                    ..message
                },
            );
            Said::Send { reference: send.r#ref, draft }
        }
        Event::Ping(_) => Said::Ping,
        Event::Drain(_) => Said::Drain,
    })
}

/// The id that an event is about.
fn named(at: wire::At<'_>, id: String) -> Result<String, CommunicationError> {
    wire::text(at, &id)?;
    Ok(id)
}

/// Carries out what was said. Sends go elsewhere, since they wait for the record.
pub(super) fn apply(broker: &mut Broker, progress: &Progress, session: SessionId, said: Said) {
    match said {
        Said::Started(task) => broker.begun(session, &task),
        Said::Alive(task) => broker.alive(session, &task),
        Said::Progress { task, detail } => {
            if let Some(shown) = broker.shown(session, &task, detail) {
                progress.show(shown);
            }
        }
        Said::Result { task, outcome, traceparent } => {
            let span = spans::result(&task, &traceparent, || broker.trace_of(&task));
            span.in_scope(|| broker.result(session, &task, outcome));
        }
        Said::Nack { delivery, reason, not_before } => broker.nack(session, &delivery, &reason, not_before),
        Said::Reject { delivery, reason } => broker.reject(session, &delivery, &reason),
        Said::MessageAck(message) => broker.message_acked(session, message),
        Said::Drain => broker.drain(session),
        // That it was heard is what counts.
        Said::Send { .. } | Said::Ping => {}
    }
}
