-- What is committed, one row per commit, before it is put into execution_events and executions. A commit so is one insert at the
-- end of one table, whatever the number of executions in it; what it says is put in its place together with what other commits say
-- of the same executions, and the row deleted, in one transaction.
CREATE TABLE journal (
    number INTEGER NOT NULL PRIMARY KEY,               -- in the order of commits
    data   BLOB    NOT NULL                            -- events and summaries, as protobuf
) STRICT;
