-- Slices of the executions, each written by one replica at a time. The rows are made at the first start; their number never
-- changes afterwards, since it decides which shard an execution belongs to.
CREATE TABLE shards (
    id          INTEGER     NOT NULL CONSTRAINT shards_key PRIMARY KEY,
    owner       TEXT        NOT NULL,
    epoch       BIGINT      NOT NULL,
    lease_until TIMESTAMPTZ NOT NULL
);
COMMENT ON COLUMN shards.owner IS 'rep_… of the replica that holds the lease; empty where nobody does';
COMMENT ON COLUMN shards.epoch IS 'one more at every change of owner; every append checks it';
COMMENT ON COLUMN shards.lease_until IS 'by the clock of this database, which is the only one that all replicas share';

-- The replicas that live: how many share the shards, and where each is reached.
CREATE TABLE replicas (
    id          TEXT        NOT NULL CONSTRAINT replicas_key PRIMARY KEY,
    address     TEXT        NOT NULL,
    lives_until TIMESTAMPTZ NOT NULL
);
COMMENT ON COLUMN replicas.address IS 'host:port of its gRPC; empty where it runs in the process of its callers';
