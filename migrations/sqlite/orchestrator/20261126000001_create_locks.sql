-- Locks that executions share (`mutex` with the scope `global`, `concurrency_key`): who has one, and who waits for it. A row
-- is made when a lock is asked for and removed when it is given back.
CREATE TABLE locks (
    ticket       INTEGER NOT NULL PRIMARY KEY,          -- the order in which they asked
    key          BLOB    NOT NULL,                      -- a hash of namespace, kind and name, which may be of any length
    name         TEXT    NOT NULL,                      -- for people
    execution_id BLOB    NOT NULL,
    holder       TEXT    NOT NULL,                      -- JSON: the execution, or which unit of it
    shard        INTEGER NOT NULL,                      -- of the execution
    most         INTEGER NOT NULL,                      -- how many hold it at once, as whoever asked says
    granted      INTEGER NOT NULL,
    asked_at     INTEGER NOT NULL,
    CONSTRAINT locks_holder UNIQUE (execution_id, holder, key)
) STRICT;

-- A grant counts those that hold a lock, and goes through those that wait, the first first.
CREATE INDEX locks_held ON locks (key) WHERE granted;
CREATE INDEX locks_waiting ON locks (key, ticket) WHERE NOT granted;
