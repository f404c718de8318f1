-- Tasks and messages that used up their deliveries, expired, or were rejected. Kept until purged or until retention.
CREATE TABLE dead_letters (
    id          TEXT        NOT NULL CONSTRAINT dead_letters_key PRIMARY KEY,
    namespace   TEXT        NOT NULL,
    kind        TEXT        NOT NULL,
    subject_id  TEXT        NOT NULL,
    target      TEXT        NOT NULL,
    reason      TEXT        NOT NULL,
    detail      TEXT        NOT NULL,
    deliveries  INTEGER     NOT NULL,
    payload     BYTEA       NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL,
    replayed_at TIMESTAMPTZ
);
COMMENT ON COLUMN dead_letters.id IS 'dlt_…; ids grow with time, so their order is that of death';
COMMENT ON COLUMN dead_letters.kind IS 'message or task';
COMMENT ON COLUMN dead_letters.subject_id IS 'the message''s or task''s id';
COMMENT ON COLUMN dead_letters.target IS 'agt_…, type:… or capability:…';
COMMENT ON COLUMN dead_letters.reason IS 'delivery_limit, expired, rejected or agent_deleted';
COMMENT ON COLUMN dead_letters.payload IS 'JSON text: the message''s payload or the task''s input';

-- Lists are newest first within a namespace.
CREATE INDEX dead_letters_newest ON dead_letters (namespace, id);
-- The letters of one message: one for each of its deaths.
CREATE INDEX dead_letters_subject ON dead_letters (subject_id);
-- Retention.
CREATE INDEX dead_letters_created ON dead_letters (created_at);
