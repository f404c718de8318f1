//! What a registry measures.

/// Gauge: agents by `status`, over all namespaces.
pub(crate) const AGENTS: &str = "troupe_agents";
/// Counter: calls of `SelectAgents` that found fewer agents than were asked for.
pub(crate) const SELECTIONS_SHORT: &str = "troupe_agent_selections_short_total";
