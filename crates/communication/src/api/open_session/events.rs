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

#[cfg(test)]
mod tests {
    /// What agents may say, as far as it is a frame.
    mod fuzz {
        use std::sync::Arc;

        use access::Principal;
        use domain::{AgentId, Namespace};
        use errors::Error;
        use futures::FutureExt as _;
        use proptest::prelude::*;
        use testkit::fuzz::{cases, json, nearly, text};

        use super::super::*;
        use crate::api::wire::MAX_TEXT;

        /// As within a call of somebody who may do everything.
        fn within<T>(work: impl FnOnce() -> T) -> T {
            let asked = access::acting_as(Arc::new(Principal::anonymous()), async { work() });
            asked.now_or_never().expect("it waits for nothing")
        }

        fn id(prefix: &'static str) -> impl Strategy<Value = String> {
            prop_oneof![
                3 => Just(format!("{prefix}_01jx4q3nd8e5r0cawm6n8gs3kt")),
                1 => Just(String::new()),
                1 => nearly(Just(format!("{prefix}_01jx4q3nd8e5r0cawm6n8gs3kt"))),
                1 => text(),
            ]
        }

        fn named() -> impl Strategy<Value = String> {
            prop_oneof![3 => "[a-z][a-z0-9.-]{0,20}", 1 => text()]
        }

        fn bytes() -> impl Strategy<Value = Bytes> {
            prop_oneof![2 => json().prop_map(|json| json.to_string().into()), 1 => any::<Vec<u8>>().prop_map(Bytes::from)]
        }

        fn hello_frame() -> impl Strategy<Value = proto::Hello> {
            let capabilities = prop::collection::vec(named(), 0..4);
            (id("agt"), named(), named(), named(), capabilities, bytes(), any::<u32>(), id("ins")).prop_map(
                |(agent_id, agent_type, name, namespace, capabilities, config, max_in_flight, instance)| proto::Hello {
                    agent_id,
                    agent_type,
                    name,
                    namespace,
                    capabilities,
                    config,
                    max_in_flight,
                    instance,
                },
            )
        }

        fn outcome() -> impl Strategy<Value = Option<proto::task_result::Outcome>> {
            use proto::task_result::Outcome;
            let failure = (text(), text(), any::<bool>(), bytes()).prop_map(|(code, message, retryable, details)| {
                Outcome::Failure(proto::TaskFailure { code, message, retryable, details })
            });
            proptest::option::weighted(0.8, prop_oneof![bytes().prop_map(Outcome::Output), failure])
        }

