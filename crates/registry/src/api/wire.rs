//! Between the contract's types and ours.

use contracts::registry::v1 as wire;
use domain::{AgentId, Namespace, Timestamp};
use errors::Error;

use crate::app::{Liveness, SessionReport, Snapshot, Target};

/// Whoever it is asked for has to reach there.
pub(super) fn namespace(field: &str) -> Result<Namespace, Error> {
    let namespace = Namespace::from_field(field);
    let namespace = namespace.map_err(|error| Error::invalid_field("namespace", "invalid_name", error))?;
    access::fence(&namespace)?;
    Ok(namespace)
}

pub(super) fn agent_id(field: &str) -> Result<AgentId, Error> {
    field.parse().map_err(|error| Error::invalid_field("agent_id", "invalid_id", error))
}

/// Absent where empty: protobuf does not tell an empty text from none.
pub(super) fn non_empty<T: AsRef<[u8]>>(field: T) -> Option<T> {
    if field.as_ref().is_empty() { None } else { Some(field) }
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = at.to_seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
}

pub(super) fn agent(snapshot: Snapshot) -> wire::Agent {
    let agent = snapshot.agent;
    wire::Agent {
        id: agent.id.to_string(),
        namespace: agent.namespace.to_string(),
        agent_type: agent.agent_type.clone(),
        name: agent.name.clone(),
        capabilities: agent.capabilities.clone(),
        config: agent.config.as_bytes().to_vec().into(),
        status: status(snapshot.liveness).into(),
        created_at: Some(timestamp(agent.created_at)),
        updated_at: Some(timestamp(agent.updated_at)),
        revision: agent.revision,
        last_heartbeat_at: snapshot.last_heartbeat_at.map(timestamp),
        in_flight: snapshot.in_flight,
        capacity: snapshot.capacity,
    }
}

fn status(liveness: Liveness) -> wire::AgentStatus {
    match liveness {
        Liveness::Idle => wire::AgentStatus::Idle,
        Liveness::Busy => wire::AgentStatus::Busy,
        Liveness::Degraded => wire::AgentStatus::Degraded,
        Liveness::Offline => wire::AgentStatus::Offline,
    }
}

/// Absent: any.
pub(super) fn liveness(field: i32) -> Result<Option<Liveness>, Error> {
    match wire::AgentStatus::try_from(field) {
        Ok(wire::AgentStatus::Unspecified) => Ok(None),
        Ok(wire::AgentStatus::Idle) => Ok(Some(Liveness::Idle)),
        Ok(wire::AgentStatus::Busy) => Ok(Some(Liveness::Busy)),
        Ok(wire::AgentStatus::Degraded) => Ok(Some(Liveness::Degraded)),
        Ok(wire::AgentStatus::Offline) => Ok(Some(Liveness::Offline)),
        Err(_) => Err(Error::invalid_field("status", "unknown_value", "is no status of an agent")),
    }
}

pub(super) fn target(target: Option<wire::select_agents_request::Target>) -> Result<Target, Error> {
    match target {
        Some(wire::select_agents_request::Target::AgentType(name)) => Ok(Target::AgentType(name)),
        Some(wire::select_agents_request::Target::Capability(name)) => Ok(Target::Capability(name)),
        None => Err(Error::invalid_field("target", "missing_field", "must name an agent type or a capability")),
    }
}

pub(super) fn report(report: wire::SessionReport) -> Result<SessionReport, Error> {
    Ok(SessionReport {
        namespace: namespace(&report.namespace)?,
        agent_id: agent_id(&report.agent_id)?,
        session_id: report.session_id,
        in_flight: report.in_flight,
        capacity: report.capacity,
        closed: report.closed,
    })
}
