-- Every accepted message, until retention removes it. A row is inserted before the sender is answered; what becomes of the
-- message is written in batches, at most one update per message and commit.
CREATE TABLE messages (
    -- The order of acceptance: order within a mailbox, order of lists, and the cheapest key to update by.
    sequence INTEGER NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    -- `msg_…`; the sender may choose it.
    id TEXT NOT NULL,
    -- `agt_…`: the mailbox. A capability or type was resolved when the message was accepted.
    agent_id TEXT NOT NULL,
    -- `agt_…`; empty where a client sent it.
    sender TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- JSON text, passed through unread.
    payload BLOB NOT NULL,
    correlation_id TEXT NOT NULL,
    reply_to TEXT NOT NULL,
    priority INTEGER NOT NULL,
    traceparent TEXT NOT NULL,
    -- Microseconds since the Unix epoch, like all times here.
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    -- accepted, queued, delivered, acked or dead.
    status TEXT NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 0,
    delivered_at INTEGER,
    acked_at INTEGER,
    -- When nobody needs the row any more: acked, or dead and purged. Retention counts from here.
    ended_at INTEGER,
    -- JSON lines `{"status","at","detail"}`: appending is part of the update that changes the status.
    history TEXT NOT NULL DEFAULT ''
) STRICT;

-- Sending is idempotent by id, within the namespace.
CREATE UNIQUE INDEX messages_id_key ON messages (namespace, id);
-- Lists of one mailbox, newest first.
CREATE INDEX messages_of_agent ON messages (namespace, agent_id, sequence);
-- Questions and their answers.
CREATE INDEX messages_of_correlation ON messages (namespace, correlation_id, sequence) WHERE correlation_id <> '';
-- A start reads what is unfinished; the index is as small as that.
CREATE INDEX messages_unfinished ON messages (sequence) WHERE status IN ('accepted', 'queued', 'delivered');
-- Retention.
CREATE INDEX messages_ended ON messages (ended_at) WHERE ended_at IS NOT NULL;
