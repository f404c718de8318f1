-- Who the agents are. Whether they are alive is not here: it is known from their sessions, and forgotten in a restart.
CREATE TABLE agents (
    id           TEXT   NOT NULL CONSTRAINT agents_key PRIMARY KEY,
    namespace    TEXT   NOT NULL,
    agent_type   TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    capabilities TEXT[] NOT NULL,
    -- As text: it is passed on unread, and JSON's order of keys is the agent's own.
    config       TEXT   NOT NULL,
    revision     BIGINT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    updated_at   TIMESTAMPTZ NOT NULL
);
COMMENT ON COLUMN agents.id IS 'agt_…; ids grow with time, so their order is that of creation';
COMMENT ON COLUMN agents.revision IS 'grows by one with every change';

-- Agents are addressed by name too, so a name means one agent. A deleted agent has no row, and its name is free.
CREATE UNIQUE INDEX agents_name_key ON agents (namespace, name);

-- When an agent was last heard of: written now and then in batches, so that a heartbeat costs no commit.
CREATE TABLE agent_health (
    agent_id TEXT NOT NULL CONSTRAINT agent_health_key PRIMARY KEY
        CONSTRAINT agent_health_agent REFERENCES agents (id) ON DELETE CASCADE,
    last_heartbeat_at TIMESTAMPTZ NOT NULL
);