        fn message() -> impl Strategy<Value = proto::Message> {
            use proto::message::Recipient;
            let recipient = prop_oneof![
                id("agt").prop_map(Recipient::AgentId),
                named().prop_map(Recipient::Capability),
                named().prop_map(Recipient::AgentType),
            ];
            let expiry =
                (any::<i64>(), any::<i32>()).prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
            let head = (id("msg"), proptest::option::of(recipient), text(), bytes());
            let rest = (text(), id("agt"), proptest::option::of(any::<u32>()), proptest::option::of(expiry), text());
            (head, rest).prop_map(
                |((id, recipient, r#type, payload), (correlation_id, reply_to, priority, expires_at, traceparent))| {
                    proto::Message {
                        id,
                        recipient,
                        r#type,
                        payload,
                        correlation_id,
                        reply_to,
                        priority,
                        expires_at,
                        traceparent,
                        ..proto::Message::default()
                    }
                },
            )
        }

        /// Each kind for itself on the heap: all of them in one are more than a thread's stack.
        fn frame() -> impl Strategy<Value = proto::AgentEvent> {
            let of_tasks = prop_oneof![
                text().prop_map(|task_id| Event::Started(proto::TaskStarted { task_id })),
                text().prop_map(|task_id| Event::Heartbeat(proto::TaskHeartbeat { task_id })),
                (text(), bytes())
                    .prop_map(|(task_id, detail)| Event::Progress(proto::TaskProgress { task_id, detail })),
                (text(), outcome(), text()).prop_map(|(task_id, outcome, traceparent)| {
                    Event::Result(proto::TaskResult { task_id, outcome, traceparent })
                }),
            ]
            .boxed();
            let of_deliveries = prop_oneof![
                (text(), text(), any::<u32>()).prop_map(|(delivery_id, reason, delay_ms)| {
                    Event::Nack(proto::Nack { delivery_id, reason, delay_ms })
                }),
                (text(), text()).prop_map(|(delivery_id, reason)| Event::Reject(proto::Reject { delivery_id, reason })),
                id("msg").prop_map(|message_id| Event::MessageAck(proto::MessageAck { message_id })),
            ]
            .boxed();
            let send = (any::<u64>(), proptest::option::weighted(0.9, message().boxed()))
                .prop_map(|(r#ref, message)| Event::Send(proto::Send { r#ref, message }))
                .boxed();
            let event = prop_oneof![4 => of_tasks, 3 => of_deliveries, 3 => send, 1 => hello_frame().prop_map(Event::Hello).boxed()];
            proptest::option::weighted(0.9, event).prop_map(|event| proto::AgentEvent { event })
        }

        /// A refusal names the field, and repeats little of it.
        fn is_told(error: CommunicationError, parent: &str) -> Result<(), TestCaseError> {
            let error = Error::from(error);
            prop_assert_eq!(error.code, errors::Code::Invalid);
            let field = &error.violations[0].field;
            prop_assert!(field.starts_with(parent), "{} is not in {}", field, parent);
            prop_assert!(error.message.len() < 4_096, "{} bytes", error.message.len());
            Ok(())
        }

        fn is_short(text: &str) -> Result<(), TestCaseError> {
            prop_assert!(text.len() <= MAX_TEXT && !text.contains('\0'), "{} bytes", text.len());
            Ok(())
        }

        proptest! {
            #![proptest_config(cases(512))]

            #[test]
            fn a_hello_says_who_comes_or_is_refused_by_name(said in hello_frame()) {
                match within(|| hello(said.clone(), 64)) {
                    Ok(read) => {
                        prop_assert_eq!(read.agent.map(|agent| agent.to_string()).unwrap_or_default(), said.agent_id.as_str());
                        prop_assert_eq!(read.instance.map(|instance| instance.to_string()).unwrap_or_default(), said.instance);
                        prop_assert!((1..=64).contains(&read.max_in_flight));
                        prop_assert!(said.namespace.is_empty() || read.namespace.as_str() == said.namespace);
                        if read.agent.is_none() {
                            prop_assert!(!read.agent_type.is_empty() && !read.name.is_empty());
                            is_short(&read.agent_type)?;
                            is_short(&read.name)?;
                        }
                    }
                    Err(error) => is_told(error, "events[0].hello.")?,
                }
            }

            #[test]
            fn an_event_is_read_as_it_was_said_or_refused_by_name(said in frame(), index in 0..5_usize) {
                let agent = AgentId::from_parts(1, 1);
                let mailbox = Mailbox::of_agent(Namespace::default(), agent);
                match within(|| read(said.clone(), index, &mailbox)) {
                    Ok(Said::Started(task) | Said::Alive(task) | Said::Progress { task, .. }) => is_short(&task)?,
                    Ok(Said::Result { task, outcome, traceparent }) => {
                        is_short(&task)?;
                        is_short(&traceparent)?;
                        if let Outcome::Failure { code, .. } = outcome {
                            prop_assert!(!code.is_empty());
                            is_short(&code)?;
                        }
                    }
                    Ok(Said::Nack { delivery, reason, not_before }) => {
                        is_short(&delivery)?;
                        is_short(&reason)?;
                        let latest = Instant::now().checked_add(LONGEST_DELAY);
                        prop_assert!(not_before <= latest);
                    }
                    Ok(Said::Reject { delivery, reason }) => {
                        is_short(&delivery)?;
                        is_short(&reason)?;
                    }
                    Ok(Said::MessageAck(id)) => {
                        let Some(Event::MessageAck(ack)) = said.event else { panic!("it was something else") };
                        prop_assert_eq!(id.to_string(), ack.message_id);
                    }
                    Ok(Said::Send { draft: Ok(draft), .. }) => {
                        prop_assert_eq!(draft.sender, Some(agent), "whatever it says of itself");
                        prop_assert!(draft.namespace == mailbox.namespace && draft.priority <= 9);
                        is_short(&draft.kind)?;
                        is_short(&draft.correlation_id)?;
                        prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&draft.payload).is_ok());
                    }
                    Ok(Said::Send { draft: Err(error), .. }) => is_told(error, "message.")?,
                    Ok(Said::Ping | Said::Drain) => {}
                    Err(error) => is_told(error, &format!("events[{index}]."))?,
                }
            }
        }
    }
}
