-- Messages and tasks that could not be delivered.
CREATE TABLE dead_letters (
    -- `dlt_…`; ids grow with time.
    id TEXT NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    -- `message` or `task`.
    kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    target TEXT NOT NULL,
    -- `delivery_limit`, `expired` or `rejected`.
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    deliveries INTEGER NOT NULL,
    payload BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    replayed_at INTEGER
) STRICT;

CREATE INDEX dead_letters_namespace_idx ON dead_letters (namespace, id);
