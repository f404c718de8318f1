-- Tasks and messages that used up their deliveries, expired, or were rejected. Kept until purged or until retention.
CREATE TABLE dead_letters (
    -- `dlt_…`; ids grow with time, so their order is that of death.
    id TEXT NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    -- message or task.
    kind TEXT NOT NULL,
    -- The message's or task's id.
    subject_id TEXT NOT NULL,
    -- `agt_…`, `type:…` or `capability:…`.
    target TEXT NOT NULL,
    -- delivery_limit, expired, rejected or agent_deleted.
    reason TEXT NOT NULL,
    -- For people.
    detail TEXT NOT NULL,
    deliveries INTEGER NOT NULL,
    -- JSON text: the message's payload or the task's input.
    payload BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    replayed_at INTEGER
) STRICT;

-- Lists are newest first within a namespace.
CREATE INDEX dead_letters_newest ON dead_letters (namespace, id);
-- The letters of one message: one for each of its deaths.
CREATE INDEX dead_letters_subject ON dead_letters (subject_id);
-- Retention.
CREATE INDEX dead_letters_created ON dead_letters (created_at);
