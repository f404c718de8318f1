-- Locks that executions share (`mutex` with the scope `global`, `concurrency_key`): who has one, and who waits for it. A row
-- is made when a lock is asked for and removed when it is given back. Whoever changes rows of a key holds its advisory lock.
CREATE TABLE locks (
    ticket       BIGINT      GENERATED ALWAYS AS IDENTITY CONSTRAINT locks_key PRIMARY KEY,
    key          BYTEA       NOT NULL,
    name         TEXT        NOT NULL,
    execution_id BYTEA       NOT NULL,
    holder       TEXT        NOT NULL,
    shard        INTEGER     NOT NULL,
    most         INTEGER     NOT NULL,
    granted      BOOLEAN     NOT NULL,
    asked_at     TIMESTAMPTZ NOT NULL,
    CONSTRAINT locks_holder UNIQUE (execution_id, holder, key)
);
COMMENT ON COLUMN locks.ticket IS 'the order in which they asked';
COMMENT ON COLUMN locks.key IS 'a hash of namespace, kind and name, which may be of any length';
COMMENT ON COLUMN locks.name IS 'for people';
COMMENT ON COLUMN locks.holder IS 'JSON: the execution, or which unit of it';
COMMENT ON COLUMN locks.shard IS 'of the execution';
COMMENT ON COLUMN locks.most IS 'how many hold it at once, as whoever asked says';

-- A grant counts those that hold a lock, and goes through those that wait, the first first.
CREATE INDEX locks_held ON locks (key) WHERE granted;
CREATE INDEX locks_waiting ON locks (key, ticket) WHERE NOT granted;
