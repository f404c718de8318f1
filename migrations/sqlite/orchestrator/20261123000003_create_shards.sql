-- Slices of the executions, each written by one replica at a time. The rows are made at the first start; their number never
-- changes afterwards, since it decides which shard an execution belongs to.
CREATE TABLE shards (
    id          INTEGER NOT NULL PRIMARY KEY,          -- from 0
    owner       TEXT    NOT NULL,                      -- rep_… of the replica that holds the lease; empty before the first
    epoch       INTEGER NOT NULL,                      -- one more at every change of owner; every append checks it
    lease_until INTEGER NOT NULL
) STRICT;
