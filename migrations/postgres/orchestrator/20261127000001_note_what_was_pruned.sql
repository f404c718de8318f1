-- Earlier runs of an execution are removed once their retention is over. What is removed are all rows of execution_events after
-- the first, up to an event that is noted here: nothing else may be missing, and the next event continues this one's hash.
ALTER TABLE executions
    ADD COLUMN pruned_to   BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN pruned_hash BYTEA  NOT NULL DEFAULT '';
COMMENT ON COLUMN executions.pruned_to IS 'the last event that was removed; 0: none was';
COMMENT ON COLUMN executions.pruned_hash IS 'of that event';
COMMENT ON COLUMN execution_events.sequence IS 'of the first event of the row; from 1, without gaps but for what executions.pruned_to says';
COMMENT ON COLUMN execution_events.data IS 'the events of the row as protobuf, each with its hash; or, where count is 0, the event as JSON';
COMMENT ON COLUMN execution_events.hash IS 'where count is 0: chains the event to all before it';
