//! What a registry measures.

/// Gauge: agents by `status`, over all namespaces.
pub(crate) const AGENTS: &str = "troupe_agents";
/// Gauge: agents that are alive, by `agent_type`, over all namespaces.
pub(crate) const ACTIVE_AGENTS: &str = "active_agents_total";
/// Counter: calls of `SelectAgents` that found fewer agents than were asked for.
pub(crate) const SELECTIONS_SHORT: &str = "troupe_agent_selections_short_total";
/// Gauge: 1 while the index follows what other replicas write, 0 while it may be old.
pub(crate) const FOLLOWS: &str = "troupe_registry_follows_changes";
