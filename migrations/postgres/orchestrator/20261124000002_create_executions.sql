-- The summary of an execution: small, since every commit of the execution writes it again. Input, output and the states of
-- steps are in the log only. Partitioned by hash, so that vacuum and indexes work on pieces.
CREATE TABLE executions (
    id               BYTEA       NOT NULL,
    namespace        TEXT        NOT NULL,
    shard            INTEGER     NOT NULL,
    -- No foreign key: it would cost a look-up per commit, and workflows are never deleted.
    workflow_id      TEXT        NOT NULL,
    workflow_name    TEXT        NOT NULL,
    workflow_version INTEGER     NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL,
    status           TEXT        NOT NULL,
    counts           INTEGER[]   NOT NULL,
    failure          TEXT,
    ended_at         TIMESTAMPTZ,
    last_sequence    BIGINT      NOT NULL,
    last_hash        BYTEA       NOT NULL,
    CONSTRAINT executions_key PRIMARY KEY (id)
) PARTITION BY HASH (id);
COMMENT ON COLUMN executions.id IS 'the 16 bytes of exe_…: half of the text, in the same order';
COMMENT ON COLUMN executions.counts IS 'how many steps are in each state, in the order of the states';
COMMENT ON COLUMN executions.failure IS 'JSON: why it failed or was cancelled';
COMMENT ON COLUMN executions.last_hash IS 'of the newest event: cutting the end of a log off shows too';

-- Lists are newest first, in a namespace or of one workflow.
CREATE INDEX executions_newest ON executions (namespace, created_at, id);
CREATE INDEX executions_of_workflow ON executions (namespace, workflow_id, created_at, id);
-- Recovery and the sweeper look for what has not ended; the index is as small as that.
CREATE INDEX executions_live ON executions (shard) WHERE ended_at IS NULL;

-- The log: the truth about every execution; timers and decisions are read off it. Rows are only ever added.
CREATE TABLE execution_events (
    execution_id BYTEA       NOT NULL,
    sequence     BIGINT      NOT NULL,
    at           TIMESTAMPTZ NOT NULL,
    data         BYTEA       NOT NULL,
    hash         BYTEA       NOT NULL,
    CONSTRAINT execution_events_key PRIMARY KEY (execution_id, sequence)
) PARTITION BY HASH (execution_id);
COMMENT ON COLUMN execution_events.sequence IS 'from 1, without gaps';
COMMENT ON COLUMN execution_events.data IS 'the event as JSON, byte for byte what the hash was made of';
COMMENT ON COLUMN execution_events.hash IS 'chains it to all before it';

DO $$
BEGIN
    FOR part IN 0..15 LOOP
        -- Every commit writes summaries again: room on the page keeps the new row next to the old, and the indexes as they are.
        EXECUTE format('CREATE TABLE executions_%s PARTITION OF executions FOR VALUES WITH (MODULUS 16, REMAINDER %s)
                        WITH (fillfactor = 70)', part, part);
        EXECUTE format('CREATE TABLE execution_events_%s PARTITION OF execution_events FOR VALUES WITH (MODULUS 16, REMAINDER %s)', part, part);
    END LOOP;
END $$;
