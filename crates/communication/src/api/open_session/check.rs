//! What an agent says, checked: a faulty event ends the session and names the field.

use contracts::communication::v1::{AgentEvent, Hello, agent_event::Event};
use domain::{AgentId, check_name};
use errors::Error;

/// A batch holds at least one event.
pub(super) fn filled(events: Vec<AgentEvent>) -> Result<Vec<AgentEvent>, Error> {
    if events.is_empty() {
        return Err(Error::invalid_field("events", "missing_field", "must hold at least one event"));
    }
    Ok(events)
}

/// Who the agent is must be told by its id, or by type and name; the registry checks the rest.
pub(super) fn hello(hello: &Hello) -> Result<(), Error> {
    let field = |name: &str| format!("events[0].hello.{name}");
    if !hello.agent_id.is_empty() {
        let parsed: Result<AgentId, _> = hello.agent_id.parse();
        parsed.map_err(|error| Error::invalid_field(field("agent_id"), "invalid_id", error))?;
        return Ok(());
    }
    check_name(&hello.agent_type).map_err(|error| Error::invalid_field(field("agent_type"), "invalid_name", error))?;
    if hello.name.is_empty() {
        return Err(Error::invalid_field(field("name"), "missing_field", "is required without `agent_id`"));
    }
    Ok(())
}

/// An event after the hello.
pub(super) fn event(index: usize, event: AgentEvent) -> Result<Event, Error> {
    let missing = |path: &str, message: &str| {
        let field = if path.is_empty() { format!("events[{index}]") } else { format!("events[{index}].{path}") };
        Err(Error::invalid_field(field, "missing_field", message))
    };
    let Some(event) = event.event else { return missing("", "must say something") };
    let (path, id) = match &event {
        Event::Hello(_) => return missing("hello", "must be the first event, and only the first"),
        Event::Started(started) => ("started.task_id", &started.task_id),
        Event::Heartbeat(beat) => ("heartbeat.task_id", &beat.task_id),
        Event::Progress(progress) => ("progress.task_id", &progress.task_id),
        Event::Result(result) if result.outcome.is_none() => {
            return missing("result.outcome", "must be an output or a failure");
        }
        Event::Result(result) => ("result.task_id", &result.task_id),
        Event::Nack(nack) => ("nack.delivery_id", &nack.delivery_id),
        Event::Reject(reject) => ("reject.delivery_id", &reject.delivery_id),
        Event::MessageAck(ack) => ("message_ack.message_id", &ack.message_id),
        Event::Send(send) if send.message.is_none() => return missing("send.message", "must hold the message"),
        Event::Send(_) | Event::Ping(_) | Event::Drain(_) => return Ok(event),
    };
    if id.is_empty() { missing(path, "must name it") } else { Ok(event) }
}
