-- The replicas that live: how many share the shards, and where each is reached.
CREATE TABLE replicas (
    id          TEXT    NOT NULL PRIMARY KEY,          -- rep_…
    address     TEXT    NOT NULL,                      -- host:port of its gRPC; empty where it runs in the process of its callers
    lives_until INTEGER NOT NULL
) STRICT;
