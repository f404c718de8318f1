-- The summary of an execution: small, since every commit of the execution writes it again. Input, output and the states of
-- steps are in the log only.
CREATE TABLE executions (
    id               BLOB    NOT NULL PRIMARY KEY,     -- the 16 bytes of exe_…: half of the text, in the same order
    namespace        TEXT    NOT NULL,
    shard            INTEGER NOT NULL,
    workflow_id      TEXT    NOT NULL,                 -- no foreign key: it would cost a look-up per commit and workflows are never deleted
    workflow_name    TEXT    NOT NULL,
    workflow_version INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    status           TEXT    NOT NULL,
    counts           TEXT    NOT NULL,                 -- JSON: how many steps are in each state
    failure          TEXT,                             -- JSON: why it failed or was cancelled
    ended_at         INTEGER,
    last_sequence    INTEGER NOT NULL,                 -- of the newest event
    last_hash        BLOB    NOT NULL                  -- of the newest event: cutting the end of a log off shows too
) STRICT, WITHOUT ROWID;

-- Lists are newest first, in a namespace or of one workflow.
CREATE INDEX executions_newest ON executions (namespace, created_at, id);
CREATE INDEX executions_of_workflow ON executions (namespace, workflow_id, created_at, id);
-- Recovery and the sweeper look for what has not ended; the index is as small as that.
CREATE INDEX executions_live ON executions (shard) WHERE ended_at IS NULL;

-- The log: the truth about every execution; timers and decisions are read off it. Rows are only ever added.
-- Without a rowid an event is one insert into one tree, next to the execution's other events, which is how they are read.
CREATE TABLE execution_events (
    execution_id BLOB    NOT NULL,
    sequence     INTEGER NOT NULL,                     -- from 1, without gaps
    at           INTEGER NOT NULL,
    data         BLOB    NOT NULL,                     -- the event as JSON
    hash         BLOB    NOT NULL,                     -- chains it to all before it
    CONSTRAINT execution_events_key PRIMARY KEY (execution_id, sequence)
) STRICT, WITHOUT ROWID;
