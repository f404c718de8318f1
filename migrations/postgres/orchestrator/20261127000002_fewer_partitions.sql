-- Four partitions instead of sixteen. A commit writes to every partition that one of its executions belongs to, and opens each
-- and its indexes: for sixteen that was a fifth of its cost. The rows are copied, and nobody writes meanwhile.
LOCK TABLE executions, execution_events IN ACCESS EXCLUSIVE MODE;
ALTER TABLE executions RENAME TO old_executions;
ALTER TABLE execution_events RENAME TO old_execution_events;
CREATE TABLE executions (LIKE old_executions INCLUDING DEFAULTS INCLUDING COMMENTS) PARTITION BY HASH (id);
CREATE TABLE execution_events (LIKE old_execution_events INCLUDING DEFAULTS INCLUDING COMMENTS)
    PARTITION BY HASH (execution_id);

-- The names of the old partitions are free only when these are gone.
DO $$
BEGIN
    FOR part IN 0..3 LOOP
        -- Every commit writes summaries again: room on the page keeps the new row next to the old, and the indexes as they are.
        EXECUTE format('CREATE TABLE new_executions_%s PARTITION OF executions FOR VALUES WITH (MODULUS 4, REMAINDER %s)
                        WITH (fillfactor = 70)', part, part);
        EXECUTE format('CREATE TABLE new_execution_events_%s PARTITION OF execution_events
                        FOR VALUES WITH (MODULUS 4, REMAINDER %s)', part, part);
    END LOOP;
END $$;
INSERT INTO executions SELECT * FROM old_executions;
INSERT INTO execution_events SELECT * FROM old_execution_events;
DROP TABLE old_executions, old_execution_events;
DO $$
BEGIN
    FOR part IN 0..3 LOOP
        EXECUTE format('ALTER TABLE new_executions_%s RENAME TO executions_%s', part, part);
        EXECUTE format('ALTER TABLE new_execution_events_%s RENAME TO execution_events_%s', part, part);
    END LOOP;
END $$;

ALTER TABLE executions ADD CONSTRAINT executions_key PRIMARY KEY (id);
ALTER TABLE execution_events ADD CONSTRAINT execution_events_key PRIMARY KEY (execution_id, sequence);
-- Lists are newest first, in a namespace or of one workflow.
CREATE INDEX executions_newest ON executions (namespace, created_at, id);
CREATE INDEX executions_of_workflow ON executions (namespace, workflow_id, created_at, id);
-- Recovery and the sweeper look for what has not ended; the index is as small as that.
CREATE INDEX executions_live ON executions (shard) WHERE ended_at IS NULL;
