-- Messages, and where they are on their way.
CREATE TABLE messages (
    -- The order in which messages were accepted, which is the order of a mailbox; a replayed one moves to the end.
    sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- `msg_…`
    id TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    -- Whose mailbox it is in.
    agent_id TEXT NOT NULL,
    -- `accepted`, `queued`, `delivered`, `acked` or `dead`.
    status TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 0,
    -- The message itself, encoded as `troupe.communication.v1.Message`.
    body BLOB NOT NULL,
    -- Microseconds since the Unix epoch, here and below.
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    delivered_at INTEGER,
    acked_at INTEGER
) STRICT;

-- The lists are in the order of acceptance.
CREATE INDEX messages_namespace_idx ON messages (namespace, sequence);
CREATE INDEX messages_agent_idx ON messages (agent_id, sequence);
CREATE INDEX messages_correlation_idx ON messages (correlation_id) WHERE correlation_id <> '';
-- What mailboxes are refilled from, and what the retention removes.
CREATE INDEX messages_pending_idx ON messages (sequence) WHERE status IN ('accepted', 'queued', 'delivered');
CREATE INDEX messages_acked_idx ON messages (acked_at) WHERE status = 'acked';

-- What became of each message, in order.
CREATE TABLE message_history (
    sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    status TEXT NOT NULL,
    at INTEGER NOT NULL,
    -- For people.
    detail TEXT NOT NULL
) STRICT;

CREATE INDEX message_history_message_idx ON message_history (message_id, sequence);
