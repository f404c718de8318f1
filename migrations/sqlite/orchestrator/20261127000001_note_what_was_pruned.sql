-- Earlier runs of an execution are removed once their retention is over. What is removed are all rows of execution_events after
-- the first, up to an event that is noted here: nothing else may be missing, and the next event continues this one's hash.
ALTER TABLE executions ADD COLUMN pruned_to   INTEGER NOT NULL DEFAULT 0;   -- 0: nothing was removed
ALTER TABLE executions ADD COLUMN pruned_hash BLOB    NOT NULL DEFAULT x''; -- of that event
