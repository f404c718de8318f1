-- What the gateway remembers of requests that came with an `Idempotency-Key`.
--
-- A record is written before the backend is called, with the id that the new thing will have: a crash between the two
-- leaves a record without an answer, and the client's next try finds the same id. Expired records are removed by the
-- gateway's janitor, and are overwritten where their key comes again.
CREATE TABLE idempotency_records (
    -- The fence: two namespaces may use the same key.
    namespace       TEXT    NOT NULL,
    -- As the client chose it.
    idempotency_key TEXT    NOT NULL,
    -- Method and path; the same key for another route is refused.
    route           TEXT    NOT NULL,
    -- BLAKE3 of the request's body; the same key with another body is refused.
    body_hash       BLOB    NOT NULL,
    -- The id of what the request creates.
    reserved_id     TEXT    NOT NULL,
    -- The answer; NULL until the backend has given one.
    status          INTEGER,
    -- The `Location` of the answer, where it has one.
    location        TEXT,
    -- The answer's JSON.
    response        BLOB,
    -- Microseconds since the Unix epoch.
    created_at      INTEGER NOT NULL,
    -- Microseconds since the Unix epoch.
    expires_at      INTEGER NOT NULL,
    CONSTRAINT idempotency_records_pk PRIMARY KEY (namespace, idempotency_key)
) STRICT, WITHOUT ROWID;

-- For the janitor.
CREATE INDEX idempotency_records_expiry ON idempotency_records (expires_at);
