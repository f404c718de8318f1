-- A row may hold several events of an execution, one after the other, as protobuf: an execution that runs for a moment is one row.
-- `sequence` and `at` are those of the first; each has its hash in `data`, and the row has none.
ALTER TABLE execution_events ADD COLUMN count INTEGER NOT NULL DEFAULT 0; -- how many; 0: `data` is the one event itself, as JSON
