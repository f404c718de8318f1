-- Who the agents are. Whether they are alive is not here: it is known from their sessions, and forgotten in a restart.
CREATE TABLE agents (
    -- `agt_…`; ids grow with time, so their order is that of creation.
    id TEXT NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    agent_type TEXT NOT NULL,
    name TEXT NOT NULL,
    -- A JSON list of texts.
    capabilities TEXT NOT NULL,
    -- A JSON object that the agent itself interprets.
    config TEXT NOT NULL,
    -- Grows by one with every change.
    revision INTEGER NOT NULL,
    -- Microseconds since the Unix epoch.
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- Agents are addressed by name too, so a name means one agent. A deleted agent has no row, and its name is free.
CREATE UNIQUE INDEX agents_name_key ON agents (namespace, name);

-- When an agent was last heard of: written now and then in batches, so that a heartbeat costs no commit.
CREATE TABLE agent_health (
    agent_id TEXT NOT NULL PRIMARY KEY REFERENCES agents (id) ON DELETE CASCADE,
    last_heartbeat_at INTEGER NOT NULL
) STRICT;
