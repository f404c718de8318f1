-- What the gateway remembers of requests that came with an `Idempotency-Key`.
--
-- A record is written before the backend is called, with the id that the new thing will have: a crash between the two
-- leaves a record without an answer, and the client's next try finds the same id. Expired records are removed by the
-- gateway's janitor, and are overwritten where their key comes again.
CREATE TABLE idempotency_records (
    namespace       TEXT        NOT NULL,
    idempotency_key TEXT        NOT NULL,
    route           TEXT        NOT NULL,
    body_hash       BYTEA       NOT NULL,
    reserved_id     TEXT        NOT NULL,
    status          INTEGER,
    location        TEXT,
    response        BYTEA,
    created_at      TIMESTAMPTZ NOT NULL,
    expires_at      TIMESTAMPTZ NOT NULL,
    CONSTRAINT idempotency_records_key PRIMARY KEY (namespace, idempotency_key)
);
COMMENT ON COLUMN idempotency_records.namespace IS 'the fence: two namespaces may use the same key';
COMMENT ON COLUMN idempotency_records.route IS 'method and path; the same key for another route is refused';
COMMENT ON COLUMN idempotency_records.body_hash IS 'BLAKE3 of the body; the same key with another body is refused';
COMMENT ON COLUMN idempotency_records.reserved_id IS 'the id of what the request creates';
COMMENT ON COLUMN idempotency_records.status IS 'of the answer; NULL until the backend has given one';

-- For the janitor.
CREATE INDEX idempotency_records_expiry ON idempotency_records (expires_at);
