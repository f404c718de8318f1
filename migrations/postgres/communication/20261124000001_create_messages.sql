-- Every accepted message, until retention removes it. A row is inserted before the sender is answered; what becomes of the
-- message is written in batches, at most one update per message and commit. Partitioned by the day of acceptance: old days are
-- dropped as a whole when they are empty, which costs no vacuum.
CREATE TABLE messages (
    sequence       BIGINT      NOT NULL,
    namespace      TEXT        NOT NULL,
    id             TEXT        NOT NULL,
    agent_id       TEXT        NOT NULL,
    sender         TEXT        NOT NULL,
    kind           TEXT        NOT NULL,
    payload        BYTEA       NOT NULL,
    correlation_id TEXT        NOT NULL,
    reply_to       TEXT        NOT NULL,
    priority       INTEGER     NOT NULL,
    traceparent    TEXT        NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL,
    expires_at     TIMESTAMPTZ,
    status         TEXT        NOT NULL,
    deliveries     INTEGER     NOT NULL DEFAULT 0,
    delivered_at   TIMESTAMPTZ,
    acked_at       TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    history        TEXT        NOT NULL DEFAULT '',
    CONSTRAINT messages_key PRIMARY KEY (sequence, created_at)
) PARTITION BY RANGE (created_at);
COMMENT ON COLUMN messages.sequence IS 'the order of acceptance: within a mailbox, and in lists';
COMMENT ON COLUMN messages.id IS 'msg_…; the sender may choose it';
COMMENT ON COLUMN messages.agent_id IS 'agt_…: the mailbox; a capability or type was resolved at acceptance';
COMMENT ON COLUMN messages.sender IS 'agt_…; empty where a client sent it';
COMMENT ON COLUMN messages.payload IS 'JSON text, passed through unread';
COMMENT ON COLUMN messages.status IS 'accepted, queued, delivered, acked or dead';
COMMENT ON COLUMN messages.ended_at IS 'when nobody needs the row any more: acked, or dead and purged; retention counts from here';
COMMENT ON COLUMN messages.history IS 'JSON lines {"status","at","detail"}: appending is part of the update of the status';

-- What no day's partition takes, because a clock was wrong, must be kept all the same.
CREATE TABLE messages_other_days PARTITION OF messages DEFAULT;

-- Lists of one mailbox, newest first.
CREATE INDEX messages_of_agent ON messages (namespace, agent_id, sequence);
-- Questions and their answers.
CREATE INDEX messages_of_correlation ON messages (namespace, correlation_id, sequence) WHERE correlation_id <> '';
-- A start reads what is unfinished; the index is as small as that.
CREATE INDEX messages_unfinished ON messages (sequence) WHERE status IN ('accepted', 'queued', 'delivered');
-- Retention.
CREATE INDEX messages_ended ON messages (ended_at) WHERE ended_at IS NOT NULL;

-- Sending is idempotent by id, within the namespace. A unique index over days does not exist, so this table is it; and it
-- says where the message is.
CREATE TABLE message_ids (
    namespace  TEXT        NOT NULL,
    id         TEXT        NOT NULL,
    sequence   BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT message_ids_key PRIMARY KEY (namespace, id)
);

-- Makes the partitions of a week from a day on, and drops those of days before it that are empty.
CREATE FUNCTION keep_message_days(today DATE) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    day DATE;
    part RECORD;
    is_empty BOOLEAN;
BEGIN
    FOR day IN SELECT today + days FROM generate_series(-1, 7) AS days LOOP
        -- Making a partition locks the table, and is seldom needed.
        CONTINUE WHEN to_regclass('messages_' || to_char(day, 'YYYYMMDD')) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF messages FOR VALUES FROM (%L) TO (%L)',
                           'messages_' || to_char(day, 'YYYYMMDD'), day, day + 1);
        EXCEPTION WHEN check_violation THEN
            -- Rows of that day are among those of other days; they stay there.
            NULL;
        END;
    END LOOP;
    FOR part IN SELECT child.relname AS name FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
                WHERE inhparent = 'messages'::regclass AND child.relname ~ '^messages_[0-9]{8}$'
                  AND child.relname < 'messages_' || to_char(today - 1, 'YYYYMMDD') LOOP
        EXECUTE format('SELECT NOT EXISTS (SELECT 1 FROM %I)', part.name) INTO is_empty;
        IF is_empty THEN
            EXECUTE format('DROP TABLE %I', part.name);
        END IF;
    END LOOP;
END $$;
